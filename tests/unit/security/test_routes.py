"""Every route there is, or will be: nothing without a login, for a stranger's page, or beyond a role."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute

from dozlab.terminal_sidecar.auth import Role
from dozlab.terminal_sidecar.server import Sidecar as Application

from .conftest import Lab, Visitor

OPEN = {
    ("GET", "/"), ("GET", "/login"), ("POST", "/login"), ("POST", "/logout"), ("GET", "/join"), ("POST", "/join"),
    ("GET", "/assets/{name}"), ("GET", "/health"), ("GET", "/ready"), ("GET", "/metrics"),
}  # fmt: skip
"""What strangers may ask for: the ways in, the page's own files (nothing secret), the probes."""
WATCHING = {("GET", "/timeline"), ("GET", "/shells"), ("GET", "/people"), ("PUT", "/people/me")}
OWNING = {("POST", "/people/invitations"), ("DELETE", "/people/invitations/{id}"), ("DELETE", "/recordings/{id}")}


def asked(routes: Iterable[BaseRoute]) -> Iterator[tuple[str, str]]:
    """Yield method and path of each route."""
    for route in routes:
        if isinstance(route, Mount):
            yield from asked(route.routes)
        elif isinstance(route, Route):
            yield from ((method, route.path) for method in sorted(route.methods or {"GET"}) if method != "HEAD")


def guarded(application: Application) -> list[tuple[str, str]]:
    """Return the routes that are not open to strangers."""
    found = list(asked(application.app.routes))
    assert set(found) >= OPEN and len(found) > 20
    return [each for each in found if each not in OPEN]


def concrete(path: str) -> str:
    """Return a path with something in its braces, of the kind that is wanted."""
    return path.replace("{port:int}", "3000").replace("{name}", "main").replace("{id}", "none")


def cookie_of(application: Application, role: Role) -> str:
    return f"{application.cookies.session}={application.tokens.issue(role)}"


@pytest.fixture
def application(lab: Lab) -> Application:
    return lab.sidecar()


async def test_no_route_answers_who_is_not_logged_in(application: Application) -> None:
    visitor = Visitor(application.app)
    for method, path in guarded(application):
        for cookie in ("", "dozlab-terminal-lab1=guess"):
            reply = await visitor.ask(concrete(path), method=method, Cookie=cookie)
            assert reply.status == 401, (method, path)


async def test_nothing_is_changed_by_a_page_of_another_origin_or_of_none(application: Application) -> None:
    visitor, cookie = Visitor(application.app), cookie_of(application, "owner")
    for method, path in guarded(application):
        for site in ("same-site", "cross-site"):
            reply = await visitor.ask(concrete(path), method=method, Cookie=cookie, Sec_Fetch_Site=site)
            assert reply.status == 403, (method, path, site)
        if method == "GET":
            continue
        for origin in ("", "null", "http://lab.example:8082", "https://lab.example:8081"):
            reply = await visitor.ask(concrete(path), method=method, Cookie=cookie, Origin=origin)
            assert reply.status == 403, (method, path, origin)


async def test_a_role_does_what_it_is_for_and_no_more(application: Application) -> None:
    visitor = Visitor(application.app)
    for method, path in guarded(application):
        cases: dict[Role, bool] = {"viewer": (method, path) not in WATCHING, "editor": (method, path) in OWNING}
        for role, beyond in cases.items():
            reply = await visitor.ask(concrete(path), method=method, Cookie=cookie_of(application, role))
            assert (reply.status == 403) is beyond, (role, method, path, reply)


async def test_every_terminal_wants_cookie_and_origin(application: Application) -> None:
    visitor, cookie = Visitor(application.app), cookie_of(application, "owner")
    paths = {route.path for route in application.app.routes if isinstance(route, WebSocketRoute)}
    assert {"/ws", "/terminal"} <= paths
    for path in paths:
        address = f"{path}?session_id=lab1"
        assert await visitor.knock(address) == 401, path
        assert await visitor.knock(address, Cookie=cookie, Origin="") == 403, path
        assert await visitor.knock(address, Cookie=cookie, Origin="http://lab.example:8082") == 403, path
        assert await visitor.knock(address, Cookie=cookie) == 101, path
