"""The verbs of a running machine, asked of a control socket as firecracker-vm serves one."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dozlab.firecracker_vm.__main__ import main
from dozlab.lib.control import ControlServer
from dozlab.lib.errors import DozlabError

CHECKPOINT = {"name": "one", "created": 1.0, "size": 5 << 20}


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str]]]:
    """Serve the verbs in a thread; return what is asked."""
    monkeypatch.setenv("SHARED_DIR", str(tmp_path))
    seen: list[tuple[str, str]] = []

    async def answer(request: dict[str, Any]) -> dict[str, Any]:
        seen.append((request["verb"], request["name"]))
        if request["name"] == "nothing":
            raise DozlabError("no checkpoint nothing; there are: one")
        return {"state": "running", "checkpoints": [CHECKPOINT]}

    loop = asyncio.new_event_loop()
    verbs = dict.fromkeys(("status", "pause", "resume", "checkpoint", "reset", "forget"), answer)
    server = ControlServer(tmp_path / "vm.sock", verbs)
    loop.run_until_complete(server.start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield seen
    asyncio.run_coroutine_threadsafe(server.close(), loop).result(60)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.mark.parametrize(
    ("words", "request_", "printed"),
    [
        (["pause"], ("pause", ""), "the machine is running\n"),
        (["checkpoint", "one"], ("checkpoint", "one"), "checkpoint one: 5.0 MiB\n"),
        (["reset"], ("reset", ""), "going back to the clean image\n"),
        (["reset", "one"], ("reset", "one"), "going back to checkpoint one\n"),
        (["forget", "one"], ("forget", "one"), "checkpoint one is removed\n"),
    ],
)
def test_verbs(
    asked: list[tuple[str, str]],
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    request_: tuple[str, str],
    printed: str,
) -> None:
    assert main(words) == 0
    assert asked == [request_]
    assert capsys.readouterr().out == printed


def test_status_is_json(asked: list[tuple[str, str]], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == 0
    assert json.loads(capsys.readouterr().out) == {"state": "running", "checkpoints": [CHECKPOINT]}


def test_a_refusal_is_one_line(asked: list[tuple[str, str]], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reset", "nothing"]) == 1
    assert capsys.readouterr().err == "firecracker-vm: no checkpoint nothing; there are: one\n"


def test_nobody_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SHARED_DIR", str(tmp_path))
    assert main(["pause"]) == 1
    assert "nobody answers on" in capsys.readouterr().err
