"""Nobody can pile up what a session has to hold: frames, input, answers, connections, clients, shells."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any

import pytest
from uvicorn.config import Config
from uvicorn.server import ServerState
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode

from dozlab.terminal_sidecar import doors, protocol, stream
from dozlab.terminal_sidecar.attachment import MOST_CONTROL, Attachment
from dozlab.terminal_sidecar.auth import Member, Role
from dozlab.terminal_sidecar.files.packets import MOST_PACKET
from dozlab.terminal_sidecar.files.sftp import Sftp
from dozlab.terminal_sidecar.history import History
from dozlab.terminal_sidecar.pace import BURST, RATE, Paces
from dozlab.terminal_sidecar.pipe import Away
from dozlab.terminal_sidecar.ports import proxy
from dozlab.terminal_sidecar.ports.passes import Passes
from tests.unit.terminal_sidecar.conftest import Sidecar, terminal

from .conftest import Lab


def member(role: Role, key: str = "k") -> Member:
    return Member(f"id-{key}", role, "", key)


async def test_a_frame_beyond_the_limit_ends_the_connection(running: Sidecar) -> None:
    _, cookie = running.login()
    async with terminal(running, cookie) as client:
        await client.socket.send(b"\x02" + b"x" * protocol.MAX_FRAME)
        with pytest.raises(ConnectionClosed) as caught:
            while True:
                await client.socket.recv()
        assert caught.value.rcvd is not None and caught.value.rcvd.code == 1009
    with pytest.raises(protocol.ProtocolError):
        protocol.decode_client(b"\x02" + b"x" * (protocol.MAX_INPUT + 1))


async def test_who_does_not_say_hello_is_let_go(running: Sidecar, monkeypatch: pytest.MonkeyPatch, lab: Lab) -> None:
    monkeypatch.setattr(stream, "_HELLO_WITHIN", 0.01)
    visitor = lab.visitor(max_clients=1)
    cookie = (await visitor.log_in()).cookie()
    for _ in range(2):  # the second one has its place
        assert await asyncio.wait_for(visitor.knock(Cookie=cookie, stay=asyncio.Event()), 20) == 101


def test_input_beyond_the_rate_waits_for_its_member_however_many_terminals_it_has() -> None:
    now = 0.0
    paces = Paces(lambda: now)
    one, two, other = paces.of("a"), paces.of("a"), paces.of("b")
    assert one.delay(BURST // 2) == 0 and two.delay(BURST // 2) == 0
    assert one.delay(RATE) > 0 and two.delay(RATE) > 0
    assert other.delay(RATE) == 0
    now += 60
    assert one.delay(RATE) == 0
    for _ in range(BURST // 128):
        one.delay(1)  # small frames cost too
    assert one.delay(1) > 0


def test_a_client_that_asks_and_does_not_read_makes_nothing_grow() -> None:
    attachment = Attachment(History(), protocol.Hello(), 0.0)
    for token in range(20 * MOST_CONTROL):
        attachment.control(protocol.pong(token))
    count = 0
    while attachment.pull() is not None:
        count += 1
    assert count <= MOST_CONTROL + 8


class _Torrent:
    """A pipe out of a guest that names 4 GiB and begins to send them."""

    def __init__(self) -> None:
        self.given = 0

    async def read(self, most: int) -> bytes:
        self.given += most
        return b"\xff" * most if self.given < 64 << 20 else b""

    async def write(self, data: bytes) -> None: ...

    def close(self) -> None: ...


async def test_a_guest_s_packet_is_not_held_whatever_length_it_names() -> None:
    async def patiently(answer: Any, seconds: float) -> Any:
        return await answer

    pipe = _Torrent()
    with pytest.raises(Away):
        await Sftp(pipe, patiently).start()
    assert pipe.given <= 2 * MOST_PACKET


class _Transport(asyncio.Transport):
    """Takes what is written and never lets it go."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False
        self.pauses = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.pauses += 1

    def resume_reading(self) -> None: ...


