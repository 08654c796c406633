"""Who may come through the proxy, and to which port: a ticket that is good once becomes a browser's pass. In memory."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass

TICKET_SECONDS = 60.0
PASS_SECONDS = 12 * 3600.0
_MOST_TICKETS, _MOST_PASSES = 64, 512


@dataclass(frozen=True)
class Pass:
    """What a ticket or a cookie stands for."""

    port: int
    member: str
    """`Member.key`: with the login it ends."""
    end: float


class Passes:
    """Tickets and passes, kept as digests.

    :param known: tells whether a member's login is still good
    """

    def __init__(self, clock: Callable[[], float], known: Callable[[str], bool]) -> None:
        self._clock, self._known = clock, known
        self._tickets: dict[str, Pass] = {}
        self._passes: dict[str, Pass] = {}

    def ticket(self, member: str, port: int) -> str:
        """Return a ticket for a port."""
        return self._issue(self._tickets, Pass(port, member, self._clock() + TICKET_SECONDS), _MOST_TICKETS)

    def enter(self, ticket: str) -> str | None:
        """Take a ticket and return the pass for it; None where it is not good, or not any more."""
        found = self._living(self._tickets.pop(_key(ticket), None))
        if found is None:
            return None
        return self._issue(self._passes, Pass(found.port, found.member, self._clock() + PASS_SECONDS), _MOST_PASSES)

    def look(self, token: str) -> Pass | None:
        """Return what a pass is good for, None for nothing."""
        return self._living(self._passes.get(_key(token)))

    def drop(self, members: Iterable[str]) -> None:
        """Forget what these members have."""
        gone = set(members)
        for kept in (self._tickets, self._passes):
            for key in [key for key, each in kept.items() if each.member in gone]:
                del kept[key]

    def _living(self, found: Pass | None) -> Pass | None:
        return found if found is not None and self._clock() < found.end and self._known(found.member) else None

    @staticmethod
    def _issue(kept: dict[str, Pass], each: Pass, most: int) -> str:
        while len(kept) >= most:
            del kept[next(iter(kept))]
        token = secrets.token_urlsafe(32)
        kept[_key(token)] = each
        return token


def _key(token: str) -> str:
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()
