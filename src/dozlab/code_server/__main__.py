"""`python -m dozlab.code_server`: VS Code in the browser, and the workspace for the guest."""

from __future__ import annotations

if __name__ == "__main__":  # before asyncio is imported
    from dozlab.lib import lean

    lean.without_openssl()

import asyncio
import os
import signal
import sys
from pathlib import Path

from dozlab.code_server import sandbox
from dozlab.code_server.bridge import Bridge
from dozlab.code_server.launch import Editor, log
from dozlab.code_server.settings import Settings
from dozlab.lib import log as logs
from dozlab.lib import tasks
from dozlab.lib.errors import DozlabError
from dozlab.lib.timeline import Timeline
from dozlab.lib.units import format_seconds

_HELP = """\
Settings come from the environment: SESSION_ID, PASSWORD_FILE (or PASSWORD, HASHED_PASSWORD), PORT (8080),
VSCODE_DATA, WORKSPACE_DIR (VM_DATA/workspace), WORKSPACE_SIZE, WORKSPACE_READ_ONLY, WORKSPACE_PORT (5540), GATEWAY_IP,
VM_IP, SANDBOX (none, bwrap), CODE_SERVER_DIR, NODE_BIN, DOCKER_CLI_DIR, SFTP_SERVER. See ARCHITECTURE.md.
"""


async def _run(settings: Settings, *, editor: bool, bridge: bool) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    if settings.sandbox == "bwrap" and sandbox.is_real_root(os.geteuid(), Path("/proc/self/uid_map").read_text()):
        raise DozlabError("code-server must not run as root", hint="start it under another uid: setpriv --reuid ...")
    timeline = Timeline(settings.shared) if settings.shared and editor else None
    parts = Editor(settings), Bridge(settings)
    serving = tasks.start(_serve(parts, timeline, editor=editor, bridge=bridge), name="code-server", guard=False)
    stop = tasks.start(stopped.wait(), name="signal", guard=False)
    try:
        await asyncio.wait({serving, stop}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            await serving
    except DozlabError as error:
        if timeline:
            timeline.add("editor", "failed", error.message)
        raise
    finally:
        await tasks.stop([serving, stop])
        await parts[1].close()
        await parts[0].stop()


async def _serve(parts: tuple[Editor, Bridge], timeline: Timeline | None, *, editor: bool, bridge: bool) -> None:
    if timeline:
        timeline.add("editor", "start")
    if bridge:
        await parts[1].start()
    if not editor:
        await asyncio.Event().wait()
    spent = await parts[0].start()
    if timeline:
        timeline.add("editor", "done", f"healthy after {format_seconds(spent)}")
    log.info("code-server is healthy after %s", format_seconds(spent))
    await parts[0].wait()


def _only(words: list[str]) -> str | None:
    if not words:  # as in a session: argparse stays out of memory
        return None
    import argparse

    parser = argparse.ArgumentParser(
        "code-server", description="VS Code in the browser, and the workspace for the guest.", epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--only", choices=["editor", "bridge"], help="one half, as two containers of a Pod need it")
    only: str | None = parser.parse_args(words).only
    return only


def main(argv: list[str] | None = None) -> int:
    """Run until SIGTERM (status 0) or until the editor dies (status 1)."""
    only = _only(sys.argv[1:] if argv is None else argv)
    logs.set_up("code-server")
    try:
        asyncio.run(_run(Settings.from_env(), editor=only != "bridge", bridge=only != "editor"))
    except DozlabError as error:
        sys.stderr.write(f"code-server: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