@contextlib.asynccontextmanager
async def _accepted() -> Any:
    """Yield a WebSocket of ours that was accepted, over such a transport."""
    left = asyncio.Event()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await left.wait()

    config = Config(application, ws_ping_interval=None, log_config=None, lifespan="off", ws_max_size=protocol.MAX_FRAME)
    config.load()
    state, transport = ServerState(), _Transport()
    wire = doors.WebSockets(config, state, {})
    wire.connection_made(transport)
    wire.data_received(
        b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    async with asyncio.timeout(20):
        while b"101 Switching" not in transport.written:
            await asyncio.sleep(0)
    try:
        yield wire, transport
    finally:
        left.set()
        await asyncio.gather(*state.tasks)


async def test_pings_of_a_peer_that_does_not_read_are_not_answered() -> None:
    ping = Frame(Opcode.PING, b"x" * 125).serialize(mask=True)
    async with _accepted() as (wire, transport):
        before = len(transport.written)
        wire.data_received(ping)
        assert len(transport.written) > before
        wire.pause_writing()
        before = len(transport.written)
        wire.data_received(ping * 100)
        assert len(transport.written) == before
        wire.resume_writing()
        wire.data_received(ping)
        assert before < len(transport.written) < before + 300


@pytest.mark.parametrize("kind", [Opcode.PING, Opcode.PONG])
async def test_a_flood_of_control_frames_is_not_read(kind: Opcode) -> None:
    frame = Frame(kind, b"").serialize(mask=True)
    async with _accepted() as (wire, transport):
        for _ in range(doors.MOST_CONTROLS // 2 - 1):
            wire.data_received(frame)
        assert transport.pauses == 0
        for _ in range(4 * doors.MOST_CONTROLS):  # whatever second begins meanwhile
            wire.data_received(frame)
        assert transport.pauses >= 1


async def test_a_message_of_endless_fragments_ends_the_connection() -> None:
    async with _accepted() as (wire, transport):
        wire.data_received(Frame(Opcode.BINARY, b"", fin=False).serialize(mask=True))
        for _ in range(doors.MOST_FRAGMENTS - 1):
            wire.data_received(Frame(Opcode.CONT, b"", fin=False).serialize(mask=True))
        assert not transport.closed
        for _ in range(10):
            wire.data_received(Frame(Opcode.CONT, b"", fin=False).serialize(mask=True))
        assert transport.closed and len(wire.frames) <= doors.MOST_FRAGMENTS


async def test_clients_are_counted_and_places_are_kept_for_the_owner(lab: Lab) -> None:
    application = lab.sidecar(max_clients=4)
    owner, viewer, editor = (member(role, role) for role in ("owner", "viewer", "editor"))
    full = application.people.full
    assert not full(viewer, [viewer] * 2, 4)
    assert full(viewer, [viewer, viewer, editor], 4) and full(editor, [viewer, viewer, editor], 4)
    assert not full(owner, [viewer, viewer, editor], 4) and full(owner, [owner] * 4, 4)
    assert full(viewer, [viewer] * 8, 16) and not full(editor, [viewer] * 8, 16)  # nobody takes all there are


async def test_a_client_too_many_is_refused(lab: Lab) -> None:
    visitor = lab.visitor(max_clients=1)
    cookie, leave = (await visitor.log_in()).cookie(), asyncio.Event()
    staying = asyncio.ensure_future(visitor.knock(Cookie=cookie, stay=leave))
    await asyncio.sleep(0)
    assert await visitor.knock(Cookie=cookie) == 503
    leave.set()
    assert await staying == 101 and await visitor.knock(Cookie=cookie) == 101


async def test_shells_are_counted_and_some_are_kept_for_the_owner(lab: Lab) -> None:
    shells = lab.sidecar(max_shells=4).shells
    for name in ("a", "b", "c"):
        shells.get(name, member("editor"))
    for who in ("editor", "viewer"):
        with pytest.raises(protocol.ProtocolError):
            shells.get("d", member(who))
    shells.get("d", member("owner"))
    with pytest.raises(protocol.ProtocolError) as caught:
        shells.get("e", member("owner"))
    assert caught.value.code == protocol.CLOSE_TOO_MANY
    shells.get("a", member("viewer"))


def test_a_flood_of_connections_pushes_out_its_own(running: Sidecar) -> None:
    flood = []
    try:
        early = socket.create_connection(("127.0.0.1", running.port), 20)
        flood.append(early)
        for _ in range(doors.MOST_OPEN + 30):
            sock = socket.create_connection(("127.0.0.1", running.port), 20, source_address=("127.0.0.2", 0))
            flood.append(sock)
            sock.sendall(b"GET / HTTP/1.1\r\n")  # and never the rest
        assert running.login()[0] == 303
        early.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        assert early.recv(100).startswith(b"HTTP/1.1 200")
        flood[1].settimeout(20)
        with contextlib.suppress(ConnectionResetError):
            assert flood[1].recv(100) == b""
    finally:
        for sock in flood:
            sock.close()


async def test_a_flood_without_a_pass_does_not_keep_others_from_the_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    async def dial(port: int) -> Any:
        raise Away("nobody listens there")

    monkeypatch.setattr(proxy, "MOST_CONNECTIONS", 4)
    passes = Passes(lambda: 0.0, lambda member: True)
    token = passes.enter(passes.ticket("me", 3000))
    rules = proxy.Rules("dozlab-ports-lab1", passes, dial, lambda host: "http", lambda peer, hops: peer)
    door = proxy.Proxy(rules)
    server = await asyncio.start_server(door.take, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    opened = []
    try:
        for _ in range(9):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            opened.append((reader, writer))
            writer.write(b"GET / HTTP/1.1\r\n")  # and never the rest
        writer.write(f"Host: a\r\nCookie: dozlab-ports-lab1={token}\r\n\r\n".encode())
        assert (await asyncio.wait_for(reader.readline(), 20)).startswith(b"HTTP/1.1 502")
        assert await asyncio.wait_for(opened[0][0].read(), 20) == b""
    finally:
        for _, writer in opened:
            writer.close()
        server.close()
        await door.close()
