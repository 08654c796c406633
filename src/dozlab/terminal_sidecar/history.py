"""What a terminal has printed, in bounded memory, addressed by byte offset. Pure."""

from __future__ import annotations

import secrets

from dozlab.terminal_sidecar.modes import ModeTracker

_SEARCH = 16 << 10  # bytes looked through for a line's end at which a replay may begin


class History:
    """The last `capacity` bytes of a terminal, and the modes it was in where they begin.

    Offsets count every byte ever printed; `epoch` names this count, so that a client of an earlier one
    (before the sidecar restarted) does not resume in the wrong stream.
    """

    def __init__(self, capacity: int = 1 << 20) -> None:
        self.epoch = secrets.token_hex(8)
        self.start = 0
        self.end = 0
        self._capacity = capacity
        self._buffer = bytearray()  # grows to capacity, then is a ring: byte of offset o at o % capacity
        self._modes = ModeTracker()

    def append(self, data: bytes) -> None:
        """Add printed bytes, forgetting the oldest ones over the capacity."""
        capacity = self._capacity
        if len(data) > capacity:
            for at in range(0, len(data), capacity):
                self.append(data[at : at + capacity])
            return
        over = self.end + len(data) - self.start - capacity
        if over > 0:
            self._modes.feed(self.read(self.start, over))
            self.start += over
        at = self.end % capacity
        first = min(len(data), capacity - at)
        self._buffer[at : at + first] = data[:first]
        if first < len(data):
            self._buffer[: len(data) - first] = data[first:]
        self.end += len(data)

    def read(self, offset: int, limit: int) -> bytes:
        """Return up to `limit` bytes from `offset`, which must lie within start..end."""
        size = min(limit, self.end - offset)
        at = offset % self._capacity
        first = min(size, self._capacity - at)
        if first == size:
            return bytes(self._buffer[at : at + size])
        return bytes(self._buffer[at:]) + bytes(self._buffer[: size - first])

    def holds(self, offset: int) -> bool:
        """Tell whether a client that got as far as `offset` can go on from there."""
        return self.start <= offset <= self.end

    def replay(self) -> tuple[int, bytes]:
        """Return where a replay into a fresh emulator begins, and its preamble.

        It begins after a line's end, so that no half of an escape sequence or character is shown as text.
        """
        if self.start == 0:
            return 0, b""
        head = self.read(self.start, _SEARCH)
        cut = head.find(b"\n") + 1 or head.find(b"\x1b")
        cut = max(cut, 0)
        modes = self._modes.copy()
        modes.feed(head[:cut])
        return self.start + cut, modes.preamble()

    def modes(self) -> ModeTracker:
        """Return the modes at the end: what an emulator that has seen everything is in now."""
        modes = self._modes.copy()
        modes.feed(self.read(self.start, self.end - self.start))
        return modes
