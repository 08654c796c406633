"""`dozlab share`: what it asks the session's terminal, and what it prints; the terminal is a stand-in."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from dozlab.cli.main import cli
from dozlab.lib import files
from dozlab.lib.control import ControlServer
from dozlab.lib.errors import BadUsage, DozlabError
from dozlab.session import state
from dozlab.session.layout import Layout
from dozlab.session.ports import Ports

pytestmark = pytest.mark.usefixtures("home")


class Terminal:
    """A session that is said to run, with the socket of its terminal."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.asked: list[dict[str, Any]] = []

    def values(self, **terminal: object) -> None:
        files.write_json(self.layout.values, {"session": {"id": "lab"}, "terminal": terminal})

    async def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(request)
        listed = {"id": "ab12", "role": "viewer", "name": "", "used": True, "left": 7199}
        return {"path": "join#ticket", "invitations": [listed, {**listed, "name": "Ada", "used": False, "left": 61}]}

    def serve(self, started: threading.Event, end: threading.Event) -> None:
        async def run() -> None:
            verbs = dict.fromkeys(("share", "shares", "unshare"), self._answer)
            server = ControlServer(self.layout.shared / "terminal.sock", verbs)
            await server.start()
            started.set()
            await asyncio.to_thread(end.wait)
            await server.close()

        asyncio.run(run())


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, home: Path) -> Iterator[Terminal]:
    run = Path(tempfile.mkdtemp(prefix="dozlab-test."))  # a socket's path is at most 107 bytes (unix(7))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(run))
    layout = Layout("lab")
    for folder in (layout.state, layout.shared):
        folder.mkdir(parents=True)
    state.Facts("lab", Ports(8080, 18081, 2222), "127.0.0.1", None, 1, 0.0).save(layout.facts)
    monkeypatch.setattr(state, "alive", lambda layout: True)
    there = Terminal(layout)
    there.values()
    started, end = threading.Event(), threading.Event()
    thread = threading.Thread(target=there.serve, args=(started, end))
    thread.start()
    assert started.wait(60)
    yield there
    end.set()
    thread.join(60)
    shutil.rmtree(run)


def run(*words: str) -> str:
    done = CliRunner().invoke(cli, ["share", "lab", *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_link_is_printed_alone(terminal: Terminal) -> None:
    assert run() == "http://127.0.0.1:18081/join#ticket\n"
    assert (
        run("--role", "editor", "--name", "Ben", "--expires", "30m", "--url", "https://l/x")
        == "https://l/x/join#ticket\n"
    )
    asked = [{key: each[key] for key in ("verb", "role", "name", "seconds")} for each in terminal.asked]
    assert asked == [
        {"verb": "share", "role": "viewer", "name": "", "seconds": 7200},
        {"verb": "share", "role": "editor", "name": "Ben", "seconds": 1800},
    ]


def test_the_link_is_where_others_reach_the_terminal(terminal: Terminal) -> None:
    terminal.values(basePath="/labs/x")
    assert run() == "http://127.0.0.1:18081/labs/x/join#ticket\n"
    terminal.values(basePath="/labs/x", allowedOrigins=["https://lab.example"])
    assert run() == "https://lab.example/labs/x/join#ticket\n"


def test_invitations_are_listed_and_revoked(terminal: Terminal) -> None:
    assert [line.split() for line in run("--ls").splitlines()] == [
        ["ID", "ROLE", "NAME", "STATE", "ENDS", "IN"],
        ["ab12", "viewer", "-", "used", "2", "h", "0", "min"],
        ["ab12", "viewer", "Ada", "open", "2", "min"],
    ]
    assert run("--revoke", "ab12") == "ab12 is revoked\n"
    assert (terminal.asked[-1]["verb"], terminal.asked[-1]["id"]) == ("unshare", "ab12")


@pytest.mark.parametrize("words", [["--expires", "soon"], ["--url", "lab.example"], ["--url", "https://a/?b"]])
def test_what_is_no_time_and_no_address_changes_nothing(terminal: Terminal, words: list[str]) -> None:
    with pytest.raises(BadUsage):
        run(*words)
    assert terminal.asked == []


def test_a_session_that_does_not_run_is_named(home: Path) -> None:
    Layout("lab").state.mkdir(parents=True)
    with pytest.raises(DozlabError, match="session lab is not running; start it: dozlab up lab"):
        run()
