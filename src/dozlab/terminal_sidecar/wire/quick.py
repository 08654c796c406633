"""The quick way from socket to shell and back: uvicorn's WebSocket, with frames handled in the call that brings them.

uvicorn hands messages to a task through a queue and stops reading from the socket meanwhile; both cost more than all
the rest of a key's way. What is usual is therefore framed here (RFC 6455, section 5.2): whole, masked, binary, in one
frame. All else, and the handshake, is left to the websockets library, which also finds the errors.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.websockets import WebSocket
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Opcode
from websockets.http11 import Request
from websockets.utils import apply_mask

_NAME = "wire"
_FIN, _MASKED, _LONG = 0x80, 0x80, 127
SHORT = 126
"""Bytes from which on a frame's size no longer stands in its second byte."""
_CONTROL = frozenset({_FIN | Opcode.CLOSE, _FIN | Opcode.PING, _FIN | Opcode.PONG})
DATA, _TEXT = int(_FIN | Opcode.BINARY), int(_FIN | Opcode.TEXT)
"""The first byte of a whole message."""
_KEY, _TWO = 8, _MASKED | 2
"""Bytes of a frame that holds two, which are one ASCII character typed and what says so; its second byte."""
_COPY = 4096
"""Bytes up to which joining head and payload is cheaper than a system call over two buffers."""


def of(socket: WebSocket) -> Wire:
    """Return the wire under an accepted WebSocket."""
    wire: Wire = socket.scope["state"][_NAME]
    return wire


class Wire(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol, which can hand messages on at once (`begin`) and send at once (`write`)."""

    _take: Callable[[bytes], None] | None = None
    _plain = False  # everything is left to the library from now on
    _partial = b""
    _full = False  # the transport's buffer is
    on_writable: Callable[[], None] | None = None
    """Called when the socket takes more, after `open` was False because it did not."""

    def begin(self, take: Callable[[bytes], None]) -> None:
        """Call `take` with each message from now on, unless one still waits in uvicorn's queue."""
        if self.queue.empty():
            self._take = take

    def end(self) -> None:
        """Call nobody any more."""
        self._take = self.on_writable = None

    @property
    def open(self) -> bool:
        """Tell whether a frame may be written: the connection stands, and its buffer is not full."""
        return not (self._full or self.close_sent or self.disconnected or self.transport.is_closing())

    def write(self, message: bytes, *, text: bool = False) -> None:
        """Send a message as one frame; a server's frames are not masked."""
        kind, size = _TEXT if text else DATA, len(message)
        if size < SHORT:
            head = bytes((kind, size))
        elif size < 1 << 16:
            head = bytes((kind, SHORT)) + size.to_bytes(2, "big")
        else:
            head = bytes((kind, _LONG)) + size.to_bytes(8, "big")
        if size <= _COPY:
            self.transport.write(head + message)
        else:
            self.transport.writelines((head, message))

    def hold(self, seconds: float) -> None:
        """Read nothing for a while, so that TCP holds the client back."""
        self.transport.pause_reading()
        self.loop.call_later(seconds, self._go_on)

    def _go_on(self) -> None:
        if not (self.disconnected or self.read_paused or self.transport.is_closing()):
            self.transport.resume_reading()

    def handle_connect(self, event: Request) -> None:
        """Let the application find us (uvicorn calls this)."""
        super().handle_connect(event)
        if self.handshake_initiated and not self.handshake_complete:
            self.scope["state"][_NAME] = self

    def pause_writing(self) -> None:
        """Send nothing more for now (the transport calls this)."""
        super().pause_writing()
        self._full = True

    def resume_writing(self) -> None:
        """Say that there is room again (the transport calls this)."""
        super().resume_writing()
        self._full = False
        if self.on_writable is not None:
            self.on_writable()

    def data_received(self, data: bytes) -> None:
        """Hand on whole usual messages, and all else to the library, frame by frame (the transport calls this)."""
        if (
            len(data) == _KEY and data[0] == DATA and data[1] == _TWO and self._take is not None
            and not (self._partial or self._plain or self.close_sent)
        ):  # fmt: skip
            self._take(bytes((data[6] ^ data[2], data[7] ^ data[3])))  # as with nearly every key
            return
        if self._plain or not self.handshake_complete:
            # bytes behind the request would be frames that the library has begun to read
            self._plain = self._plain or self.handshake_initiated or not data.endswith(b"\n")
            super().data_received(data)
            return
        data, at = self._partial + data, 0
        end = len(data)
        self._partial = b""
        while end - at >= 2:
            first, size, head = data[at], data[at + 1] ^ _MASKED, 6
            if size == SHORT:
                head = 8
            elif size == _LONG:
                head = 14
            if size >= _MASKED or not (first == DATA or first in _CONTROL):
                self._plain = True
            elif end - at >= head:
                if head > 6:
                    size = int.from_bytes(data[at + 2 : at + head - 4], "big")
                self._plain = size > self.config.ws_max_size
            else:
                break
            if self._plain:
                super().data_received(data[at:])
                return
            body, after = at + head, at + head + size
            if after > end:
                break
            if first == DATA and self._take is not None and not self.close_sent:
                self._take(apply_mask(data[body:after], data[body - 4 : body]))
            else:
                super().data_received(data[at:after])
                if self.transport.is_closing():
                    return
            at = after
        self._partial = data[at:]
