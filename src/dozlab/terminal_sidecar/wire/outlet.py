"""Where a client's frames leave: pulled from its attachment and written to its wire, in the call that made them."""

from __future__ import annotations

import asyncio
import time

from prometheus_client import Counter

from dozlab.terminal_sidecar import protocol
from dozlab.terminal_sidecar.attachment import Attachment
from dozlab.terminal_sidecar.wire.quick import Wire

_ECHO = 1024  # bytes


class Outlet:
    """Takes the place of the event that a client is woken by."""

    def __init__(self, wire: Wire, attachment: Attachment, sent: Counter) -> None:
        self._wire, self._attachment, self._sent = wire, attachment, sent
        self._loop = asyncio.get_running_loop()
        self._turn: asyncio.Handle | None = None
        self._waits = self._closed = False  # for the turn's end; for ever
        wire.on_writable = self._pump

    def printed(self, data: bytes) -> None:
        """Send an echo before anything else is done with it; a flood is for `set`, which follows."""
        if len(data) > _ECHO or self._waits or self._closed or not self._wire.open:
            return
        if (frame := self._attachment.echo(data)) is not None:
            self._write(frame)
            self._sent.inc(len(data))

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
