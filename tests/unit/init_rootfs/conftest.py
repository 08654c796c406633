"""A real HTTP server that can misbehave, a small real ext4 image, and an environment for one session."""

from __future__ import annotations

import hashlib
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from dozlab.lib.proc import need, run


@dataclass
class Page:
    """One path of the server: what it sends, and how it misbehaves."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut_at: int | None = None
    """Close the connection after so many bytes of the body, `cuts` times."""
    cuts: int = 1_000
    ranges: bool = False
    claim: int | None = None
    """Content-Length to claim instead of the true one."""
    hold: threading.Event | None = None
    """Send half, then wait for this."""


class Server(ThreadingHTTPServer):
    """Says nothing of clients that hang up: here they do it on purpose."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Web:
    """The server; `pages` by path, `seen` the requests so far as (path, headers)."""

    def __init__(self) -> None:
        self.pages: dict[str, Page] = {}
        self.seen: list[tuple[str, dict[str, str]]] = []
        web = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                web.answer(self)

        self.server = Server(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.seen.append((handler.path, {k.lower(): v for k, v in handler.headers.items()}))
        page = self.pages.get(handler.path, Page(status=404))
        body, status = page.body, page.status
        sent = handler.headers
        etag = page.headers.get("ETag")
        if etag and sent.get("If-None-Match") == etag:
            body, status = b"", 304
        start = 0
        if page.ranges and "Range" in sent and sent.get("If-Range") == etag:
            start, status = int(sent["Range"].removeprefix("bytes=").rstrip("-")), 206
            body = body[start:]
        handler.send_response(status)
        for name, value in page.headers.items():
            handler.send_header(name, value)
        if status != 304:
            handler.send_header("Content-Length", str(page.claim if page.claim is not None else len(body)))
        handler.end_headers()
        try:
            if page.cut_at is not None and page.cuts > 0:
                page.cuts -= 1
                handler.wfile.write(body[: page.cut_at - start])
                handler.close_connection = True
                return
            if page.hold:
                handler.wfile.write(body[: len(body) // 2])
                handler.wfile.flush()
                page.hold.wait(30)
                body = body[len(body) // 2 :]
            handler.wfile.write(body)
        except ConnectionError:
            handler.close_connection = True
        if page.claim is not None:
            handler.close_connection = True


@pytest.fixture
def web() -> Iterator[Web]:
    web = Web()
    web.thread.start()
    try:
        yield web
    finally:
        for page in web.pages.values():
            if page.hold:
                page.hold.set()
        web.server.shutdown()
        web.thread.join()
        web.server.server_close()


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A 4 MiB ext4 image with some content and many zeros."""
    folder = tmp_path_factory.mktemp("image")
    (folder / "root").mkdir()
    (folder / "root" / "noise").write_bytes(hashlib.shake_256(b"x").digest(300_000))
    path = folder / "base.ext4"
    with path.open("wb") as file:
        file.truncate(4 << 20)
    run([need("mke2fs", "e2fsprogs"), "-q", "-F", "-t", "ext4", "-d", folder / "root", path])
    return path.read_bytes()


@pytest.fixture
def environ(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Return a function that makes one session's environment in tmp_path."""
    for name in ("kernels", "vm-data", "shared"):
        (tmp_path / name).mkdir()

    def make(**extra: str) -> dict[str, str]:
        return {
            "SESSION_ID": "alpha",
            "KERNELS_DIR": str(tmp_path / "kernels"),
            "VM_DATA": str(tmp_path / "vm-data"),
            "SHARED_DIR": str(tmp_path / "shared"),
            "DNS_SERVERS": "192.0.2.53",
            "IMAGE_SIZE": "64M",
            **extra,
        }

    return make
