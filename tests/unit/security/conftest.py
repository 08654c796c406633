"""The sidecar's application without sockets, and the same as a process: for one test per line of the promise."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import dozlab
from dozlab.terminal_sidecar.server import Sidecar as Application
from dozlab.terminal_sidecar.settings import Settings
from tests.unit.terminal_sidecar.conftest import PASSWORD, Guest, Sidecar, guest, page, sidecar

__all__ = ["guest", "page", "sidecar"]

HOST = "lab.example:8081"
ORIGIN = f"http://{HOST}"
TREE = Path(dozlab.__file__).parents[2]
"""The source tree under test: a copy of the repository when a defence was taken out of it (tools/defences.py)."""
LOGIN = f"password={PASSWORD.replace(' ', '+')}".encode()


@dataclass
class Reply:
    """An answer; `headers` by lower-case name, the last one wins."""

    status: int
    headers: dict[str, str]
    cookies: list[str]
    body: bytes

    def cookie(self) -> str:
        """Return what a browser would send from now on."""
        return "; ".join(line.split(";")[0] for line in self.cookies)


class _Wire:
    """The socket under an accepted WebSocket (quick.Wire), which takes nothing more."""

    open = False
    on_writable = None
    transport = SimpleNamespace(write=None)

    def begin(self, take: object) -> None: ...

    def end(self) -> None: ...


@dataclass
class Visitor:
    """Somebody who talks to the application from an address of their own."""

    app: Any
    address: str = "192.0.2.1"
    scheme: str = "http"
    headers: dict[str, str] = field(default_factory=lambda: {"Host": HOST, "Origin": ORIGIN})

    def scope(self, kind: str, path: str, **headers: str) -> dict[str, Any]:
        """Return a scope; a header of the value "" is left out."""
        given = self.headers | {name.replace("_", "-"): value for name, value in headers.items()}
        path, _, query = path.partition("?")
        return {
            "type": kind, "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": self.scheme, "root_path": "",
            "path": path, "raw_path": path.encode(), "query_string": query.encode(), "server": ("127.0.0.1", 8081),
            "client": (self.address, 50000), "state": {},
            "headers": [(name.lower().encode(), value.encode()) for name, value in given.items() if value],
        }  # fmt: skip

    async def ask(self, path: str, *, method: str = "GET", body: bytes = b"", **headers: str) -> Reply:
        """Return the answer to a request."""
        start: dict[str, Any] = {}
        content = b""
        parts: list[dict[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if not parts:
                await asyncio.Event().wait()
            return parts.pop()

        async def send(message: dict[str, Any]) -> None:
            nonlocal content
            if message["type"] == "http.response.start":
                start.update(message)
            else:
                content += message.get("body", b"")

        await self.app(self.scope("http", path, **headers) | {"method": method}, receive, send)
        found = [(name.decode().lower(), value.decode()) for name, value in start["headers"]]
        cookies = [value for name, value in found if name == "set-cookie"]
        return Reply(start["status"], dict(found), cookies, content)

    async def log_in(self, body: bytes = LOGIN, **headers: str) -> Reply:
        """Return the answer to the login form."""
        return await self.ask("/login", method="POST", body=body, **headers)

    async def knock(self, path: str = "/ws", *, stay: asyncio.Event | None = None, **headers: str) -> int:
        """Ask for a WebSocket; return 101 when it was accepted, else the status of the refusal.

        :param stay: leave only when this is set; without it, at once
        """
        status = 0
        messages: list[dict[str, Any]] = [{"type": "websocket.disconnect", "code": 1001}, {"type": "websocket.connect"}]

        async def receive() -> dict[str, Any]:
            if stay is not None and len(messages) == 1:
                await stay.wait()
            return messages.pop() if len(messages) > 1 else messages[0]

        async def send(message: dict[str, Any]) -> None:
            nonlocal status
            if message["type"] == "websocket.accept":
                status = 101
            elif message["type"] == "websocket.http.response.start":
                status = message["status"]

        extra = {"subprotocols": [], "extensions": {"websocket.http.response": {}}, "state": {"wire": _Wire()}}
        await self.app(self.scope("websocket", path, **headers) | extra, receive, send)
        return status


@dataclass
class Lab:
    """Makes applications."""

    folder: Path
    page: Path
    now: float = 1000.0

    def clock(self) -> float:
        """Return the time, which stands still unless a test moves it."""
        return self.now

    def sidecar(self, **settings: Any) -> Application:
        """Return a sidecar whose guest never answers."""
        known: dict[str, Any] = {
            "session_id": "lab1",
            "password": PASSWORD,
            "shared_dir": self.folder,
            "page_dir": self.page,
        }
        return Application(Settings(**(known | settings)), clock=self.clock)

    def visitor(self, **settings: Any) -> Visitor:
        """Return somebody at a new sidecar."""
        return Visitor(self.sidecar(**settings).app)


@pytest.fixture
def lab(tmp_path: Path, page: Path) -> Lab:
    return Lab(tmp_path, page)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, page: Path) -> Iterator[Sidecar]:
    """Return a sidecar as a process, shared by a module's tests, before a guest with real shells."""
    folder = tmp_path_factory.mktemp("running")
    machine = Guest(folder)
    machine.boot()
    server = Sidecar(folder, machine.port, page, LOG_LEVEL="debug")
    try:
        server.until("/ready", 200)
        yield server
    finally:
        assert server.stop() == 0
        machine.switch_off()
