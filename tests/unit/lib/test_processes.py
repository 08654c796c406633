"""proc, tasks and the control socket: things with a life."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dozlab.lib import control, proc, tasks
from dozlab.lib.errors import DozlabError


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):  # gone before the open, or before the read
        return False
    return state != "Z"


async def gone(pid: int) -> None:
    """Wait until a process that was killed has ended: the kernel takes its moment under load."""
    async with asyncio.timeout(30):
        while alive(pid):
            await asyncio.sleep(0.05)


def test_run_says_what_failed_in_the_programs_own_words() -> None:
    with pytest.raises(DozlabError, match=r"^sh failed: no way$"):
        proc.run(["sh", "-c", "echo some; echo no way >&2; exit 3"])
    assert proc.run(["sh", "-c", "exit 3"], check=False).code == 3
    with pytest.raises(DozlabError, match="nonexistent-program is not installed"):
        proc.run(["nonexistent-program"])
    with pytest.raises(DozlabError, match="did not end within"):
        proc.run(["sleep", "60"], timeout=0.1)


def test_need_names_the_package() -> None:
    with pytest.raises(DozlabError, match="nope is not installed; run: sudo apt-get install nope-utils"):
        proc.need("nope", "nope-utils")
    assert proc.need("sh", "dash").endswith("/sh")


async def test_a_child_that_ignores_sigterm_is_killed_with_its_group() -> None:
    script = "trap '' TERM; sleep 60 & echo $!; wait; sleep 60"
    child = await proc.Child.start(["sh", "-c", script], name="stubborn", stdout=asyncio.subprocess.PIPE)
    assert child.process.stdout
    grandchild = int(await child.process.stdout.readline())
    assert await child.stop(grace=0.2) == -signal.SIGKILL
    await gone(grandchild)
    assert await child.stop() == -signal.SIGKILL


async def test_a_child_dies_with_us() -> None:
    """Kill a parent outright: the kernel ends its child (PR_SET_PDEATHSIG)."""
    code = (
        "import asyncio, sys\n"
        "from dozlab.lib import proc\n"
        "async def main():\n"
        "    child = await proc.Child.start(['sleep', '60'], name='x')\n"
        "    print(child.pid, flush=True)\n"
        "    await child.wait()\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        assert alive(pid)
        os.kill(parent.pid, signal.SIGKILL)
    await gone(pid)


async def test_starting_what_is_not_there() -> None:
    with pytest.raises(DozlabError, match="x: cannot start /nonexistent: No such file or directory"):
        await proc.Child.start(["/nonexistent"], name="x")


async def test_a_failing_task_is_logged_when_it_fails(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise ValueError("boom")

    task = tasks.start(fail(), name="doomed")
    with caplog.at_level(logging.ERROR):
        await asyncio.wait({task})
    assert "task doomed failed" in caplog.text


async def test_stuck_tasks_are_named(caplog: pytest.LogCaptureFixture) -> None:
    release = asyncio.Event()

    async def stubborn() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    task = tasks.start(stubborn(), name="stubborn")
    await asyncio.sleep(0)
    await tasks.stop([task], timeout=0.05)
    assert "task stubborn did not stop" in caplog.text
    release.set()
    await task


@pytest.fixture
async def socket_path(tmp_path: Path) -> Any:
    async def echo(request: dict[str, Any]) -> dict[str, Any]:
        return {"said": request["word"]}

    async def refuse(_request: dict[str, Any]) -> dict[str, Any]:
        raise DozlabError("not now", hint="wait")

    async def crash(_request: dict[str, Any]) -> dict[str, Any]:
        raise RuntimeError("a bug")

    path = tmp_path / "s"
    server = control.ControlServer(path, {"echo": echo, "refuse": refuse, "crash": crash})
    await server.start()
    yield path
    await server.close()
    assert not path.exists()


async def test_control_socket(socket_path: Path) -> None:
    assert (await control.call(socket_path, "echo", word="hi"))["said"] == "hi"
    with pytest.raises(DozlabError, match="not now; wait"):
        await control.call(socket_path, "refuse")
    with pytest.raises(DozlabError, match="internal error"):
        await control.call(socket_path, "crash")
    with pytest.raises(DozlabError, match="unknown request; verbs: crash, echo, refuse"):
        await control.call(socket_path, "dance")
    assert oct(socket_path.stat().st_mode & 0o777) == "0o600"


async def test_control_socket_survives_rubbish(socket_path: Path) -> None:
    reader, writer = await asyncio.open_unix_connection(str(socket_path))
    writer.write(b'\xff\xfe rubbish\n[]\n{"v": 2, "verb": "echo"}\n')
    for _ in range(3):
        assert b'"ok": false' in await reader.readline()
    writer.write(b"x" * (2 << 20))
    try:
        await writer.drain()
        assert await reader.read() == b""
    except ConnectionError:
        pass
    writer.close()
    assert (await control.call(socket_path, "echo", word="still here"))["said"] == "still here"


async def test_nobody_answers(tmp_path: Path) -> None:
    with pytest.raises(DozlabError, match="nobody answers on"):
        await control.call(tmp_path / "none", "status")
