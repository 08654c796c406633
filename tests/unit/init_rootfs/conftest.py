"""A real HTTP server that can misbehave, a small real ext4 image, and an environment for one session."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import ipaddress
import itertools
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from dozlab.lib.proc import need, run

READ_ONLY = "mount --bind . .; mount -o remount,bind,ro $PWD"
"""For `mounted`: the folder as it is, and nobody may write to it."""


@contextlib.contextmanager
def mounted(folder: Path, how: str) -> Iterator[Path]:
    """Yield a folder as a mount namespace of its own has it, after `how`; the mounts end with the process in there."""
    argv = ["setpriv", "--pdeathsig", "KILL", "unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    with subprocess.Popen(
        [*argv, f"set -e; cd {folder}; {how}; echo done; read end"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdin and child.stdout
        assert child.stdout.readline() == b"done\n"
        yield Path(f"/proc/{child.pid}/root{folder}")
        child.stdin.close()


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
    flips: int = 0
    """In so many answers, flip a bit in the middle of what is sent."""
    need: str = ""
    """The Authorization header without which there is only a 401, with `challenge`."""
    challenge: str = ""
    stall: bool = False
    """Send a byte, then nothing more, until the server ends."""
    pace: tuple[int, float] | None = None
    """Send so many bytes, then nothing for so many seconds, and so on."""
    drip: str = ""
    """Send `head` or `body` byte by byte, never all of it."""


class Server(ThreadingHTTPServer):
    """Says nothing of clients that hang up: here they do it on purpose."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Web:
    """The server; `pages` by path, `seen` the requests so far as (path, headers)."""

    def __init__(self) -> None:
        self.pages: dict[str, Page] = {}
        self.sent = 0
        """Bytes of bodies sent so far."""
        self.over = threading.Event()
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

    def close(self) -> None:
        """End it, and whoever waits for an answer."""
        self.over.set()
        for page in self.pages.values():
            if page.hold:
                page.hold.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.seen.append((handler.path, {k.lower(): v for k, v in handler.headers.items()}))
        page = self.pages.get(handler.path, Page(status=404))
        body, status = page.body, page.status
        sent = handler.headers
        headers = page.headers
        if page.need and sent.get("Authorization") != page.need:
            body, status, headers = b"", 401, {"WWW-Authenticate": page.challenge} if page.challenge else {}
        etag = page.headers.get("ETag")
        if etag and sent.get("If-None-Match") == etag:
            body, status = b"", 304
        if page.drip == "head":
            self.trickle(handler, b"HTTP/1.1 200 OK\r\nX-Slow: ", b"a")
            return
        start = 0
        if status == 200 and page.ranges and "Range" in sent and sent.get("If-Range", etag) == etag:
            first, last = sent["Range"].removeprefix("bytes=").split("-")
            start, status, end = int(first), 206, int(last) + 1 if last else len(body)
            span = f"bytes {start}-{min(end, len(body)) - 1}/{len(body)}"
            body = body[start:end]
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        if status == 206:
            handler.send_header("Content-Range", span)
        if status != 304:
            handler.send_header("Content-Length", str(page.claim if page.claim is not None else len(body)))
        handler.end_headers()
        if page.flips > 0 and body:
            page.flips -= 1
            middle = len(body) // 2
            body = body[:middle] + bytes([body[middle] ^ 4]) + body[middle + 1 :]
        with contextlib.suppress(ConnectionError):
            self.send(handler, page, body, start)
        if page.claim is not None:
            handler.close_connection = True

    def send(self, handler: BaseHTTPRequestHandler, page: Page, body: bytes, start: int) -> None:
        if page.cut_at is not None and page.cuts > 0 and start <= page.cut_at < start + len(body):
            page.cuts -= 1
            body = body[: page.cut_at - start]
            handler.close_connection = True
        elif page.drip:
            self.trickle(handler, b"", body)
            return
        elif page.stall:
            body = body[:1]
        elif page.hold:
            half = len(body) // 2
            handler.wfile.write(body[:half])
            handler.wfile.flush()
            page.hold.wait(30)
            body = body[half:]
        elif page.pace:
            while len(body) > page.pace[0]:
                handler.wfile.write(body[: page.pace[0]])
                body = body[page.pace[0] :]
                self.over.wait(page.pace[1])
        self.sent += len(body)
        try:
            handler.wfile.write(body)
        except ConnectionError:
            handler.close_connection = True
            raise
        if page.stall:
            handler.wfile.flush()
            self.over.wait(30)

    def trickle(self, handler: BaseHTTPRequestHandler, begin: bytes, then: bytes) -> None:
        """Send `begin`, then a byte of `then` after another until the client has had enough."""
        handler.close_connection = True
        with contextlib.suppress(ConnectionError):
            handler.wfile.write(begin)
            for at in itertools.count():
                if self.over.wait(0.01):
                    return
                handler.wfile.write(then[at % len(then) :][:1])


@pytest.fixture
def web() -> Iterator[Web]:
    web = Web()
    web.thread.start()
    try:
        yield web
    finally:
        web.close()


@dataclass(frozen=True)
class Certificate:
    """Files of a server on 127.0.0.1 and localhost: its certificate and key, and the CA that signed it."""

    cert: Path
    key: Path
    ca: Path


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    folder = tmp_path_factory.mktemp("tls")
    keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("ca", "server")}
    names = {name: x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]) for name in keys}
    now = datetime.datetime.now(datetime.UTC)
    hosts = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
    for name, extension in (
        ("ca", x509.BasicConstraints(ca=True, path_length=None)),
        ("server", x509.SubjectAlternativeName(hosts)),
    ):
        made = (
            x509.CertificateBuilder(names["ca"], names[name], keys[name].public_key(), x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(extension, critical=False)
            .sign(keys["ca"], hashes.SHA256())
        )
        (folder / f"{name}.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "server.key").write_bytes(
        keys["server"].private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return Certificate(folder / "server.pem", folder / "server.key", folder / "ca.pem")


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
