"""The terminal sidecar's process: reads the environment, serves until SIGTERM."""

from __future__ import annotations

import os

if __name__ == "__main__" and not os.environ.get("TLS_CERT"):  # before asyncio is imported
    from dozlab.lib import lean

    lean.with_ssl_in_name_only()

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from dozlab.lib import log as logs
from dozlab.lib.errors import DozlabError
from dozlab.terminal_sidecar import memory
from dozlab.terminal_sidecar.settings import HELP, Settings

if TYPE_CHECKING:
    import uvicorn

log = logging.getLogger("dozlab.terminal_sidecar")


def listen(settings: Settings) -> socket.socket:
    """Return the listening socket.

    :raises DozlabError: when the port is taken
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((settings.host, settings.port))
        sock.listen(128)
    except OSError as error:
        sock.close()
        where = f"{settings.host}:{settings.port}"
        raise DozlabError(f"cannot listen on {where}: {error.strerror}", hint="set PORT to a free one") from error
    return sock


def make_server(settings: Settings) -> uvicorn.Server:
    """Return the server over a new sidecar; `server.config.app` is its application.

    :raises DozlabError: when the page is not built
    """
    import uvicorn

    from dozlab.terminal_sidecar import doors
    from dozlab.terminal_sidecar.protocol import MAX_FRAME
    from dozlab.terminal_sidecar.server import Sidecar

    doors.raise_limits()
    sidecar = Sidecar(settings)
    sidecar.ports.bind()
    certificate = sidecar.certificate
    config = uvicorn.Config(
        sidecar.app, log_config=None, access_log=False, lifespan="on", http=doors.Http, ws=doors.WebSockets,
        ssl_context_factory=(lambda *_: certificate.context) if certificate else None,
        ws_per_message_deflate=False, ws_max_size=MAX_FRAME, ws_ping_interval=15.0, ws_ping_timeout=20.0,
        proxy_headers=False, server_header=False, timeout_keep_alive=2, timeout_graceful_shutdown=5,
        h11_max_incomplete_event_size=32 << 10,
    )  # fmt: skip

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield  # ours are the loop's own handlers; uvicorn would raise SIGTERM once more at the end

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                memory.settle()
                sidecar.timeline.add("terminal", "done", f"port {settings.port}")

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            await sidecar.drain()
            await super().shutdown(sockets)

    return Server(config)


def main(argv: list[str] | None = None) -> int:
    """Run the sidecar. Its interface is the environment (`--help` lists it)."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments[:1] == ["share"]:
        return _share(arguments[1:])
    if arguments:
        (sys.stdout if arguments[0] in ("-h", "--help") else sys.stderr).write(HELP)
        return 0 if arguments[0] in ("-h", "--help") else 2
    memory.tune()
    logs.set_up("terminal-sidecar")
    try:
        settings = Settings.from_env()
        for name in ("PASSWORD", "HASHED_PASSWORD"):
            os.environ.pop(name, None)
        # asyncssh asks for a local user's name, which a container's bare uid has not; nothing is sent with it.
        os.environ.setdefault("LOGNAME", "dozlab")
        _serve(settings)
    except DozlabError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


def _share(words: list[str]) -> int:
    from dozlab.terminal_sidecar.people import share

    try:
        return share.main(words)
    except DozlabError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code


def _serve(settings: Settings) -> None:
    from dozlab.lib.timeline import Timeline

    timeline = Timeline(settings.shared_dir)
    try:
        timeline.add("terminal", "start")
    except OSError as error:
        raise DozlabError(f"cannot write {timeline.path}: {error.strerror}", hint="set SHARED_DIR") from error
    import uvloop

    for name in ("uvicorn.error", "uvicorn.access", "asyncssh"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        sock = listen(settings)
        server = make_server(settings)
    except DozlabError as error:
        timeline.add("terminal", "failed", str(error))
        raise
    log.info("session %s: serving %s/ on %s:%d", settings.session_id, settings.base, *sock.getsockname()[:2])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_until_signal(server, sock))


async def _until_signal(server: uvicorn.Server, sock: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT, which end us with status 0."""
    loop = asyncio.get_running_loop()

    def end() -> None:
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    await server.serve([sock])


if __name__ == "__main__":
    raise SystemExit(main())
