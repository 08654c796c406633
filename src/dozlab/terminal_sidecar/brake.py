"""How far a program may run ahead of those who read it. Sans-IO; the clock is an argument."""

from __future__ import annotations

from collections.abc import Iterable

from dozlab.terminal_sidecar.attachment import STALLED_AFTER, Attachment
from dozlab.terminal_sidecar.history import History

AWAITED_FOR = STALLED_AFTER
"""Seconds that a program waits for its last reader, whose connection may just have dropped."""
_MARGIN = 32 << 10  # bytes: what one packet may still bring


class Brake:
    """Decides whether a shell's program is held back."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._awaited: tuple[int, float] | None = None  # offset that the last reader had parsed, and until when

    def left(self, reader: Attachment, now: float) -> None:
        """Take that a reader has gone, who may be about to come back."""
        self._awaited = reader.acked, now + AWAITED_FOR

    def holds(self, readers: Iterable[Attachment], now: float) -> bool:
        """Tell whether the program is to be held back now.

        It is while even the quickest reader has all it may have. With nobody there it runs on into the history, but
        for a while not beyond what the last reader needs to go on from where it was.
        """
        end = self._history.end
        lags = [end - reader.acked - reader.credit.size for reader in readers if not reader.stalled(now)]
        if lags:
            self._awaited = None
            return min(lags) >= 0
        if self._awaited is None or now >= self._awaited[1]:
            return False
        return end - self._awaited[0] >= self._history.capacity - _MARGIN
