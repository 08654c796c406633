"""uvicorn's two protocols with the limits it lacks: open connections, answers that nobody reads, endless fragments.

Before a request is complete nobody is known, so what costs memory or descriptors there is bounded by taking from the
address that has most, its idle and oldest ones first: a flood pushes out its own connections, not the one that logs in.
"""

from __future__ import annotations

import asyncio
import resource
from collections import Counter

from uvicorn.protocols.http.h11_impl import H11Protocol
from websockets.frames import Frame

from dozlab.terminal_sidecar.wire.quick import Wire

MOST_OPEN = 256
"""HTTP connections at a time, WebSockets not counted: those are limited by MAX_CLIENTS."""
MOST_FRAGMENTS = 64
"""Fragments of one WebSocket message; browsers send one."""
MOST_CONTROLS = 50
"""Control frames (RFC 6455, 5.5) a second; browsers send one in many."""
_DESCRIPTORS = 65536


def raise_limits() -> None:
    """Let this process have as many open files as it may (getrlimit(2)): connections are counted, not refused."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class Http(H11Protocol):
    """HTTP/1.1; beyond `MOST_OPEN` connections the one that is of least use is let go."""

    _since = 0.0
    _reads = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, and let go of another one where there are too many."""
        self._since = self.loop.time()
        others = [each for each in self.connections if isinstance(each, Http)]
        if len(others) >= MOST_OPEN:
            held = Counter(each._address for each in others)
            min(others, key=lambda each: (-held[each._address], each._worth(), each._since)).transport.abort()
        super().connection_made(transport)

    @property
    def _address(self) -> str:
        return self.client[0] if self.client else ""

    def _worth(self) -> int:
        """Return how much is lost with this connection: an idle one, one that is not read from, one at work."""
        idle = self.transport.is_closing() or self.cycle is None or self.cycle.response_complete
        return 0 if idle else 2 if self._reads else 1

    def pause_writing(self) -> None:
        """Remember that the peer does not read (asyncio calls this)."""
        self._reads = False
        super().pause_writing()

    def resume_writing(self) -> None:
        """Remember that it does again (asyncio calls this)."""
        self._reads = True
        super().resume_writing()


class WebSockets(Wire):
    """RFC 6455, without what a peer could pile up here unseen by the application."""

    _controls, _second = 0, 0

    def handle_ping(self) -> None:
        """Answer, unless the peer does not read: its answers would wait in memory for ever."""
        self._slow_down()
        if self.writable.is_set():
            super().handle_ping()
        else:
            self.conn.data_to_send()

    def handle_pong(self, event: Frame) -> None:
        """Take an answer to our ping, or one that nobody asked for."""
        self._slow_down()
        super().handle_pong(event)

    def _slow_down(self) -> None:
        """Read nothing for a second from who sends control frames only to keep us busy; no pace counts those."""
        second = int(self.loop.time())
        if second != self._second:
            self._second, self._controls = second, 0
        self._controls += 1
        if self._controls == MOST_CONTROLS:
            self.hold(1.0)

    def handle_cont(self, event: Frame) -> None:
        """Take a fragment; a message of too many is refused like one that is too big (1009)."""
        if self.close_sent:
            return
        if len(self.frames) >= MOST_FRAGMENTS:
            self.conn.fail(1009, "too many fragments")
            self.handle_parser_exception()
            return
        super().handle_cont(event)
