"""The clients of one shell: who is here, who leads, and whose size the shell has. Sans-IO; the clock is an argument.

Whoever leads answers the queries of programs: exactly one client does, and never one that only watches.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from dozlab.terminal_sidecar.attachment import Attachment
from dozlab.terminal_sidecar.auth import Member

MOST_SHOWN = 32
"""Clients that STATE names."""
YIELDS_AFTER = 5.0
"""Seconds without a key after which an owner no longer keeps an editor from leading."""


class Wake(Protocol):
    """Is told that there may be something to send (`outlet.Outlet`)."""

    def set(self) -> None:
        """Look."""

    def printed(self, data: bytes) -> None:
        """Take output that is about to be added to the history; `set` follows."""


class Asleep:
    """Wakes nobody."""

    def set(self) -> None:
        """Do nothing."""

    def printed(self, data: bytes) -> None:
        """Do nothing."""


class Client:
    """A browser on a shell: its attachment, and what is to be told when there may be something to send."""

    def __init__(self, attachment: Attachment, member: Member, cols: int, rows: int) -> None:
        self.attachment, self.member = attachment, member
        self.wake: Wake = Asleep()
        self.cols, self.rows = cols, rows
        self.active = 0.0  # when it came, typed or took over
        self.turn = 0  # which of all these acts that was
        self.reminded = False  # that it only watches


def _turn(client: Client) -> int:
    return client.turn


class Clients:
    """Clients in the order they came. Every change of `leader` and `sizer` is made here."""

    def __init__(self) -> None:
        self.here: list[Client] = []
        """For who looks at them often; to be changed here only."""
        self._turn = 0
        self.leader: Client | None = None
        self.sizer: Client | None = None
        """The owner who acted last; without an owner, who leads. None: the size stays what it was."""

    def __iter__(self) -> Iterator[Client]:
        return iter(self.here)

    def __len__(self) -> int:
        return len(self.here)

    def add(self, client: Client, now: float) -> None:
        """Add a client. It leads, unless it only watches, or an owner leads and it is none."""
        self.here.append(client)
        if client.member.types:
            self._acted(client, now)
            if self.leader is None or client.member.manages or not self.leader.member.manages:
                self.leader = client
            self._choose_sizer()

    def remove(self, client: Client) -> None:
        """Remove a client; of those who type, the one who acted last leads in its place."""
        self.here.remove(client)
        if client is self.leader:
            self.leader = max((each for each in self.here if each.member.types), key=_turn, default=None)
        self._choose_sizer()

    def typed(self, client: Client, now: float) -> bool:
        """Note that a client who may has typed; return whether leader or sizer changed."""
        lead = client is not self.leader and self.may_lead(client, now)
        self._acted(client, now)
        if not lead and (client is self.sizer or not client.member.manages):
            return False  # as with nearly every key
        if lead:
            self.leader = client
        self._choose_sizer()
        return True

    def take_over(self, client: Client, now: float) -> bool:
        """Let a client lead that asks for it; return whether anything changed."""
        return self.may_lead(client, now) and self.typed(client, now)

    def may_lead(self, client: Client, now: float) -> bool:
        """Tell whether a client may lead: owners always, editors unless an owner leads who has just typed."""
        kept = self.leader is not None and self.leader.member.manages and now - self.leader.active < YIELDS_AFTER
        return client.member.manages or (client.member.types and not kept)

    def _acted(self, client: Client, now: float) -> None:
        self._turn += 1
        client.active, client.turn = now, self._turn

    def _choose_sizer(self) -> None:
        self.sizer = max((each for each in self.here if each.member.manages), key=_turn, default=self.leader)

    def people(self) -> list[dict[str, Any]]:
        """Return who is here; of very many the first ones, and who leads."""
        shown = self.here[:MOST_SHOWN]
        if self.leader is not None and self.leader not in shown:
            shown = [*shown[:-1], self.leader]
        return [
            {"id": each.member.id, "name": each.member.name, "role": each.member.role, "leads": each is self.leader}
            for each in shown
        ]
