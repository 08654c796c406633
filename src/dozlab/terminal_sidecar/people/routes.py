"""Routes and verbs of people: who is here, invitations made, used and revoked. The rules are in invitations.py."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from dozlab.lib.control import Verb
from dozlab.lib.errors import BadUsage, DozlabError
from dozlab.terminal_sidecar.auth import ROLES, Member, Role
from dozlab.terminal_sidecar.people.invitations import USUAL, Invitations, plain_name

if TYPE_CHECKING:
    from dozlab.terminal_sidecar.server import Sidecar

log = logging.getLogger(__name__)

_LEAST_PLACES = 8
"""Terminals that everybody may have open at a time, as far as there are places."""

_MOST_BODY = 4 << 10  # bytes
_SAY_EVERY = 60.0  # seconds between two lines in the log: anybody can cause them
_NO_STORE = {"Cache-Control": "no-store"}
_NOT_GOOD = "This link is not good any more: it was used, was revoked or has ended. Ask for a new one."


def _wanted(raw: dict[str, Any]) -> tuple[Role, str, float]:
    """Return role, name and seconds of a request for an invitation.

    :raises BadUsage: when it holds something else
    """
    role, name, seconds = raw.get("role", "viewer"), raw.get("name", ""), raw.get("seconds", USUAL)
    if role not in ROLES:
        raise BadUsage(f"role must be one of {', '.join(ROLES)}")
    if not isinstance(name, str) or isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise BadUsage("name must be text, seconds a number")
    return role, name, seconds


async def _body(request: Request) -> dict[str, Any]:
    """Return the JSON object that a request carries.

    :raises BadUsage: when it is something else, or too large
    """
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MOST_BODY:
            raise BadUsage("the request is too large")
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadUsage("the request holds no JSON") from error
    if not isinstance(found, dict):
        raise BadUsage("the request holds no JSON object")
    return found


def _refusal(error: DozlabError, status: int = 400) -> Response:
    return JSONResponse({"error": str(error)}, status, _NO_STORE)


class People:
    """Who is here and who may come in, for the page and for `dozlab share`."""

    def __init__(self, sidecar: Sidecar, clock: Callable[[], float]) -> None:
        self._sidecar = sidecar
        self.invitations = Invitations(clock)
        self._clock, self._refused, self._say_again = clock, 0, 0.0

    def routes(self) -> list[BaseRoute]:
        """Return the routes."""
        return [
            Route("/join", self.join, methods=["GET", "POST"]),
            Route("/people", self.show, methods=["GET"]),
            Route("/people/me", self.name_me, methods=["PUT"]),
            Route("/people/invitations", self.invite, methods=["POST"]),
            Route("/people/invitations/{id}", self.uninvite, methods=["DELETE"]),
        ]

    def verbs(self) -> dict[str, Verb]:
        """Return the verbs of `terminal.sock`, which only this session's own user can open."""
        return {"share": self._share, "shares": self._shares, "unshare": self._unshare}

    # --- in the page

    async def join(self, request: Request) -> Response:
        """Serve the page that posts the ticket of its address's fragment, and exchange the ticket for a cookie.

        The ticket never stands in a request's path or query: no log, no proxy and no Referer holds it.
        """
        if not self._sidecar.origins.host(request.headers.get("host", "")):
            return _refusal(BadUsage("this host name is not served here"), 421)
        if request.method != "POST":
            return self._sidecar.pages.join()
        if not self._sidecar.same_origin(request):
            return _refusal(BadUsage("cross-origin request refused"), 403)
        try:
            told = await _body(request)
        except BadUsage as error:
            return _refusal(error)
        ticket, name = told.get("ticket"), told.get("name", "")
        invitation = self.invitations.look(ticket) if isinstance(ticket, str) else None
        if invitation is None or not isinstance(ticket, str) or not isinstance(name, str):
            self._refused += 1
            if self._clock() >= self._say_again:
                self._say_again = self._clock() + _SAY_EVERY
                log.warning("links that are not good were tried, %d so far", self._refused)
            return JSONResponse({"error": _NOT_GOOD}, 403, _NO_STORE)
        present = self._sidecar.member(request)
        if present is not None and not self._gains(present, invitation.role):
            here = f"This browser is here already, as {present.role}. Open the link in another browser."
            return JSONResponse({"error": here}, 409, _NO_STORE)
        seconds = int(self.invitations.left(invitation))
        tokens = self._sidecar.tokens
        token = tokens.issue(invitation.role, invitation.name or plain_name(name), seconds=seconds)
        self.invitations.use(ticket, tokens.key(token))
        response = JSONResponse({"role": invitation.role}, headers=_NO_STORE)
        self._sidecar.set_cookie(request, response, token, seconds)
        log.info("invitation %s is used, by a %s", invitation.id, invitation.role)
        if present is not None:
            await self._sidecar.shut_out([present.key], "another link was opened")
        return response

    def _gains(self, present: Member, role: Role) -> bool:
        """Tell whether who is here gains by another link: an owner who clicks his own must not become a viewer."""
        before, after = ROLES.index(present.role), ROLES.index(role)
        return after < before or (after == before and self.invitations.of(present.key) is not None)

    async def show(self, request: Request) -> Response:
        """Serve who is here in all shells; to owners the invitations too."""
        asks = self._sidecar.guard(request)
        if isinstance(asks, Response):
            return asks
        told: dict[str, Any] = {"you": asks.id, "named": self._named(asks), "people": self._here()}
        if asks.manages:
            told["invitations"] = self._invitations()
        return JSONResponse(told, headers=_NO_STORE)

    async def name_me(self, request: Request) -> Response:
        """Take the name that somebody wants to be shown by, unless the invitation says who it is."""
        asks = self._sidecar.guard(request, post=True)
        if isinstance(asks, Response):
            return asks
        try:
            name = (await _body(request)).get("name")
            if not isinstance(name, str):
                raise BadUsage("name must be text")
        except BadUsage as error:
            return _refusal(error)
        if self._named(asks):
            return _refusal(BadUsage("your link says who you are"), 403)
        member = self._sidecar.tokens.rename(asks.key, plain_name(name))
        if member is not None:
            self._sidecar.shells.renamed(member)
        return JSONResponse({"name": plain_name(name)}, headers=_NO_STORE)

    async def invite(self, request: Request) -> Response:
        """Make an invitation. The answer is the only place that ever holds its ticket."""
        asks = self._sidecar.guard(request, need="manages", post=True)
        if isinstance(asks, Response):
            return asks
        try:
            told = self._make(*_wanted(await _body(request)), by=asks)
        except DozlabError as error:
            return _refusal(error, 400 if isinstance(error, BadUsage) else 409)
        return JSONResponse(told, 201, _NO_STORE)

    async def uninvite(self, request: Request) -> Response:
        """Revoke an invitation, and close what came in by it."""
        asks = self._sidecar.guard(request, need="manages", post=True)
        if isinstance(asks, Response):
            return asks
        try:
            await self._revoke(request.path_params["id"])
        except DozlabError as error:
            return _refusal(error, 404)
        return JSONResponse({"invitations": self._invitations()}, headers=_NO_STORE)

    # --- by the command

    async def _share(self, request: dict[str, Any]) -> dict[str, Any]:
        return self._make(*_wanted(request), by=None)

    async def _shares(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"invitations": self._invitations(), "people": self._here()}

    async def _unshare(self, request: dict[str, Any]) -> dict[str, Any]:
        await self._revoke(str(request.get("id", "")))
        return {"invitations": self._invitations()}

    # --- both

    def _make(self, role: Role, name: str, seconds: float, *, by: Member | None) -> dict[str, Any]:
        invitation, ticket = self.invitations.make(role, name, seconds, by=by.key if by else "")
        log.info("invitation %s for a %s is made by %s", invitation.id, role, by.id if by else "the command")
        return {"invitation": self.invitations.fields(invitation), "path": f"join#{ticket}"}

    def _invitations(self) -> list[dict[str, Any]]:
        return [self.invitations.fields(each) for each in self.invitations.all() if self.invitations.left(each) > 0]

    def _named(self, member: Member) -> bool:
        invitation = self.invitations.of(member.key)
        return invitation is not None and bool(invitation.name)

    def _here(self) -> list[dict[str, Any]]:
        return [
            {"shell": shell.name, "id": client.member.id, "name": client.member.name, "role": client.member.role,
             "leads": client is shell.clients.leader}
            for shell in self._sidecar.shells.all() for client in shell.clients
        ]  # fmt: skip

    async def _revoke(self, id_: str) -> None:
        gone = self.invitations.revoke(id_)
        log.info("invitation %s is revoked", ", ".join(each.id for each in gone))
        await self._sidecar.shut_out([each.key for each in gone if each.key], "your invitation was revoked")

    async def sweep(self) -> None:
        """Close what came in by an invitation that has ended."""
        gone = self.invitations.ended()
        await self._sidecar.shut_out([each.key for each in gone if each.key], "your invitation has ended")

    def full(self, member: Member, here: list[Member], most: int) -> bool:
        """Tell whether there is no room for another client of this member.

        A quarter of the places is for owners alone, so that nobody who was invited can keep them out, and nobody who
        was invited gets more than half of the others, so that they do not keep out one another.
        """
        if len(here) >= most or member.manages:
            return len(here) >= most
        others, own = most - most // 4, sum(each.key == member.key for each in here)
        return sum(not each.manages for each in here) >= others or own >= max(_LEAST_PLACES, others // 2)
