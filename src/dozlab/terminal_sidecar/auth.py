"""Who may come in: the password, the cookie, the Origin. Knows no routes.

Everything is in memory: a restarted sidecar asks for the password again.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal
from urllib.parse import urlsplit

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from dozlab.terminal_sidecar.settings import Settings

log = logging.getLogger(__name__)

# OWASP's smallest argon2id setting: a session costs 100 MiB in all, the default would take 64 of them per login.
_HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
TOKEN_SECONDS = 12 * 3600
_MOST_TOKENS = 256
_MOST_PASSWORD = 1024  # characters; argon2 would hash a megabyte as well

_FIRST_DELAY, _LONGEST_DELAY = 0.5, 4.0  # seconds before the next attempt of an address is looked at
_FORGET = 900.0  # seconds after which failures are forgotten
_MOST_WAITING = 8
_MOST_LANES = 4096
_MOST_COOKIES = 16


Role = Literal["owner", "editor", "viewer"]
"""Owners type, manage and decide the size; editors type; viewers only watch."""
ROLES: tuple[Role, ...] = ("owner", "editor", "viewer")
Need = Literal["any", "types", "manages"]


@dataclass(frozen=True)
class Member:
    """Whom a cookie belongs to. `id` is random, stays the same as long as the cookie, and may be shown and logged."""

    id: str
    role: Role
    name: str
    """What the person or the invitation said, or ""; plain text."""
    key: str
    """`Tokens.key` of the cookie's token."""

    @cached_property
    def types(self) -> bool:
        """Tell whether it may change anything in the guest."""
        return self.role in ("owner", "editor")

    @cached_property
    def manages(self) -> bool:
        """Tell whether it may decide who else comes in."""
        return self.role == "owner"

    def may(self, need: Need) -> bool:
        """Tell whether its role is enough."""
        return need == "any" or (self.types if need == "types" else self.manages)


class Busy(Exception):
    """Too many attempts wait in this lane."""


class _Lane:
    """Attempts of one address, or of one browser that was let in before."""

    def __init__(self) -> None:
        self.failures, self.last, self.waiting = 0, 0.0, 0
        self.turn = asyncio.Lock()

    def delay(self, now: float) -> float:
        if self.failures == 0 or now - self.last > _FORGET:
            self.failures = 0
            return 0.0
        wait: float = min(_FIRST_DELAY * 2 ** min(self.failures - 1, 10), _LONGEST_DELAY)
        return max(0.0, self.last + wait - now)


