"""Where a client's frames leave: pulled from its attachment and written to its wire, in the call that made them."""

from __future__ import annotations

import asyncio
import struct
import time

from dozlab.terminal_sidecar import protocol
from dozlab.terminal_sidecar.attachment import Attachment
from dozlab.terminal_sidecar.metrics import Traffic
from dozlab.terminal_sidecar.wire.quick import DATA, SHORT, Wire

_ECHO = struct.Struct(">BBBQ")
"""What stands before an echo: the head of its frame (RFC 6455, section 5.2), and that of OUTPUT."""
_OFFSET = 9  # bytes of OUTPUT's head
_MOST_ECHO = SHORT - 1 - _OFFSET


class Outlet:
    """Takes the place of the event that a client is woken by."""

    def __init__(self, wire: Wire, attachment: Attachment, traffic: Traffic) -> None:
        self._wire, self._attachment, self._traffic = wire, attachment, traffic
        self._send = wire.transport.write  # of whole frames
        self._loop = asyncio.get_running_loop()
        self._turn: asyncio.Handle | None = None
        self._waits = self._closed = False  # for the turn's end; for ever
        wire.on_writable = self._pump

    def printed(self, data: bytes) -> None:
        """Send an echo before anything else is done with it; a flood is for `set`, which follows."""
        size = len(data)
        if size > _MOST_ECHO or self._waits or self._closed or not self._wire.open:
            return
        if (offset := self._attachment.echo(size)) is not None:
            self._send(_ECHO.pack(DATA, size + _OFFSET, protocol.OUTPUT, offset) + data)
            self._traffic.sent += size

    def set(self) -> None:
        """Send what there is. Once in a turn of the loop at once, as for a key; the rest of a flood as one."""
        if self._waits or self._closed:
            return
        self._waits = True
        try:
            self._pump()
        finally:
            self._turn = self._loop.call_soon(self._turned)  # last: nobody waits for it

    def _turned(self) -> None:
        self._waits = False
        if not self._closed:
            self._pump()

    def _pump(self) -> None:
        while self._wire.open and (frame := self._attachment.pull()) is not None:
            self._write(frame)
            if frame[0] == protocol.OUTPUT:
                self._traffic.sent += len(frame) - _OFFSET
        self._attachment.sent(time.monotonic())

    def _write(self, frame: bytes) -> None:
        self._wire.write(frame)

    def close(self) -> None:
        """Send nothing more."""
        self._closed = True
        self._wire.on_writable = None
        if self._turn is not None:
            self._turn.cancel()
