"""Names, paths and SFTP packets of a hostile guest, without a guest."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable
from typing import TypeVar
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dozlab.terminal_sidecar.files import packets as p
from dozlab.terminal_sidecar.files import paths
from dozlab.terminal_sidecar.files.sftp import Refused, Sftp
from dozlab.terminal_sidecar.pipe import Away

T = TypeVar("T")
names = st.binary(min_size=1, max_size=60).filter(lambda name: not set(name) & {0, 47})


@given(names)
def test_any_name_comes_back_from_an_address_as_it_was(name: bytes) -> None:
    path = paths.join(b"/srv", name)
    assert paths.parameters(b"path=" + paths.quoted(path).encode())["path"] == path


@given(names)
def test_a_name_gets_out_of_no_header_and_no_line(name: bytes) -> None:
    header = paths.disposition(name)
    found = re.fullmatch(r"attachment; filename=\"([ !#-$&-.0-Z\^-~\[\]]+)\"; filename\*=UTF-8''([\w.~%-]+)", header)
    assert found, header
    assert found[1] not in (".", "..")
    saved = unquote_to_bytes(found[2]).decode()
    assert saved.isprintable() and not set(saved) & {"/", "\\", '"'}
    assert paths.shown(name).isprintable()


def test_a_name_keeps_what_is_harmless() -> None:
    assert paths.disposition("März 2026.txt".encode()) == (
        "attachment; filename=\"M_rz 2026.txt\"; filename*=UTF-8''M%C3%A4rz%202026.txt"
    )
    assert paths.shown("a\u202egpj.exe\n".encode()) == "a\ufffdgpj.exe\ufffd"


@pytest.mark.parametrize("path", [b"", b"a/b", b"/a\0b", b"/" + b"a" * 5000, b"/tmp/..", b"/tmp/.", b"/tmp/", b"/"])
def test_what_is_no_place_for_a_file(path: bytes) -> None:
    with pytest.raises(paths.BadPath):
        paths.split(path)


def test_crumbs_lead_where_they_say() -> None:
    assert paths.crumbs(b"/a b/\xff") == [
        {"name": "/", "path": "/"}, {"name": "a b", "path": "/a%20b"}, {"name": "\ufffd", "path": "/a%20b/%FF"}
    ]  # fmt: skip


@given(st.binary(max_size=200))
def test_no_bytes_make_a_packet_that_is_believed(noise: bytes) -> None:
    for parse in (p.names, p.attributes, p.extensions, p.free_bytes):
        with contextlib.suppress(p.BadPacket):
            parse(p.Reader(noise))


class Server:
    """An SFTP server that answers as it is told: kind of request -> packets, with the request's number put in."""

    def __init__(self, answer: Callable[[int, bytes, bytes], bytes]) -> None:
        self.answer = answer
        self.out: asyncio.Queue[bytes] = asyncio.Queue()
        self.asked = b""
        self.closed = False
        self.taken = 0

    async def read(self, most: int) -> bytes:
        data = await self.out.get()
        if len(data) > most:
            self.out._queue.appendleft(data[most:])  # type: ignore[attr-defined]
            data = data[:most]
        self.taken += len(data)
        return data

    async def write(self, data: bytes) -> None:
        kind, number, body = data[4], data[5:9], data[9:]
        if kind == p.INIT:
            self.out.put_nowait(p.packet(p.VERSION, p.number(3) + p.string(b"statvfs@openssh.com") + p.string(b"2")))
        elif reply := self.answer(kind, number, body):
            self.out.put_nowait(reply)

    def close(self) -> None:
        self.closed = True


async def patiently(answer: Awaitable[T], seconds: float) -> T:
    async with asyncio.timeout(30):
        return await answer


def status(number: bytes, code: int) -> bytes:
    return p.packet(p.STATUS, number + p.number(code) + p.string(b"") + p.string(b""))


async def with_server(answer: Callable[[int, bytes, bytes], bytes], use: Callable[[Sftp], Awaitable[None]]) -> Server:
    server = Server(answer)
    sftp = Sftp(server, patiently)
    await sftp.start()
    try:
        await use(sftp)
    finally:
        sftp.close()
    return server


@pytest.mark.parametrize(
    "nonsense",
    [
        lambda number: p.number(0xFFFFFFF0) + b"x" * 100,  # a packet of 4 GiB
        lambda number: p.number(0),
        lambda number: p.packet(p.ATTRS, p.number(77)),  # an answer to nothing
        lambda number: p.packet(p.ATTRS, number + b"\xff"),
        lambda number: p.packet(p.HANDLE, number + p.string(b"h")),
        lambda number: p.packet(p.STATUS, number),
        lambda number: p.packet(9, b""),
    ],
)
def test_nonsense_ends_the_session_and_holds_nothing(nonsense: Callable[[bytes], bytes]) -> None:
    async def use(sftp: Sftp) -> None:
        with pytest.raises(Away):
            await sftp.stat(b"/x")
        assert sftp.closed

    server = asyncio.run(with_server(lambda kind, number, body: nonsense(number), use))
    assert server.closed
    assert server.taken < 1000


def test_an_endless_folder_ends_and_names_that_are_none_are_left_out() -> None:
    evil = [b"..", b".", b"", b"a/b", b"a\0b", b"fine"]
    batch = b"".join(p.string(name) + p.string(b"") + p.number(0) for name in evil)

    def answer(kind: int, number: bytes, body: bytes) -> bytes:
        if kind == p.OPENDIR:
            return p.packet(p.HANDLE, number + p.string(b"h"))
        if kind == p.READDIR:
            return p.packet(p.NAME, number + p.number(len(evil)) + batch)
        return status(number, p.OK)

    async def use(sftp: Sftp) -> None:
        found, more = await sftp.names(b"/x", 10)
        assert ([name for name, _ in found], more) == ([b"fine"] * 10, True)

    asyncio.run(with_server(answer, use))


def test_more_data_than_was_asked_for_is_not_taken() -> None:
    async def use(sftp: Sftp) -> None:
        with pytest.raises(Away, match="nonsense"):
            await sftp.read(b"h", 0, 4)

    asyncio.run(with_server(lambda kind, number, body: p.packet(p.DATA, number + p.string(b"12345")), use))


@given(st.binary(min_size=1, max_size=200_000), st.integers(1, p.MOST_DATA))
def test_contents_come_whole_and_in_order_whatever_the_server_gives_at_a_time(data: bytes, most: int) -> None:
    def answer(kind: int, number: bytes, body: bytes) -> bytes:
        reader = p.Reader(body)
        reader.string()
        offset, count = reader.long(), reader.number()
        part = data[offset : offset + min(count, max(most, 5000))]
        return p.packet(p.DATA, number + p.string(part)) if part else status(number, p.EOF)

    async def use(sftp: Sftp) -> None:
        assert b"".join([part async for part in sftp.contents(b"h", len(data))]) == data
        with pytest.raises(Away, match="shorter"):
            async for _ in sftp.contents(b"h", len(data) + 1):
                pass

    asyncio.run(with_server(answer, use))


def test_a_refused_write_is_said_by_a_later_one() -> None:
    def answer(kind: int, number: bytes, body: bytes) -> bytes:
        if kind == p.OPEN:
            return p.packet(p.HANDLE, number + p.string(b"h"))
        return status(number, p.FAILURE if kind == p.WRITE else p.OK)

    async def use(sftp: Sftp) -> None:
        with pytest.raises(Refused):
            async with sftp.writing(b"/x") as writer:
                await writer.add(b"x" * (p.MOST_DATA * 20))
                await writer.finish()

    asyncio.run(with_server(answer, use))
