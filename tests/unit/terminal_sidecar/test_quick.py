"""The quick way of frames: whatever way bytes are cut and framed, messages arrive whole, once and in order."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import struct
from collections.abc import AsyncIterator

import pytest

from dozlab.terminal_sidecar import protocol as p

from .conftest import Sidecar

FIN, CONTINUED, TEXT, BINARY, CLOSE, PING, PONG = 0x80, 0, 1, 2, 8, 9, 10


def frame(payload: bytes, first: int = FIN | BINARY, *, masked: bool = True, says: int | None = None) -> bytes:
    """Return a client's frame; `says` is a length other than the true one."""
    size, mask = len(payload) if says is None else says, os.urandom(4)
    bit = 0x80 if masked else 0
    length = (
        bytes([bit | size]) if size < 126
        else bytes([bit | 126]) + struct.pack(">H", size) if size < 65536
        else bytes([bit | 127]) + struct.pack(">Q", size)
    )  # fmt: skip
    body = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload)) if masked else payload
    return bytes([first]) + length + (mask if masked else b"") + body


def typed(text: bytes) -> bytes:
    return p.encode_client(p.Input(text))


class Raw:
    """A client that frames by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.output, self.received = b"", 0
        self.control: list[tuple[int, bytes]] = []

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def take(self) -> None:
        first, size = await self.reader.readexactly(2)
        if size == 126:
            (size,) = struct.unpack(">H", await self.reader.readexactly(2))
        elif size == 127:
            (size,) = struct.unpack(">Q", await self.reader.readexactly(8))
        payload = await self.reader.readexactly(size)
        if first != FIN | BINARY:
            self.control.append((first & 15, payload))
            return
        found = p.decode_server(payload)
        if found.kind == p.OUTPUT:
            assert found.offset == self.received
            self.received += len(found.data)
            self.output += found.data
            await self.send(frame(p.encode_client(p.Ack(self.received, self.received))))

    async def until(self, wanted: bytes) -> None:
        async with asyncio.timeout(60):
            while wanted not in self.output:
                await self.take()

    async def until_control(self, kind: int) -> bytes:
        async with asyncio.timeout(60):
            while True:
                for found, payload in self.control:
                    if found == kind:
                        return payload
                await self.take()


@contextlib.asynccontextmanager
async def raw(sidecar: Sidecar, first: bytes = b"") -> AsyncIterator[Raw]:
    """Open a WebSocket and say HELLO; `first` is sent in the same breath."""
    _, cookie = sidecar.login()
    reader, writer = await asyncio.open_connection("127.0.0.1", sidecar.port)
    try:
        writer.write(
            f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{sidecar.port}\r\nOrigin: {sidecar.origin}\r\nCookie: {cookie}\r\n"
            f"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\n\r\n".encode()
        )
        assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
        client = Raw(reader, writer)
        await client.send(frame(p.encode_client(p.Hello())) + first)
        yield client
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def test_frames_that_come_with_hello_and_cut_frames_keep_their_order(sidecar: Sidecar) -> None:
    messages = b"".join(frame(typed(f"{number},".encode())) for number in range(40))
    async with raw(sidecar, frame(typed(b"echo ")) + messages[:21]) as client:
        await client.send(messages[21:])
        for byte in frame(typed(b"end\n")):
            await client.send(bytes([byte]))
            await asyncio.sleep(0)
        await client.until(b"".join(f"{number},".encode() for number in range(40)) + b"end\r\n")


async def test_fragments_pings_and_what_follows_them(sidecar: Sidecar) -> None:
    async with raw(sidecar) as client:
        await client.until(b"guest$ ")
        whole = typed(b"echo fra-gm'ents'\n")  # quoted: the terminal echoes what is typed ahead at once
        await client.send(
            frame(typed(b"echo befo're'\n")) + frame(b"beat", FIN | PING) + frame(whole[:5], BINARY)
            + frame(b"between", FIN | PING) + frame(whole[5:], FIN | CONTINUED) + frame(typed(b"echo af'ter'\n"))
        )  # fmt: skip
        await client.until(b"after\r\n")
        assert client.output.index(b"before\r\n") < client.output.index(b"fra-gments\r\n")
        assert [payload for kind, payload in client.control if kind == PONG] == [b"beat", b"between"]
        await client.send(frame(typed(b"echo st'ill'\n")))
        await client.until(b"still\r\n")


@pytest.mark.parametrize(
    ("broken", "code"),
    [
        (frame(typed(b"x"), masked=False), 1002),
        (frame(typed(b"x"), FIN | 0x40 | BINARY), 1002),
        (frame(b"x", FIN | CONTINUED), 1002),
        (frame(b"x", FIN | 3), 1002),
        (frame(b"x" * 126, FIN | PING), 1002),
        (frame(b"", says=p.MAX_FRAME + 1), 1009),
        (frame(b"", says=1 << 40), 1009),
        (frame(b"{}", FIN | TEXT), p.CLOSE_PROTOCOL),
        (frame(p.encode_client(p.Hello())), p.CLOSE_PROTOCOL),
        (frame(struct.pack(">H", 1000), FIN | CLOSE), 1000),
    ],
    ids=["no mask", "reserved bit", "no first fragment", "unknown type", "long ping", "too long", "far too long",
         "text", "second HELLO", "close"],
)  # fmt: skip
async def test_what_is_wrong_closes_with_its_code(sidecar: Sidecar, broken: bytes, code: int) -> None:
    async with raw(sidecar) as client:
        await client.until(b"guest$ ")
        await client.send(frame(typed(b"echo i'n'\n")) + broken + frame(typed(b"echo o'ut'\n")))
        assert struct.unpack(">H", (await client.until_control(CLOSE))[:2]) == (code,)
    async with raw(sidecar) as client:
        await client.send(frame(typed(b"echo che'ck'\n")))
        await client.until(b"check\r\n")
        assert b"in\r\n" in client.output and b"out\r\n" not in client.output
