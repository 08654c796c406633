"""One client program for both servers: a blocking socket, WebSocket by hand (RFC 6455), ours' protocol or ttyd's.

Written for little work per byte: what the client costs is taken from both servers alike on a machine with few cores.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Literal

from dozlab.lib.errors import DozlabError
from dozlab.terminal_sidecar import protocol

Kind = Literal["ours", "ttyd"]
_CHUNK = 256 << 10
_BINARY, _CLOSE, _PING, _PONG = 2, 8, 9, 10


class Terminal:
    """A shell behind one of the two servers, 80 x 24."""

    def __init__(self, kind: Kind, port: int, *, cookie: str = "", shell: str = "main") -> None:
        self._kind = kind
        self._sock = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray()
        self._room = memoryview(bytearray(_CHUNK))
        self._parsed = 0
        self.seen = 0.0
        """When the newest output was here (time.perf_counter), before it was acknowledged."""
        path, offer = ("/ws", protocol.SUBPROTOCOL) if kind == "ours" else ("/ws", "tty")
        origin = f"http://127.0.0.1:{port}"
        self._sock.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nOrigin: {origin}\r\nConnection: Upgrade\r\n"
            f"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: {offer}\r\n"
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\nCookie: {cookie}\r\n\r\n".encode()
        )
        while b"\r\n\r\n" not in self._buffer:
            self._fill()
        head, _, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        if b" 101 " not in head.splitlines()[0]:
            raise DozlabError(f"{kind} refused the connection: {head.splitlines()[0].decode(errors='replace')}")
        self._buffer = bytearray(rest)
        if kind == "ours":
            self._send(protocol.encode_client(protocol.Hello(shell=shell)))
        else:
            self._send(json.dumps({"AuthToken": "", "columns": 80, "rows": 24}).encode())

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._sock.fileno()

    def close(self) -> None:
        """Go away."""
        self._sock.close()

    def type(self, data: bytes) -> None:
        """Send input."""
        self._send((b"\x02" if self._kind == "ours" else b"0") + data)

    def _send(self, payload: bytes, opcode: int = _BINARY) -> None:
        """Send a frame, masked with zeros: a mask is required, randomness is for proxies (RFC 6455, 10.3)."""
        size = len(payload)
        length = bytes([0x80 | size]) if size < 126 else b"\xfe" + struct.pack(">H", size)
        self._sock.sendall(bytes([0x80 | opcode]) + length + b"\0\0\0\0" + payload)

    def _fill(self, limit: int = _CHUNK) -> None:
        size = self._sock.recv_into(self._room[:limit])
        if not size:
            raise DozlabError(f"{self._kind} closed the connection")
        self._buffer += self._room[:size]

    def read(self, limit: int = _CHUNK) -> list[bytes]:
        """Wait for at most `limit` bytes of the socket; return the output they complete, acknowledged where wanted."""
        self._fill(limit)
        found = [data for payload in self._frames() if (data := self._output(payload))]
        self.seen = time.perf_counter()
        if found and self._kind == "ours":
            self._parsed += sum(map(len, found))
            self._send(protocol.encode_client(protocol.Ack(self._parsed, self._parsed)))
        return found

    def _output(self, payload: bytes) -> bytes:
        if self._kind == "ttyd":
            return payload[1:] if payload[:1] == b"0" else b""
        if payload[0] == protocol.OUTPUT:
            return payload[9:]
        if payload[0] == protocol.REPLAY_BEGIN:
            self._parsed = protocol.decode_server(payload).offset
        return b""

    def _frames(self) -> Iterator[bytes]:
        """Yield the whole frames' payloads, taking them out of the buffer."""
        view, at, end = bytes(self._buffer), 0, len(self._buffer)
        while end - at >= 2:
            opcode, size, head = view[at] & 0x0F, view[at + 1], 2
            if size == 126:
                head = 4
                size = int.from_bytes(view[at + 2 : at + 4], "big")
            elif size == 127:
                head = 10
                size = int.from_bytes(view[at + 2 : at + 10], "big")
            if end - at < head + size:
                break
            payload = view[at + head : at + head + size]
            at += head + size
            if opcode <= _BINARY:
                yield payload
            elif opcode == _PING:
                self._send(payload, _PONG)
            elif opcode == _CLOSE:
                raise DozlabError(f"{self._kind} closed the connection: {payload[2:].decode(errors='replace')}")
        del self._buffer[:at]

    def until(self, marker: bytes, *, rate: float = 0.0, each: Callable[[int], None] | None = None) -> int:
        """Read until the output holds `marker`; return the bytes of output read.

        :param rate: bytes a second at most; 0 as fast as they come
        :param each: told the size of every piece
        """
        total, tail, begun = 0, b"", time.monotonic()
        limit = 16 << 10 if rate else _CHUNK
        while True:
            for data in self.read(limit):
                total += len(data)
                if marker in data or marker in tail + data[: len(marker)]:
                    return total
                tail = (tail + data[-len(marker) :])[-len(marker) :]
                if each:
                    each(len(data))
            if rate and (early := total / rate - (time.monotonic() - begun)) > 0:
                time.sleep(early)

    def drain(self, seconds: float, rate: float) -> int:
        """Read for a time at a rate in bytes a second; return the bytes of output read."""
        total, begun = 0, time.monotonic()
        while (spent := time.monotonic() - begun) < seconds:
            if (early := total / rate - spent) > 0:
                time.sleep(early)
            total += sum(map(len, self.read(16 << 10)))
        return total
