"""Where a client's frames leave: pulled from its attachment and written to its wire, in the call that made them."""

from __future__ import annotations

import asyncio
import time

from prometheus_client import Counter

from dozlab.terminal_sidecar import protocol
from dozlab.terminal_sidecar.attachment import Attachment
from dozlab.terminal_sidecar.wire.quick import Wire


class Outlet:
    """Takes the place of the event that a client is woken by."""

    def __init__(self, wire: Wire, attachment: Attachment, sent: Counter) -> None:
        self._wire, self._attachment, self._sent = wire, attachment, sent
        self._loop = asyncio.get_running_loop()
        self._turn: asyncio.Handle | None = None
        self._closed = False
        wire.on_writable = self._pump

    def set(self) -> None:
        """Send what there is. Once in a turn of the loop at once, as for a key; the rest of a flood as one."""
        if self._turn is None and not self._closed:
            self._turn = self._loop.call_soon(self._turned)
            self._pump()

    def _turned(self) -> None:
        self._turn = None
        self._pump()

    def _pump(self) -> None:
        while self._wire.open and (frame := self._attachment.pull()) is not None:
            self._write(frame)
            if frame[0] == protocol.OUTPUT:
                self._sent.inc(len(frame) - 9)
        self._attachment.sent(time.monotonic())

    def _write(self, frame: bytes) -> None:
        self._wire.write(frame)

    def close(self) -> None:
        """Send nothing more."""
        self._closed = True
        self._wire.on_writable = None
        if self._turn is not None:
            self._turn.cancel()
