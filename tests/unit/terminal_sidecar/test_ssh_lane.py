"""The quick way through SSH: whatever way bytes are cut, sealed and held up, they arrive whole, once and in order.

A real SSH server (asyncssh's, which has no lane) sends back what it gets.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import asyncssh
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from dozlab.terminal_sidecar import ssh_lane
from dozlab.terminal_sidecar.guest import Channel

KEY = asyncssh.generate_private_key("ssh-ed25519")
GCM = "aes128-gcm@openssh.com"
SECONDS = 60
WINDOW = 64 << 10
"""Bytes that the server takes before it is read from."""
Cut = Callable[[bytes], Iterable[bytes]]
both_ways = pytest.mark.parametrize("lane", [True, False], ids=["lane", "asyncssh"])


class Mirror(asyncssh.SSHServerSession[bytes]):
    """Sends back what it gets; reads no faster than it can send."""

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        self.chan = chan

    def shell_requested(self) -> bool:
        return True

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        self.chan.write(data)

    def pause_writing(self) -> None:
        self.chan.pause_reading()

    def resume_writing(self) -> None:
        self.chan.resume_reading()


class Server(asyncssh.SSHServer):
    def __init__(self, sessions: list[Mirror]) -> None:
        self._sessions = sessions

    def begin_auth(self, username: str) -> bool:
        return False

    def session_requested(self) -> Mirror:
        self._sessions.append(session := Mirror())
        return session


class Client(asyncssh.SSHClient):
    def __init__(self) -> None:
        self.end: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def connection_lost(self, exc: Exception | None) -> None:
        self.end.set_result(repr(exc))


class Events:
    """What a shell is told, kept."""

    def __init__(self) -> None:
        self.output = bytearray()
        self.news = asyncio.Event()
        self.faulty = False

    def shell_output(self, data: bytes) -> None:
        if self.faulty:
            raise LookupError("a listener's own fault")
        self.output += data
        self.news.set()

    def shell_ended(self, status: int | None, signal: str | None) -> None:
        self.news.set()

    async def until(self, size: int) -> None:
        async with asyncio.timeout(SECONDS):
            while len(self.output) < size:
                self.news.clear()
                await self.news.wait()


class Cutter(asyncio.Protocol):
    """Hands on what the transport brings in other pieces."""

    def __init__(self, behind: asyncio.Protocol, cut: Cut) -> None:
        self._behind, self._cut = behind, cut
        self.eof_received, self.connection_lost = behind.eof_received, behind.connection_lost  # type: ignore[method-assign]
        self.pause_writing, self.resume_writing = behind.pause_writing, behind.resume_writing  # type: ignore[method-assign]

    def data_received(self, data: bytes) -> None:
        for piece in self._cut(data):
            self._behind.data_received(piece)


class Pair:
    """A client, with or without a lane, and its server."""

    def __init__(self, connection: asyncssh.SSHClientConnection, client: Client, sessions: list[Mirror]) -> None:
        self.connection, self.client, self.sessions = connection, client, sessions
        self.lane: ssh_lane.Lane | None = None

    def lay(self, cut: Cut, *, lane: bool = True) -> None:
        if lane:
            self.lane = ssh_lane.lay(self.connection)
            assert self.lane is not None
        self.behind: Any = self.lane or self.connection
        transport = self.connection._transport
        assert transport is not None
        transport.set_protocol(Cutter(self.behind, cut))

    async def shell(self, window: int = 128 << 10) -> tuple[Channel, Events]:
        events = Events()
        channel = Channel(events)
        await self.connection.create_session(lambda: channel, encoding=None, window=window)
        return channel, events

    async def end(self) -> str:
        """Wait for the connection's end; return what ended it."""
        async with asyncio.timeout(SECONDS):
            return await self.client.end


@contextlib.asynccontextmanager
async def pair(cipher: str = GCM, client_rekeys: int = 1 << 30, server_rekeys: int = 1 << 30) -> AsyncIterator[Pair]:
    sessions: list[Mirror] = []
    server = await asyncssh.listen(
        "127.0.0.1", 0, server_factory=lambda: Server(sessions), server_host_keys=[KEY], encoding=None,
        rekey_bytes=server_rekeys, encryption_algs=[cipher], compression_algs=["none"], line_editor=False,
        window=WINDOW,
    )  # fmt: skip
    connection, client = await asyncssh.create_connection(
        Client, "127.0.0.1", server.sockets[0].getsockname()[1], known_hosts=None, config=None, username="root",
        rekey_bytes=client_rekeys, encryption_algs=[cipher], compression_algs=["none"], agent_path=None,
        client_keys=None, keepalive_interval=30,
    )  # fmt: skip
    assert isinstance(client, Client)
    try:
        yield Pair(connection, client, sessions)
    finally:
        connection.abort()
        await connection.wait_closed()
        server.close()
        await server.wait_closed()


