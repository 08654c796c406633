"""A guest and a sidecar as real processes, and a client that speaks the protocol."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from dozlab.terminal_sidecar import protocol as p
from tests.support import free_port

GUEST = Path(__file__).with_name("guest_sshd.py")
PASSWORD = "correct horse"


class Guest:
    """The SSH server that stands in for the guest."""

    def __init__(self, shared: Path) -> None:
        self.shared, self.port = shared, free_port()
        self.home = shared / "guest-home"
        """Where shells and transfers begin."""
        self._process: subprocess.Popen[bytes] | None = None

    def boot(self) -> None:
        argv = [sys.executable, str(GUEST), str(self.shared), str(self.port)]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline().strip() == str(self.port).encode()

    def freeze(self) -> None:
        """Stand still, as a paused machine does."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def tell(self, state: str, **fields: object) -> None:
        """Write vm.json as firecracker-vm does."""
        fresh = self.shared / ".vm.json"
        fresh.write_text(
            json.dumps({"reason": "", "paused": "", "boots": 1, "how": "boot", "name": "", "state": state} | fields)
        )
        fresh.rename(self.shared / "vm.json")

    def switch_off(self) -> None:
        if self._process is not None:
            assert self._process.stdin is not None and self._process.stdout is not None
            self.thaw()
            self._process.stdin.close()
            self._process.wait(60)
            self._process.stdout.close()
            self._process = None


class Sidecar:
    """The program itself, as a process on a port of its own."""

    program: tuple[str, ...] = ("-m", "dozlab.terminal_sidecar")
    """Words for Python."""

    def __init__(self, shared: Path, guest_port: int, page: Path, **environ: str) -> None:
        self.port, self.session, self.page = (
            int(environ.get("PORT") or free_port()),
            environ.get("SESSION_ID", "lab1"),
            page,
        )
        self.origin = f"http://127.0.0.1:{self.port}"
        self.base = environ.get("BASE_PATH", "")
        self._log = (shared / f"sidecar-{self.port}.log").open("a")
        env = {
            "PATH": os.environ["PATH"], "SESSION_ID": self.session, "PASSWORD": PASSWORD, "SHARED_DIR": str(shared),
            "VM_IP": "127.0.0.1", "VM_SSH_PORT": str(guest_port), "HOST": "127.0.0.1", "PORT": str(self.port),
            "PAGE_DIR": str(page), "PYTHONPATH": os.environ.get("PYTHONPATH", ""), **environ,
        }  # fmt: skip
        argv = [sys.executable, *self.program]
        self.process = subprocess.Popen(argv, env=env, stderr=self._log)
        self.until("/health", 200)

    def log(self) -> str:
        return Path(self._log.name).read_text()  # opened anew: the process shares the place of `_log`

    def request(
        self, method: str, path: str, body: str | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers (lower case; cookies joined) and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, headers or {})
            reply = connection.getresponse()
            found: dict[str, str] = {}
            for name, value in reply.getheaders():
                found[name.lower()] = f"{found[name.lower()]}\n{value}" if name.lower() in found else value
            return reply.status, found, reply.read()
        finally:
            connection.close()

    def until(self, path: str, status: int, seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while True:
            with contextlib.suppress(OSError):
                found = self.request("GET", path)[0]
                if found == status:
                    return
            assert self.process.poll() is None, f"the sidecar has ended: {self.log()}"
            assert time.monotonic() < end, f"{path} does not answer {status}: {self.log()}"
            time.sleep(0.05)

    def login(self, password: str = PASSWORD, **headers: str) -> tuple[int, str]:
        """Return status and the cookies to send from now on."""
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        body = urlencode({"password": password})
        status, found, _ = self.request("POST", f"{self.base}/login", body, kind | headers)
        lines = found.get("set-cookie", "").splitlines()
        return status, "; ".join(line.split(";")[0] for line in lines)

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        self._log.close()
        return code


class Terminal:
    """A client: keeps what it has seen of the output, acknowledges as it goes unless told not to."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.epoch, self.received, self.text = "", 0, b""
        self.frames: list[p.ServerFrame] = []
        self.acking = True

    async def send(self, frame: p.ClientFrame) -> None:
        await self.socket.send(p.encode_client(frame))

    async def type(self, text: str) -> None:
        await self.send(p.Input(text.encode()))

    async def take(self) -> p.ServerFrame:
        message = await self.socket.recv()
        assert isinstance(message, bytes)
        frame = p.decode_server(message)
        self.frames.append(frame)
        if frame.kind == p.WELCOME:
            assert frame.fields is not None
            self.epoch = frame.fields["epoch"]
        elif frame.kind == p.REPLAY_BEGIN:
            if frame.reset:
                self.received, self.text = frame.offset, frame.data
            assert frame.offset == self.received
        elif frame.kind == p.OUTPUT:
            assert frame.offset == self.received, "a gap, or bytes twice"
            self.received += len(frame.data)
            self.text = (self.text + frame.data)[-4_000_000:]
            if self.acking:
                await self.send(p.Ack(self.received, self.received))
        return frame

    async def until(self, wanted: bytes, seconds: float = 60.0) -> None:
        """Read until the output holds `wanted`."""
        try:
            async with asyncio.timeout(seconds):
                while wanted not in self.text:
                    await self.take()
        except TimeoutError:
            pytest.fail(f"no {wanted!r} in the output: ...{self.text[-600:]!r}")

    async def until_frame(self, kind: int, seconds: float = 60.0, **fields: object) -> p.ServerFrame:
        """Read until a frame of that kind with those fields."""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    frame = await self.take()
                    if frame.kind == kind and fields.items() <= (frame.fields or {}).items():
                        return frame
        except TimeoutError:
            pytest.fail(f"no frame {kind:#x} with {fields}: {self.frames[-5:]}")


@contextlib.asynccontextmanager
async def terminal(sidecar: Sidecar, cookie: str, hello: p.Hello | None = None) -> AsyncIterator[Terminal]:
    """Open a terminal as the page does."""
    url = f"ws://127.0.0.1:{sidecar.port}{sidecar.base}/ws"
    headers = {"Cookie": cookie, "Origin": sidecar.origin}
    offer = [Subprotocol(p.SUBPROTOCOL)]
    async with connect(
        url, additional_headers=headers, subprotocols=offer, compression=None, proxy=None, max_size=1 << 20
    ) as socket:
        client = Terminal(socket)
        await client.send(hello or p.Hello())
        yield client


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small page in the built page's shape."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "assets").mkdir()
    (folder / "index.html").write_text('<html data-nonce="{{nonce}}">terminal of {{session}}</html>')
    (folder / "login.html").write_text('<form method="post">{{session}}<p>{{error}}</p></form>')
    (folder / "join.html").write_text("<p>join {{session}}</p>")
    (folder / "assets" / "index-abc.js").write_text("// script")
    return folder


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    machine = Guest(tmp_path)
    machine.boot()
    yield machine
    machine.switch_off()


@pytest.fixture
def sidecar(tmp_path: Path, guest: Guest, page: Path) -> Iterator[Sidecar]:
    server = Sidecar(tmp_path, guest.port, page)
    server.until("/ready", 200)
    yield server
    assert server.stop() == 0
