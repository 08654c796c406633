"""One client's view of one terminal: what to send next, and how much. Sans-IO; the clock is an argument.

A client pulls from the history by offset, so a slow one never holds memory of its own: it falls behind, and when the
history no longer has what it needs it gets a replay.
"""

from __future__ import annotations

from collections import deque

from dozlab.terminal_sidecar import protocol
from dozlab.terminal_sidecar.history import History

MOST_CONTROL = 64
"""Frames other than output that may wait for a client."""
LEAST_CREDIT, MOST_CREDIT = 128 << 10, 512 << 10
_AHEAD = 0.03
"""Seconds of its own work that a client may have before it: what Ctrl-C waits for (notes: 5 MB/s is a slow one)."""
_LEAST_PIECE = 32 << 10
"""Bytes of credit that more output than that waits for: else each small ack would free a small frame, for ever."""
_GAIN = 1.25
"""Round trips of output under way, so that a rate that only the credit holds down shows itself and grows."""
_LEAST_WINDOW = 0.02
"""Seconds over which a rate is measured at least."""
STALLED_AFTER = 10.0
"""Seconds without an ack after which a client no longer holds its shell back."""


class Credit:
    """Bytes that may be sent beyond what the emulator has parsed: what a client takes in its round trip and `_AHEAD`.

    Whether the network or the emulator is what is slow makes no difference to who waits behind the bytes under way.
    """

    def __init__(self, now: float) -> None:
        self.size = LEAST_CREDIT
        self._round_trip = 0.0
        self.begun(0, now)

    def begun(self, under_way: int, now: float) -> None:
        """Begin to measure the rate anew, until all that is under way now has been acknowledged."""
        self._since, self._bytes, self._most, self._round = now, 0, 0, under_way

    def answered(self, seconds: float) -> None:
        """Take how long output was under way that had nothing before it."""
        longest = self._round_trip * _GAIN if self._round_trip else seconds  # one late answer is not a longer way
        self._round_trip = min(seconds, longest)

    def acked(self, newly: int, under_way: int, now: float) -> None:
        """Take an ack: bytes newly parsed, bytes that were under way before it, and the time in seconds."""
        self._bytes += newly
        self._most = max(self._most, under_way)
        spent = now - self._since
        if spent < _LEAST_WINDOW or self._bytes < self._round:
            return
        if self._most > self.size // 2:  # else it is the program that is slow
            wanted = int(self._bytes / spent * (self._round_trip * _GAIN + _AHEAD))
            self.size = max(LEAST_CREDIT, min(MOST_CREDIT, (self.size + wanted) // 2))
        self.begun(under_way - newly, now)


class Attachment:
    """A client attached to a history. Call `pull()` until it returns None, again after `ack()` or new output."""

    def __init__(self, history: History, hello: protocol.Hello, now: float) -> None:
        self._history = history
        self._control: deque[bytes] = deque()
        self._later: deque[tuple[int, bytes]] = deque()
        self._state: bytes | None = None
        self._replay_until: int | None = None
        self.credit = Credit(now)
        self._quiet = True  # nothing was under way when output was last sent
        self._first: tuple[int, float] | None = None  # offset and time of output that had nothing before it
        self.replays = 0
        self._progress = now
        self.position = self.acked = 0
        if hello.epoch == history.epoch and history.holds(hello.offset):
            self.position = self.acked = hello.offset
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
        """Queue a frame that is not output; it goes before the output that is still to be sent.

        A client that does not read makes nothing grow: beyond `MOST_CONTROL` frames nothing is queued, which are
        answers to its own PINGs then.
        """
        if len(self._control) < MOST_CONTROL:
            self._control.append(frame)

    def state(self, frame: bytes) -> None:
        """Queue the newest STATE in place of one that was not sent yet: a client that does not read costs no more."""
        self._state = frame

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
        if self._state is not None:
            frame, self._state = self._state, None
            return frame
        if self._replay_until is not None and self.position >= self._replay_until:
            self._replay_until = None
            return protocol.replay_end(self.position)
        if self._later and self.position >= self._later[0][0]:
            return self._later.popleft()[1]
        ready = (self._history.end if self._replay_until is None else self._replay_until) - self.position
        room = self.credit.size - (self.position - self.acked)
        if ready <= 0 or room < min(ready, _LEAST_PIECE):
            return None
        data = self._history.read(self.position, min(ready, room, protocol.MAX_OUTPUT))
        offset, self.position = self.position, self.position + len(data)
        return protocol.output(offset, data)

    def echo(self, size: int) -> int | None:
        """Return the offset of output that is about to be added to the history and sent, if it is next.

        None: it is for `pull()`, as all else.
        """
        if (
            self.position != self._history.end or self._control or self._later
            or self._state is not None or self._replay_until is not None
            or self.position + size - self.acked > self.credit.size
        ):  # fmt: skip
            return None
        offset = self.position
        self.position = offset + size
        return offset

    def sent(self, now: float) -> None:
        """Note that what was pulled has left."""
        if self._quiet and self.position > self.acked:
            self._quiet = False
            self._first = self.position, now
            self.credit.begun(self.position - self.acked, now)

    def ack(self, frame: protocol.Ack, now: float) -> None:
        """Take an ack.

        :raises ProtocolError: when it acknowledges what was never sent
        """
        if frame.parsed > self.position or frame.received > self.position:
            raise protocol.ProtocolError("ack of output that was not sent")
        if frame.parsed > self.acked:
            if self._first is not None and frame.parsed >= self._first[0]:
                self.credit.answered(now - self._first[1])
                self._first = None
            self.credit.acked(frame.parsed - self.acked, self.position - self.acked, now)
            self.acked = frame.parsed
            self._progress = now
            self._quiet = self.acked >= self.position

    def stalled(self, now: float) -> bool:
        """Tell whether output is in flight and nothing was acknowledged for a long time."""
        if self.position <= self.acked:
            self._progress = now
        return now - self._progress > STALLED_AFTER
