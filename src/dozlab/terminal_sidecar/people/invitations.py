"""Invitations: a ticket that is good once becomes one cookie. In memory; no routes; the clock is an argument."""

from __future__ import annotations

import secrets
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dozlab.lib.errors import BadUsage, DozlabError
from dozlab.terminal_sidecar.auth import Role, Tokens

MOST = 64
"""Invitations at a time, used ones included."""
SHORTEST, USUAL, LONGEST = 60, 2 * 3600, 7 * 86400
"""Seconds that an invitation, and whoever came in by it, may last."""
MOST_NAME = 40
_JOINERS = "\u200c\u200d"  # ZWNJ and ZWJ: Persian and emoji are written with them


def plain_name(text: str) -> str:
    """Return a name as it may be shown: one line without control and direction characters, at most 40 characters."""
    kept = (char if char in _JOINERS or unicodedata.category(char)[0] != "C" else " " for char in text[: 8 * MOST_NAME])
    return " ".join("".join(kept).split())[:MOST_NAME].strip()


@dataclass
class Invitation:
    """One link: what it is for, until when, and who came in by it."""

    id: str
    role: Role
    name: str
    ends: float
    """By the clock of `Invitations`."""
    by: str = ""
    """`Member.key` of who made it; "" for the command."""
    key: str = ""
    """`Member.key` of who came in by it; "" while the link was not used."""


class Invitations:
    """All invitations of a session; those that have ended are forgotten by `ended()`."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._all: dict[str, Invitation] = {}
        self._tickets: dict[str, str] = {}  # Tokens.key of the ticket -> id

    def make(self, role: Role, name: str = "", seconds: float = USUAL, *, by: str = "") -> tuple[Invitation, str]:
        """Return a new invitation and its ticket, which is kept nowhere else.

        One made by somebody who was invited ends with the one that let them in.

        :raises BadUsage: when the time is too short or too long
        :raises DozlabError: when there are too many
        """
        if not SHORTEST <= seconds <= LONGEST:
            raise BadUsage("an invitation lasts one minute to seven days")
        if len(self._all) >= MOST:
            raise DozlabError(f"there are {MOST} invitations already", hint="revoke one first")
        ends = self._clock() + seconds
        own = self.of(by) if by else None
        if own is not None:
            ends = min(ends, own.ends)
        invitation = Invitation(secrets.token_hex(4), role, plain_name(name), ends, by)
        ticket = secrets.token_urlsafe(32)
        self._all[invitation.id] = invitation
        self._tickets[Tokens.key(ticket)] = invitation.id
        return invitation, ticket

    def look(self, ticket: str) -> Invitation | None:
        """Return the invitation that the ticket opens; None when it was used, revoked or never was, or has ended."""
        invitation = self._all.get(self._tickets.get(Tokens.key(ticket), ""))
        return invitation if invitation is not None and self.left(invitation) > 0 else None

    def use(self, ticket: str, key: str) -> None:
        """Note who came in by a ticket that was looked at; it opens nothing any more."""
        self._all[self._tickets.pop(Tokens.key(ticket))].key = key

    def of(self, key: str) -> Invitation | None:
        """Return the invitation that somebody came in by; None for who knows the password."""
        return next((each for each in self._all.values() if key and each.key == key), None)

    def left(self, invitation: Invitation) -> float:
        """Return the seconds until an invitation ends."""
        return invitation.ends - self._clock()

    def revoke(self, id_: str) -> list[Invitation]:
        """Forget an invitation, and all that were made by who came in by it; return them.

        :raises DozlabError: when there is none of that id
        """
        if id_ not in self._all:
            raise DozlabError(f"there is no invitation {id_}", hint="list them anew")
        gone, open_ = [], [id_]
        while open_:
            invitation = self._all.pop(open_.pop())
            gone.append(invitation)
            open_ += [each.id for each in self._all.values() if invitation.key and each.by == invitation.key]
        ids = {each.id for each in gone}
        self._tickets = {digest: id_ for digest, id_ in self._tickets.items() if id_ not in ids}
        return gone

    def ended(self) -> list[Invitation]:
        """Forget the invitations whose time is over, and return them."""
        over = [each.id for each in self._all.values() if self.left(each) <= 0]
        return [invitation for id_ in over if id_ in self._all for invitation in self.revoke(id_)]

    def all(self) -> list[Invitation]:
        """Return the invitations, the oldest first."""
        return list(self._all.values())

    def fields(self, invitation: Invitation) -> dict[str, Any]:
        """Return what an owner is told of an invitation."""
        return {
            "id": invitation.id, "role": invitation.role, "name": invitation.name, "used": bool(invitation.key),
            "left": max(0, round(self.left(invitation))),
        }  # fmt: skip
