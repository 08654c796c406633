"""Relay and readiness against real sockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from dozlab.firecracker_vm.guest import docker_answers, ssh_greets, wait_until
from dozlab.firecracker_vm.relay import Relay
from dozlab.lib.errors import DozlabError

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def listening(serve: Serve) -> AsyncIterator[int]:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@contextlib.asynccontextmanager
async def relayed(target: int, limit: int = 64) -> AsyncIterator[int]:
    relay = Relay("127.0.0.1", target, limit=limit)
    port = relay.start("127.0.0.1", 0)
    await relay.open()
    try:
        yield port
    finally:
        await relay.close()


async def ssh_answers(port: int) -> bool:
    """Tell whether sshd greets, and hang up."""
    if greeting := await ssh_greets("127.0.0.1", port):
        greeting.writer.close()
    return greeting is not None


async def _reverse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    data = await reader.read(-1)  # to the peer's half-close
    writer.write(data[::-1])
    await writer.drain()
    writer.close()


async def test_a_half_close_passes_and_the_answer_still_comes() -> None:
    async with listening(_reverse) as target, relayed(target) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        payload = bytes(range(256)) * 4096
        writer.write(payload)
        writer.write_eof()
        assert await reader.read(-1) == payload[::-1]
        writer.close()


async def test_clients_of_a_paused_guest_wait_and_probes_leave_nothing() -> None:
    asked = 0

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await _reverse(reader, writer)

    async with listening(count) as target:
        relay = Relay("127.0.0.1", target, limit=2)
        port = relay.start("127.0.0.1", 0)
        await relay.open()
        try:
            relay.hold(True)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"first words")
            for _ in range(2):  # one at a time fits beside the client: the last one must have gone
                probe, closing = await asyncio.open_connection("127.0.0.1", port)
                closing.write_eof()
                assert await probe.read() == b""
                closing.close()
            assert asked == 0
            relay.hold(False)
            writer.write_eof()
            assert await reader.read(-1) == b"sdrow tsrif"
            assert asked == 1
            writer.close()
        finally:
            await relay.close()


async def test_a_slow_reader_slows_the_sender() -> None:
    sent = 0

    async def pour(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b"x" * 65536)
                await writer.drain()
                sent += 65536
        writer.close()

    async with listening(pour) as target, relayed(target) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        before = -1
        while sent != before:  # until nothing moves for a while
            before = sent
            await asyncio.sleep(0.3)
        assert sent < 32 << 20
        await reader.read(1)
        writer.close()


async def test_too_many_connections_are_refused_and_room_comes_back() -> None:
    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-test\r\n")
        await reader.read(-1)
        writer.close()

    async with listening(hold) as target, relayed(target, limit=1) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await reader.readline() == b"SSH-2.0-test\r\n"
        other, other_writer = await asyncio.open_connection("127.0.0.1", port)
        assert await other.read(-1) == b""
        other_writer.close()
        writer.close()
        async with asyncio.timeout(30):
            while not await ssh_answers(port):
                await asyncio.sleep(0.05)


async def test_a_guest_that_is_not_there_closes_the_connection() -> None:
    async with listening(_reverse) as target:
        pass
    async with relayed(target) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await reader.read(-1) == b""
        writer.close()


async def _greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"a notice\r\nSSH-2.0-test\r\n")
    writer.write(await reader.read(-1))
    writer.close()


async def test_the_first_client_gets_the_connection_that_was_greeted_already() -> None:
    asked = 0

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await _greet(reader, writer)

    async with listening(count) as target:
        relay = Relay("127.0.0.1", target)
        port = relay.start("127.0.0.1", 0)
        await relay.open(await ssh_greets("127.0.0.1", target))
        try:
            for connections in (1, 2):  # the second client's is its own
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"hello")
                writer.write_eof()
                assert await reader.read(-1) == b"a notice\r\nSSH-2.0-test\r\nhello"
                writer.close()
                assert asked == connections
        finally:
            await relay.close()


@pytest.mark.parametrize("how", ["hold", "shut", "close", "time"])
async def test_a_greeted_connection_that_nobody_takes_is_closed(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _greet(reader, writer)
        ended.set()

    monkeypatch.setattr("dozlab.firecracker_vm.relay._SPARE", 0.01 if how == "time" else 600.0)
    async with listening(serve) as target:
        relay = Relay("127.0.0.1", target)
        relay.start("127.0.0.1", 0)
        await relay.open(await ssh_greets("127.0.0.1", target))
        try:
            if how == "hold":
                relay.hold(True)
            elif how != "time":
                await {"shut": relay.shut, "close": relay.close}[how]()
            async with asyncio.timeout(60):
                await ended.wait()
        finally:
            await relay.close()


async def test_a_greeted_connection_that_sshd_has_closed_is_made_anew() -> None:
    async with listening(_greet) as target:
        greeting = await ssh_greets("127.0.0.1", target)
        assert greeting
        greeting.writer.write_eof()  # so that it hangs up
        while not greeting.reader.at_eof():
            await greeting.reader.read(100)
        relay = Relay("127.0.0.1", target)
        port = relay.start("127.0.0.1", 0)
        await relay.open(greeting)
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"hello")
            writer.write_eof()
            assert (await reader.read(-1)).endswith(b"hello")
            writer.close()
        finally:
            await relay.close()


async def test_a_taken_port_is_one_clear_line() -> None:
    async with listening(_reverse) as port:
        with pytest.raises(DozlabError, match=f"cannot listen on 127.0.0.1:{port}"):
            Relay("127.0.0.1", 1).start("127.0.0.1", port)


async def test_the_port_answers_only_while_the_guest_does() -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-test\r\n")
        await reader.read(-1)
        writer.close()

    async with listening(greet) as target:
        relay = Relay("127.0.0.1", target)
        port = relay.start("127.0.0.1", 0)
        try:
            for _ in range(2):  # two boots
                with pytest.raises(ConnectionRefusedError):
                    await asyncio.open_connection("127.0.0.1", port)
                await relay.open()
                reader, _writer = await asyncio.open_connection("127.0.0.1", port)
                assert await reader.readline() == b"SSH-2.0-test\r\n"
                await relay.shut()
                assert await reader.read() == b""
                _writer.close()
        finally:
            await relay.close()


@pytest.mark.parametrize(
    ("words", "ssh", "docker"),
    [
        (b"SSH-2.0-OpenSSH_9\r\n", True, False),
        (b"a notice\r\nSSH-2.0-OpenSSH_9\r\n", True, False),
        (b"HTTP/1.0 200 OK\r\n\r\nOK", False, True),
        (b"HTTP/1.0 503 no\r\n\r\n", False, False),
        (b"", False, False),
        (b"x" * 10_000, False, False),
    ],
)
async def test_what_counts_as_ready(words: bytes, ssh: bool, docker: bool) -> None:
    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(words)
        writer.close()

    async with listening(serve) as port:
        assert await ssh_answers(port) is ssh
        assert await docker_answers("127.0.0.1", port) is docker


async def test_a_guest_that_is_slow_to_answer_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each question makes an sshd start in the guest: on a busy machine that would slow what it waits for."""
    asked = 0

    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.5)
        writer.write(b"SSH-2.0-late\r\n")
        writer.close()

    monkeypatch.setattr("dozlab.firecracker_vm.guest._CONNECT", 0.25)
    async with listening(serve) as port:
        assert await ssh_answers(port)
    assert asked == 1


async def test_waiting_says_once_that_it_is_late() -> None:
    answers = iter([False, False, False, True])
    late: list[int] = []

    async def check() -> bool:
        return next(answers)

    await wait_until(check, pause=0.01, patience=0.0, late=lambda: late.append(1))
    assert late == [1]
