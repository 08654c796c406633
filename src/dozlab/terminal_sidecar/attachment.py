"""One client's view of one terminal: what to send next, and how much. Sans-IO; the clock is an argument.

A client pulls from the history by offset, so a slow one never holds memory of its own: it falls behind, and when the
history no longer has what it needs it gets a replay.
"""

from __future__ import annotations

from collections import deque

from dozlab.terminal_sidecar import protocol
from dozlab.terminal_sidecar.history import History

LEAST_CREDIT, MOST_CREDIT = 128 << 10, 512 << 10
_AHEAD = 0.03
"""Seconds of work that a client's emulator may have before it: what Ctrl-C waits for (notes: 5 MB/s is a slow one)."""
STALLED_AFTER = 10.0
"""Seconds without an ack after which a client no longer holds its shell back."""


class Credit:
    """Bytes that may be sent beyond what the emulator has parsed.

    Grows while the network is what is slow (received ~ parsed), follows the emulator's own rate while that is.
    """

    def __init__(self, now: float) -> None:
        self.size = LEAST_CREDIT
        self._since, self._bytes = now, 0

    def acked(self, newly: int, backlog: int, now: float) -> None:
        """Take an ack: bytes newly parsed, bytes received but not parsed yet, and the time in seconds."""
        self._bytes += newly
        spent = now - self._since
        if spent < 0.02:
            return
        if backlog < self.size // 4:
            wanted = self.size * 5 // 4
        else:
            wanted = (self.size + int(self._bytes / spent * _AHEAD)) // 2
        self.size = max(LEAST_CREDIT, min(MOST_CREDIT, wanted))
        self._since, self._bytes = now, 0


class Attachment:
    """A client attached to a history. Call `pull()` until it returns None, again after `ack()` or new output."""

    def __init__(self, history: History, hello: protocol.Hello, now: float) -> None:
        self._history = history
        self._control: deque[bytes] = deque()
        self._later: deque[tuple[int, bytes]] = deque()
        self._replay_until: int | None = None
        self.credit = Credit(now)
        self.replays = 0
        self._progress = now
        self.position = self.acked = 0
        if hello.epoch == history.epoch and history.holds(hello.offset):
            self.position = self.acked = hello.offset
            if hello.offset < history.end:
                self._control.append(protocol.replay_begin(hello.offset, reset=False))
                self._replay_until = history.end
        else:
            self._replay()

    def _replay(self) -> None:
        offset, preamble = self._history.replay()
        self.position = self.acked = offset
        self._replay_until = self._history.end
        self._control.append(protocol.replay_begin(offset, reset=True, preamble=preamble))
        self.replays += 1

    def control(self, frame: bytes) -> None:
        """Queue a frame that is not output; it goes before the output that is still to be sent."""
        self._control.append(frame)

    def first(self, frame: bytes) -> None:
        """Queue a frame before all others."""
        self._control.appendleft(frame)

    def after_output(self, frame: bytes) -> None:
        """Queue a frame that is to be sent after all output printed so far."""
        self._later.append((self._history.end, frame))

    def pull(self) -> bytes | None:
        """Return the next frame to send, or None when there is none or the credit is used up."""
        if self.position < self._history.start:
            self._replay()  # too slow for the history
        if self._control:
            return self._control.popleft()
        if self._replay_until is not None and self.position >= self._replay_until:
            self._replay_until = None
            return protocol.replay_end(self.position)
        if self._later and self.position >= self._later[0][0]:
            return self._later.popleft()[1]
        room = min(self.credit.size - (self.position - self.acked), self._history.end - self.position)
        if self._replay_until is not None:
            room = min(room, self._replay_until - self.position)
        if room <= 0:
            return None
        data = self._history.read(self.position, min(room, protocol.MAX_OUTPUT))
        offset, self.position = self.position, self.position + len(data)
        return protocol.output(offset, data)

    def ack(self, frame: protocol.Ack, now: float) -> None:
        """Take an ack.

        :raises ProtocolError: when it acknowledges what was never sent
        """
        if frame.parsed > self.position or frame.received > self.position:
            raise protocol.ProtocolError("ack of output that was not sent")
        if frame.parsed > self.acked:
            self.credit.acked(frame.parsed - self.acked, frame.received - frame.parsed, now)
            self.acked = frame.parsed
            self._progress = now

    def stalled(self, now: float) -> bool:
        """Tell whether output is in flight and nothing was acknowledged for a long time."""
        if self.position <= self.acked:
            self._progress = now
        return now - self._progress > STALLED_AFTER
