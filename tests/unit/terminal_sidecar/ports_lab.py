"""Servers of the guest, and a browser at the proxy that leads to them."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from tests.support import free_port
from tests.unit.terminal_sidecar.conftest import Guest, Sidecar

Handler = Callable[[socket.socket, bytes], None]


class App:
    """A server in the guest: reads a request's head and does as it is told."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.heads: list[bytes] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=[self._socket.accept()[0]], daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            sock.settimeout(60)
            head = b""
            while b"\r\n\r\n" not in head and (data := sock.recv(1)):
                head += data
            self.heads.append(head)
            self.handler(sock, head)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


class Lab:
    """A sidecar with a proxy, and a browser that is logged in there."""

    def __init__(self, shared: Path, guest: Guest, page: Path, **environ: str) -> None:
        self.port = free_port()
        self.sidecar = Sidecar(shared, guest.port, page, PORTS_PORT=str(self.port), **environ)
        self.sidecar.until("/ready", 200)
        self.origin = f"http://localhost:{self.port}"
        self.cookie = self.sidecar.login()[1]

    def open(self, port: int) -> str:
        """Follow the panel's link, as the entry page does; return the cookie."""
        status, found, _ = self.sidecar.request("GET", f"/ports/{port}/open", headers={"Cookie": self.cookie})
        assert status == 303
        link = urlsplit(found["location"])
        assert (f"{link.scheme}://{link.netloc}", link.path) == (self.origin, "/.dozlab/enter")
        status, found, _ = self.ask("POST", link.path, link.fragment.encode(), Origin=self.origin)
        assert status == 200
        set_cookie = found["set-cookie"]
        assert set_cookie.endswith("; Path=/; Max-Age=43200; HttpOnly; SameSite=Lax")
        return set_cookie.split(";")[0]

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | Iterator[bytes] | None = None,
        more: dict[str, str] | None = None,
        **headers: str,
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=100)
        try:
            connection.request(method, path, body, {"Host": f"localhost:{self.port}", **headers, **(more or {})},
                               encode_chunked=not isinstance(body, bytes | None))  # fmt: skip
            reply = connection.getresponse()
            return reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read()
        finally:
            connection.close()

    def raw(self) -> socket.socket:
        """Return a connection of one's own."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)