def whole(data: bytes) -> list[bytes]:
    return [data]


def pieces(chance: random.Random) -> Cut:
    """Cut at random: into bytes, into packets or parts of them, or not at all."""

    def cut(data: bytes) -> Iterable[bytes]:
        most = chance.choice([1, 30, 3000, 40000, 1 << 20])
        if len(data) > 2000 * most:  # so many calls take too long
            most = len(data) // 2000
        at = 0
        while at < len(data):
            size = chance.randint(1, most)
            yield data[at : at + size]
            at += size

    return cut


async def sends_and_gets_back(there: Pair, texts: list[list[bytes]], chance: random.Random) -> None:
    """Type into a shell for each list at once, pausing at random; one more is closed amid it."""
    shells = [await there.shell(chance.choice([4 << 10, 128 << 10])) for _ in texts]
    lost, _ = await there.shell()

    async def use(channel: Channel, events: Events, text: list[bytes]) -> None:
        expected = b"".join(text)
        for part in text:
            channel.write(part)
            if chance.random() < 0.3:
                channel.hold(chance.random() < 0.5)
            for _ in range(chance.randrange(3)):
                await asyncio.sleep(0)
        channel.hold(False)
        await events.until(len(expected))
        assert events.output == expected

    async def leave() -> None:
        lost.write(b"q" * 5000)
        await asyncio.sleep(0)
        lost.close()

    async with asyncio.TaskGroup() as tasks:
        for (channel, events), text in zip(shells, texts, strict=True):
            tasks.create_task(use(channel, events, text))
        tasks.create_task(leave())


sizes = st.one_of(st.integers(0, 40), st.integers(0, 5000), st.integers(30_000, 70_000))


@settings(max_examples=30, deadline=None)
@given(
    plan=st.lists(st.lists(sizes, min_size=1, max_size=12), min_size=1, max_size=4),
    rekeys=st.tuples(*[st.sampled_from([1 << 30, 1 << 30, 20_000, 3_000])] * 2),
    seed=st.integers(0, 1 << 32),
    loop=st.sampled_from([uvloop.new_event_loop, asyncio.new_event_loop]),
)
def test_bytes_arrive_whole_once_and_in_order(
    plan: list[list[int]], rekeys: tuple[int, int], seed: int, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    chance = random.Random(seed)

    async def use() -> None:
        async with pair(GCM, *rekeys) as there:
            there.lay(pieces(chance))
            await sends_and_gets_back(there, [[chance.randbytes(size) for size in text] for text in plan], chance)
            assert not there.client.end.done()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(use())


@pytest.mark.parametrize(
    ("cipher", "taken"),
    [(GCM, True), ("aes256-gcm@openssh.com", True), ("chacha20-poly1305@openssh.com", False)],
)
async def test_keys_take_the_lane_both_ways_where_the_cipher_is_aes_gcm(cipher: str, taken: bool) -> None:
    """Where this fails after an upgrade of asyncssh, read what has changed in it, then renew `ssh_lane.KNOWN`."""
    assert asyncssh.__version__ == ssh_lane.KNOWN
    async with pair(cipher) as there:
        there.lay(whole)
        lane = there.lane
        assert lane is not None
        channel, events = await there.shell()
        for number in range(1, 6):
            channel.write(b"k")
            await events.until(number)
        assert (lane.sent, lane.received) == ((5, 5) if taken else (0, 0))


async def test_with_another_asyncssh_there_is_no_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh_lane, "KNOWN", "1.0")
    async with pair() as there:
        assert ssh_lane.lay(there.connection) is None
        channel, events = await there.shell()
        channel.write(b"still served")
        await events.until(12)
        assert events.output == b"still served"


@pytest.mark.parametrize("side", ["ours", "theirs"])
async def test_the_lane_is_taken_again_with_new_keys(side: str) -> None:
    async with pair(GCM, *((2000, 1 << 30) if side == "ours" else (1 << 30, 2000))) as there:
        there.lay(whole)
        lane, key = there.lane, there.connection._recv_encryption
        assert lane is not None
        channel, events = await there.shell()
        for number in itertools.count(1):
            if there.connection._recv_encryption is not key and there.connection._kex_complete:
                break
            channel.write(b"k" * 50)
            await events.until(50 * number)
        assert number < 100  # of at least 64 bytes a packet; were it asyncssh alone that counts, it would be thousands
        sent, received = lane.sent, lane.received
        for more in range(3):
            channel.write(b"k")
            await events.until(50 * (number - 1) + more + 1)
        assert lane.sent == sent + 3 and lane.received == received + 3


async def test_keys_are_renewed_when_their_time_is_up() -> None:
    async with pair() as there:
        there.lay(whole)
        connection = there.connection
        channel, events = await there.shell()
        channel.write(b"k")
        await events.until(1)
        key = connection._send_encryption
        connection._rekey_seconds, connection._rekey_time = 3600, 0.0
        for number in itertools.count(2):
            channel.write(b"k")
            await events.until(number)
            if connection._send_encryption is not key and connection._kex_complete:
                break
        assert events.output == b"k" * number