class Gate:
    """Checks passwords, one at a time, slower and slower for whoever keeps failing.

    Failures delay the next attempt, they never lock: another address is not slowed at all, and a browser that has
    been let in before has a lane of its own, so that nobody at the same proxy can keep the owner out.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float]) -> None:
        self._hash = settings.hashed_password or _HASHER.hash(settings.password)
        self._clock = clock
        self._lanes: dict[str, _Lane] = {}
        self._hashing = {known: asyncio.Lock() for known in (True, False)}  # a flood of strangers delays strangers

    async def check(self, password: str, lane_name: str) -> bool:
        """Tell whether the password is right.

        :param lane_name: whose attempts to count: the client's address, or its device
        :raises Busy: when too many attempts of this lane wait already
        """
        lane = self._lane(lane_name)
        if lane.waiting >= _MOST_WAITING:
            raise Busy
        lane.waiting += 1
        try:
            async with lane.turn:
                if wait := lane.delay(self._clock()):
                    await asyncio.sleep(wait)
                async with self._hashing[lane_name.startswith("device ")]:
                    right = await asyncio.to_thread(self._verify, password)
                lane.failures = 0 if right else lane.failures + 1
                lane.last = self._clock()
                return right
        finally:
            lane.waiting -= 1

    def _verify(self, password: str) -> bool:
        if len(password) > _MOST_PASSWORD:
            return False
        try:
            return _HASHER.verify(self._hash, password)
        except (VerificationError, InvalidHashError):
            return False

    def _lane(self, name: str) -> _Lane:
        if name not in self._lanes and len(self._lanes) >= _MOST_LANES:
            now = self._clock()
            idle = [key for key, lane in self._lanes.items() if not lane.waiting and lane.delay(now) == 0.0]
            for key in idle or [key for key, lane in self._lanes.items() if not lane.waiting][:1]:
                del self._lanes[key]
        return self._lanes.setdefault(name, _Lane())


class Tokens:
    """Random tokens in memory, kept as digests, each with a member and an end."""

    def __init__(self, clock: Callable[[], float], *, seconds: float = TOKEN_SECONDS, most: int = _MOST_TOKENS) -> None:
        self._clock, self._seconds, self._most = clock, seconds, most
        self._ends: dict[str, tuple[Member, float]] = {}

    def issue(self, role: Role = "owner", name: str = "", *, seconds: float | None = None) -> str:
        """Return a new token; the oldest is forgotten when there are too many.

        :param seconds: how long it is good for, where that is not what all are
        """
        token = secrets.token_urlsafe(32)
        while len(self._ends) >= self._most:
            del self._ends[next(iter(self._ends))]
        key = self.key(token)
        end = self._clock() + (self._seconds if seconds is None else seconds)
        self._ends[key] = Member(secrets.token_hex(4), role, name, key), end
        return token

    @staticmethod
    def key(token: str) -> str:
        """Return the name under which a token is kept; looking it up leaks nothing of the token by timing."""
        return hashlib.sha256(token.encode()).hexdigest()

    def member(self, token: str) -> Member | None:
        """Return whom the token belongs to; None for one that was not issued here, was revoked or has ended."""
        key = self.key(token)
        member, end = self._ends.get(key, (None, 0.0))
        if member is not None and self._clock() >= end:
            del self._ends[key]
            return None
        return member

    def valid(self, token: str) -> bool:
        """Tell whether the token was issued here and has not ended."""
        return self.member(token) is not None

    def known(self, key: str) -> bool:
        """Tell whether the token of that key is still good: for what lives longer than one request."""
        return key in self._ends and self._clock() < self._ends[key][1]

    def rename(self, key: str, name: str) -> Member | None:
        """Give the member of that key another name and return it; None when there is none."""
        if key not in self._ends:
            return None
        member, end = self._ends[key]
        self._ends[key] = replace(member, name=name), end
        return self._ends[key][0]

    def revoke(self, key: str) -> None:
        """Forget the token of that key."""
        self._ends.pop(key, None)


class Origins:
    """The Origin and Host rule: exact scheme, host and port (RFC 6454 section 6.2)."""

    def __init__(self, allowed: tuple[str, ...]) -> None:
        self._allowed = allowed
        self._hosts = {urlsplit(origin).netloc for origin in allowed}

    def host(self, host: str) -> bool:
        """Tell whether the Host header is one this server is reached by."""
        if not host or any(char in host for char in "/\\@?# \t,"):
            return False
        return not self._hosts or host.lower() in self._hosts

    def exact(self, origin: str, scheme: str, host: str) -> bool:
        """Tell whether a request's Origin is the page's own. A missing one ("") is not.

        :param scheme: http or https, as this server was spoken to
        """
        if not self.host(host):
            return False
        if self._allowed:
            return origin.lower() in self._allowed
        return origin.lower() == f"{scheme}://{host.lower()}"


class Cookies:
    """Names and attributes of the session's cookies. Cookies ignore ports, so the session's id is in the name."""

    def __init__(self, settings: Settings) -> None:
        self.session = f"dozlab-terminal-{settings.session_id}"
        self.device = f"{self.session}-device"
        self._path = f"{settings.base}/"

    def make(self, name: str, value: str, *, seconds: int, secure: bool) -> str:
        """Return a Set-Cookie header; an empty value with 0 seconds deletes."""
        parts = [f"{name}={value}", f"Path={self._path}", f"Max-Age={seconds}", "HttpOnly", "SameSite=Strict"]
        return "; ".join(parts + (["Secure"] if secure else []))

    def tokens(self, headers: Iterable[str]) -> list[str]:
        """Return what a request's Cookie headers hold under the session's name.

        It can be several: a page on another port of this host can add cookies of that name (RFC 6265, section 8.5).
        """
        pairs = (pair.strip().partition("=") for header in headers for pair in header.split(";"))
        return [value for name, _, value in pairs if name == self.session and value][:_MOST_COOKIES]
