"""How fast one may type, paste and ask: a rate for each member, however many terminals it has open. Pure."""

from __future__ import annotations

import weakref
from collections.abc import Callable

RATE, BURST = 4 << 20, 8 << 20
"""Bytes of frames from a client: a second, and at once."""
_FRAME_COST = 256  # bytes that any frame counts for at least
_LONGEST = 1.0  # seconds


class Pace:
    """Slows who sends more than the rate: a delay, so that TCP holds the sender back."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._level, self._at = clock, 0.0, clock()

    def delay(self, size: int) -> float:
        """Return the seconds to wait before the next frame is read, after one of `size` bytes."""
        now = self._clock()
        self._level = max(0.0, self._level - (now - self._at) * RATE) + max(size, _FRAME_COST)
        self._at = now
        return min(max(0.0, self._level - BURST) / RATE, _LONGEST)


class Paces:
    """One pace a member, as long as it has a terminal open."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._known: weakref.WeakValueDictionary[str, Pace] = weakref.WeakValueDictionary()

    def of(self, member_key: str) -> Pace:
        """Return the pace of whoever has this key."""
        pace = self._known.get(member_key)
        if pace is None:
            pace = self._known[member_key] = Pace(self._clock)
        return pace