async def test_no_more_is_sent_than_the_guest_takes() -> None:
    async with pair() as there:
        there.lay(whole)
        channel, events = await there.shell()
        channel.write(b"k")
        await events.until(1)
        there.sessions[0].chan.pause_reading()
        text = b"0123456789" * 300
        waiting = [channel.write(text) for _ in range(30)]
        assert waiting[0] == 0 and waiting[-1] >= 30 * len(text) - WINDOW
        there.sessions[0].chan.resume_reading()
        await events.until(1 + 30 * len(text))
        assert events.output == b"k" + text * 30


async def test_what_is_held_waits_in_order_and_others_do_not_wait_for_it() -> None:
    async with pair() as there:
        there.lay(whole)
        held, kept = await there.shell()
        other, events = await there.shell()
        held.hold(True)
        for number in range(1, 6):
            held.write(b"%d" % number)
            other.write(b"x")  # its echo comes after the other's, on the same connection
            await events.until(number)
        assert kept.output == b""
        held.write(b"6")
        held.hold(False)
        await kept.until(6)
        assert kept.output == b"123456"


@pytest.mark.parametrize("size", [1, 15, 16, 40, 60])
async def test_after_asyncssh_had_part_of_a_packet_the_lane_is_taken_again(size: int) -> None:
    kept = bytearray()

    def keep(data: bytes) -> list[bytes]:
        kept.extend(data)
        return []

    async with pair() as there:
        there.lay(whole)
        lane, transport = there.lane, there.connection._transport
        assert lane is not None and transport is not None
        channel, events = await there.shell()
        transport.set_protocol(Cutter(lane, keep))
        channel.write(b"one")
        async with asyncio.timeout(SECONDS):
            while len(kept) <= size:
                await asyncio.sleep(0)
        there.connection.data_received(bytes(kept[:size]))  # what it may have when it is done with something else
        lane._take_back()
        assert not (there.connection._inpbuf or there.connection._packet)
        lane.data_received(bytes(kept[size:]))
        transport.set_protocol(lane)
        await events.until(3)
        channel.write(b"two")
        await events.until(6)
        assert events.output == b"onetwo" and lane.received == 2


# --- what is wrong ends the connection as without the lane


@both_ways
async def test_a_spoilt_packet_is_found(lane: bool) -> None:
    spoil = False

    def cut(data: bytes) -> list[bytes]:
        return [data[:-1] + bytes([data[-1] ^ 1])] if spoil else [data]

    async with pair() as there:
        there.lay(cut, lane=lane)
        channel, events = await there.shell()
        channel.write(b"whole")
        await events.until(5)
        spoil = True
        channel.write(b"spoilt")
        assert await there.end() == "MACError('MAC verification failed')"
        assert events.output == b"whole"


@both_ways
async def test_more_than_the_window_is_refused(lane: bool) -> None:
    async with pair() as there:
        there.lay(whole, lane=lane)
        _, events = await there.shell(window=1000)
        there.sessions[0].chan._send_window = 1 << 20
        there.sessions[0].chan.write(b"x" * 1001)
        assert await there.end() == "ProtocolError('Window exceeded')"
        assert not events.output


@both_ways
async def test_data_for_a_channel_that_never_was_is_refused(lane: bool) -> None:
    async with pair() as there:
        there.lay(whole, lane=lane)
        await there.shell()
        there.sessions[0].chan._send_chan = 77
        there.sessions[0].chan.write(b"x")
        assert await there.end() == "ProtocolError('Invalid channel number 77 received')"


@both_ways
async def test_data_after_the_end_of_data_is_refused(lane: bool) -> None:
    async with pair() as there:
        there.lay(whole, lane=lane)
        _, events = await there.shell()
        chan = there.sessions[0].chan
        chan.write_eof()
        chan._send_state = "open"
        chan.write(b"x")
        assert await there.end() == "ProtocolError('Channel not open for sending')"
        assert not events.output


@both_ways
async def test_a_fault_of_who_is_told_ends_the_connection(lane: bool) -> None:
    async with pair() as there:
        there.lay(whole, lane=lane)
        channel, events = await there.shell()
        events.faulty = True
        channel.write(b"x")
        assert await there.end() == """LookupError("a listener's own fault")"""


async def test_an_endless_packet_is_not_waited_for() -> None:
    endless = False

    def cut(data: bytes) -> list[bytes]:
        return [b"\x7f\xff\xff\xf0" + data] if endless else [data]

    async with pair() as there:
        there.lay(cut)
        channel, _ = await there.shell()
        endless = True
        channel.write(b"x")
        assert await there.end() == "ProtocolError('a packet is too long')"
