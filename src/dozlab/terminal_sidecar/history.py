"""What a terminal has printed, in bounded memory or a file of that size, addressed by byte offset. Pure."""

from __future__ import annotations

import mmap
import secrets

from dozlab.terminal_sidecar.modes import ModeTracker

_LOOK_THROUGH = 4 << 10  # bytes that are forgotten before their modes are looked for
_SEARCH = 16 << 10  # bytes looked through for a line's end at which a replay may begin


class History:
    """The last `capacity` bytes of a terminal, and the modes it was in where they begin.

    Offsets count every byte ever printed; `epoch` names this count, so that a client of an earlier one
    (before the sidecar restarted) does not resume in the wrong stream.
    """

    def __init__(self, capacity: int = 1 << 20, ring: mmap.mmap | None = None) -> None:
        """Keep it in `ring`, which has `capacity` bytes; without one, in memory that grows up to that."""
        self.epoch = secrets.token_hex(8)
        self.start = 0
        self.end = 0
        self._capacity = capacity
        # A ring: byte of offset o at o % capacity.
        self._buffer: bytearray | mmap.mmap = bytearray() if ring is None else ring
        self._modes = ModeTracker()  # where `_forgotten` begins
        self._forgotten = bytearray()
        self._known = 0, ModeTracker()  # the modes at some offset, as found by `modes()`

    def append(self, data: bytes) -> None:
        """Add printed bytes, forgetting the oldest ones over the capacity."""
        capacity = self._capacity
        if len(data) > capacity:
            for at in range(0, len(data), capacity):
                self.append(data[at : at + capacity])
            return
        end = self.end + len(data)
        if end - self.start > capacity:
            self._forget(end - self.start - capacity)
        at = self.end % capacity
        first = capacity - at
        if first < len(data):
            self._buffer[at:] = data[:first]
            self._buffer[: len(data) - first] = data[first:]
        else:
            self._buffer[at : at + len(data)] = data
        self.end = end

    def _forget(self, size: int) -> None:
        """Let the oldest bytes go; what they mean for the modes is found out for many of them at once."""
        self._forgotten += self.read(self.start, size)
        self.start += size
        if len(self._forgotten) >= _LOOK_THROUGH:
            self._modes_at_start()

    def _modes_at_start(self) -> ModeTracker:
        if self._forgotten:
            self._modes.feed(bytes(self._forgotten))
            self._forgotten.clear()
        return self._modes

    def read(self, offset: int, limit: int) -> bytes:
        """Return up to `limit` bytes from `offset`, which must lie within start..end."""
        size = min(limit, self.end - offset)
        at = offset % self._capacity
        first = min(size, self._capacity - at)
        if first == size:
            return bytes(self._buffer[at : at + size])
        return bytes(self._buffer[at:]) + bytes(self._buffer[: size - first])

    @property
    def capacity(self) -> int:
        """Return the bytes it keeps at most."""
        return self._capacity

    def holds(self, offset: int) -> bool:
        """Tell whether a client that got as far as `offset` can go on from there."""
        return self.start <= offset <= self.end

    def replay(self, at: int = 0) -> tuple[int, bytes]:
        """Return where a replay into a fresh emulator begins, and its preamble.

        It begins after a line's end, so that no half of an escape sequence or character is shown as text.

        :param at: offset from which on the output is wanted; 0: all there is
        """
        at = max(at, self.start)
        if at == 0:
            return 0, b""
        head = self.read(at, _SEARCH)
        cut = head.find(b"\n") + 1 or head.find(b"\x1b")
        cut = max(cut, 0)
        modes = self._modes_at_start().copy()
        modes.feed(self.read(self.start, at - self.start + cut))
        return at + cut, modes.preamble()

    def modes(self) -> ModeTracker:
        """Return the modes at the end: what an emulator that has seen everything is in now.

        What was looked through once is not looked through again: a guest can make a megabyte take half a second, and
        whoever watches may ask as often as they like.
        """
        at, modes = self._known
        if at < self.start:
            at, modes = self.start, self._modes_at_start().copy()
        modes.feed(self.read(at, self.end - at))
        self._known = self.end, modes
        return modes.copy()
