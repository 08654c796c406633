"""How long to wait before a component that ended is started again. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Backoff:
    """Kubernetes' own rule in small: doubles from `first` to `limit`, forgets after a long enough life.

    Times are seconds.
    """

    first: float = 0.5
    limit: float = 30.0
    healthy: float = 60.0
    """A component that lived this long was well: start over at `first`."""
    _next: float = 0.0

    def next(self, *, lived: float) -> float:
        """Return the delay after a life of `lived` seconds."""
        if lived >= self.healthy or not self._next:
            self._next = self.first
        delay = self._next
        self._next = min(self.limit, self._next * 2)
        return delay
