"""How far a transfer is, in words, at most once a second. Pure but for the clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from dozlab.lib.units import format_size


class Progress:
    """Counts the bytes of a transfer.

    :param length: bytes to come, -1 unknown
    :param report: gets `line()` at most once a second, never in the first one
    """

    def __init__(self, length: int, report: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self.done = self._before = 0
        self._length, self._report, self._clock = length, report, clock
        self._started = self._last = clock()

    def begin_at(self, done: int) -> None:
        """Say how much of it an earlier try has brought: it counts as done, but not for the rate."""
        self._before = self.done = done

    def at(self, came: int) -> None:
        """Say how many bytes have come in all, the earlier try's apart."""
        self.done = self._before + came
        self._tell()

    def watch(self, blocks: Iterator[bytes]) -> Iterator[bytes]:
        """Pass the blocks through, counting."""
        for block in blocks:
            self.done += len(block)
            self._tell()
            yield block

    def _tell(self) -> None:
        now = self._clock()
        if now - self._last >= 1.0:
            self._last = now
            self._report(self.line())

    def line(self) -> str:
        """Return such as `120 MiB of 250 MiB (48 %), 35.0 MiB/s`."""
        rate = (self.done - self._before) / max(self._clock() - self._started, 0.001)
        if self._length > 0:
            share = min(100, 100 * self.done // self._length)
            return f"{format_size(self.done)} of {format_size(self._length)} ({share} %), {format_size(rate)}/s"
        return f"{format_size(self.done)}, {format_size(rate)}/s"
