"""Links of a real sidecar: made, used once, seen, revoked, ended; what a viewer may not do on any route."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import BaseRoute, Mount, Route
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from dozlab.lib.errors import DozlabError
from dozlab.terminal_sidecar import protocol as p
from dozlab.terminal_sidecar.__main__ import main
from dozlab.terminal_sidecar.server import Sidecar as App
from dozlab.terminal_sidecar.settings import Settings

from .conftest import Guest, Sidecar, Terminal, terminal

JSON = {"Content-Type": "application/json"}


def ask(
    sidecar: Sidecar, method: str, path: str, cookie: str = "", body: object = None, **headers: str
) -> tuple[int, Any, str]:
    """Return status, the JSON of the answer and the cookie it sets."""
    sent = JSON | {"Origin": sidecar.origin, "Cookie": cookie} | headers
    text = None if body is None else json.dumps(body)
    status, found, answer = sidecar.request(method, f"{sidecar.base}{path}", text, sent)
    told = json.loads(answer) if "json" in found.get("content-type", "") else answer
    return status, told, found.get("set-cookie", "").split(";")[0]


def invite(sidecar: Sidecar, owner: str, **wanted: object) -> tuple[str, str]:
    """Return an invitation's id and ticket."""
    status, told, _ = ask(sidecar, "POST", "/people/invitations", owner, wanted)
    assert status == 201, told
    assert set(told) == {"invitation", "path"}
    page, _, ticket = told["path"].partition("#")
    assert page == "join"
    return told["invitation"]["id"], ticket


def join(sidecar: Sidecar, ticket: str, name: str = "") -> str:
    """Return the cookie that the ticket becomes."""
    status, told, cookie = ask(sidecar, "POST", "/join", body={"ticket": ticket, "name": name})
    assert status == 200, told
    return cookie


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    machine = Guest(tmp_path_factory.mktemp("shared"))
    machine.boot()
    yield machine
    machine.switch_off()


@pytest.fixture(scope="module")
def sidecar(guest: Guest, page: Path) -> Iterator[Sidecar]:
    """One for all: each test has invitations, and shells, of its own."""
    server = Sidecar(guest.shared, guest.port, page)
    server.until("/ready", 200)
    yield server
    assert server.stop() == 0


@pytest.fixture
def owner(sidecar: Sidecar) -> str:
    return sidecar.login()[1]


async def closing(client: Terminal) -> tuple[int, str]:
    """Return the code and the reason that a client is closed with."""
    with pytest.raises(ConnectionClosed) as caught:
        async with asyncio.timeout(60):
            while True:
                await client.take()
    assert caught.value.rcvd is not None
    return caught.value.rcvd.code, caught.value.rcvd.reason


async def test_a_viewer_sees_and_cannot_type_and_an_editor_can(sidecar: Sidecar, owner: str) -> None:
    viewer = join(sidecar, invite(sidecar, owner, role="viewer")[1], "Vera\x1b]0;x\x07")
    editor = join(sidecar, invite(sidecar, owner, role="editor", name="Ed")[1], "somebody else")
    async with terminal(sidecar, owner, p.Hello("seen", cols=100)) as first:
        await first.until(b"guest$ ")
        hello = p.Hello("seen", cols=50)
        async with terminal(sidecar, viewer, hello) as sees, terminal(sidecar, editor, hello) as types:
            frame = await first.until_frame(p.STATE, clients=3)
            assert frame.fields is not None and frame.fields["cols"] == 100
            assert [(each["role"], each["name"]) for each in frame.fields["people"]] == [
                ("owner", ""), ("viewer", "Vera ]0;x"), ("editor", "Ed"),
            ]  # fmt: skip
            await sees.type("echo never\n")
            await sees.send(p.Resize(33, 11))
            await sees.send(p.Lead())
            await types.type("echo ty''ped; stty size\n")
            await sees.until(b"typed\r\n24 100\r\n")
            assert b"never" not in sees.text
            own = [each.fields for each in sees.frames if each.kind == p.STATE][-1]
            assert own is not None and own["you"] == frame.fields["people"][1]["id"]
            assert (own["role"], own["lead"], own["sizes"]) == ("viewer", False, False)


async def test_a_viewer_only_watches_by_the_original_protocol_too(sidecar: Sidecar, owner: str) -> None:
    viewer = join(sidecar, invite(sidecar, owner, role="viewer")[1])
    async with terminal(sidecar, owner, p.Hello(cols=91)) as first:
        await first.until(b"guest$ ")
        url = f"ws://127.0.0.1:{sidecar.port}/terminal?session_id={sidecar.session}"
        headers = {"Cookie": viewer, "Origin": sidecar.origin}
        async with connect(url, additional_headers=headers, proxy=None) as sees:
            await first.until_frame(p.STATE, clients=2)
            await sees.send(json.dumps({"type": "resize", "cols": 40, "rows": 10}))
            await sees.send(json.dumps({"type": "input", "data": "echo never\n"}))
            await sees.ping()
            await first.type("stty size; echo af''ter\n")
            await first.until(b"after\r\n")
            assert b"24 91" in first.text and b"never" not in first.text


def test_a_link_is_good_once_and_in_no_log(sidecar: Sidecar, owner: str) -> None:
    id_, ticket = invite(sidecar, owner, role="viewer", name="x")
    status, headers, body = sidecar.request("GET", "/join")
    assert status == 200 and b"join lab1" in body and headers["cache-control"] == "no-store"
    for origin in ("", "null", "http://evil.example"):
        assert ask(sidecar, "POST", "/join", body={"ticket": ticket}, Origin=origin)[0] == 403
    assert ask(sidecar, "POST", "/join", body={"ticket": ticket}, Host="evil.example:1")[0] == 403
    for wrong in ({"ticket": ticket + "x"}, {"ticket": 5}, {}, {"ticket": id_}):
        assert ask(sidecar, "POST", "/join", body=wrong)[0] == 403
    assert ask(sidecar, "POST", "/join", body=["x"])[0] == 400
    assert ask(sidecar, "POST", "/join", body={"ticket": "x" * 9000})[0] == 400
    cookie = join(sidecar, ticket)
    status, told, none = ask(sidecar, "POST", "/join", body={"ticket": ticket})
    assert (status, none) == (403, "") and "not good any more" in told["error"]
    assert b"terminal of lab1" in sidecar.request("GET", "/", headers={"Cookie": cookie})[2]
    assert ticket not in sidecar.log() and cookie.partition("=")[2] not in sidecar.log()
    assert sidecar.log().count("links that are not good were tried") == 1  # nobody fills the log with them
    listed = ask(sidecar, "GET", "/people", owner)[1]["invitations"]
    assert (id_, True) in [(each["id"], each["used"]) for each in listed] and ticket not in json.dumps(listed)


def test_the_cookie_of_a_link_ends_with_it(sidecar: Sidecar, owner: str) -> None:
    _, ticket = invite(sidecar, owner, role="viewer", seconds=90)
    sent = JSON | {"Origin": sidecar.origin}
    status, headers, _ = sidecar.request("POST", "/join", json.dumps({"ticket": ticket}), sent)
    attributes = headers["set-cookie"].split("; ")
    assert status == 200 and {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(attributes)
    assert 80 <= int(next(each for each in attributes if each.startswith("Max-Age="))[8:]) <= 90


def test_who_is_here_already_keeps_what_he_has(sidecar: Sidecar, owner: str) -> None:
    _, ticket = invite(sidecar, owner, role="viewer")
    status, told, cookie = ask(sidecar, "POST", "/join", owner, {"ticket": ticket})
    assert (status, cookie) == (409, "") and "already" in told["error"]
    viewer = join(sidecar, ticket)  # the link was not used up by that
    _, better = invite(sidecar, owner, role="editor")
    status, told, editor = ask(sidecar, "POST", "/join", viewer, {"ticket": better})
    assert (status, told["role"]) == (200, "editor")
    assert ask(sidecar, "GET", "/people", viewer)[0] == 401  # one browser, one cookie
    assert ask(sidecar, "GET", "/people", editor)[0] == 200


async def test_revoking_closes_what_came_in_by_it(sidecar: Sidecar, owner: str) -> None:
    id_, ticket = invite(sidecar, owner, role="owner", name="deputy")
    deputy = join(sidecar, ticket)
    _, inner = invite(sidecar, deputy, role="editor")
    editor = join(sidecar, inner)
    hello = p.Hello("revoked")
    async with (
        terminal(sidecar, owner, hello) as stays, terminal(sidecar, deputy, hello) as one,
        terminal(sidecar, editor, hello) as two,
    ):  # fmt: skip
        await stays.until_frame(p.STATE, clients=3, guest="live")
        assert ask(sidecar, "DELETE", f"/people/invitations/{id_}", editor)[0] == 403
        assert ask(sidecar, "DELETE", f"/people/invitations/{id_}", owner, Origin="")[0] == 403
        status, told, _ = ask(sidecar, "DELETE", f"/people/invitations/{id_}", owner)
        assert status == 200 and id_ not in [each["id"] for each in told["invitations"]]
        assert await closing(one) == await closing(two) == (p.CLOSE_LOGGED_OUT, "your invitation was revoked")
        await stays.until_frame(p.STATE, clients=1)
        await stays.type("echo go''es on\n")
        await stays.until(b"goes on\r\n")
    for cookie in (deputy, editor):
        assert ask(sidecar, "GET", "/people", cookie)[0] == 401
        with pytest.raises(InvalidStatus):
            async with terminal(sidecar, cookie):
                pass
    assert ask(sidecar, "DELETE", f"/people/invitations/{id_}", owner)[0] == 404


async def test_an_end_closes_it_by_itself(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock of our own: a minute is too long for a test."""
    now = [0.0]
    app = App(Settings("s", password="p", page_dir=page), clock=lambda: now[0])
    _, ticket = app.people.invitations.make("viewer", "", 60)
    token = app.tokens.issue("viewer", seconds=60)
    app.people.invitations.use(ticket, app.tokens.key(token))
    closed: list[str] = []

    async def shut_out(keys: list[str], reason: str) -> None:
        closed.extend([*keys, reason] if keys else [])

    monkeypatch.setattr(app, "shut_out", shut_out)
    now[0] = 59
    await app.people.sweep()
    assert closed == [] and app.tokens.member(token) is not None
    now[0] = 60
    await app.people.sweep()
    assert closed == [app.tokens.key(token), "your invitation has ended"] and app.tokens.member(token) is None


def every(routes: list[BaseRoute], base: str = "") -> Iterator[tuple[str, str]]:
    """Yield method and path of each route that may change something, with a name in place of each parameter."""
    for route in routes:
        if isinstance(route, Mount):
            yield from every(list(route.routes), base + route.path)
        elif isinstance(route, Route):
            for method in sorted((route.methods or set()) - {"GET", "HEAD", "OPTIONS"}):
                path = "/".join("main" if part.startswith("{") else part for part in route.path.split("/"))
                yield method, base + path


OPEN_TO_ALL = {("POST", "/login"), ("POST", "/logout"), ("POST", "/join"), ("PUT", "/people/me")}
"""What changes nothing but the browser's own cookie or name."""


def test_a_viewer_changes_nothing_by_any_route(sidecar: Sidecar, owner: str) -> None:
    viewer = join(sidecar, invite(sidecar, owner, role="viewer")[1])
    routes = list(every(App(Settings("s", password="p", page_dir=sidecar.page)).app.routes))
    assert set(routes) > OPEN_TO_ALL
    for method, path in set(routes) - OPEN_TO_ALL:
        status, told, _ = ask(sidecar, method, path, viewer, {})
        assert status == 403 and "viewer" in told["error"], (method, path, status, told)
        assert ask(sidecar, method, path, "", {})[0] in (401, 403), (method, path)
    assert "invitations" not in ask(sidecar, "GET", "/people", viewer)[1]


def test_an_editor_invites_nobody_and_may_say_a_name(sidecar: Sidecar, owner: str) -> None:
    editor = join(sidecar, invite(sidecar, owner, role="editor")[1])
    assert ask(sidecar, "POST", "/people/invitations", editor, {"role": "owner"})[0] == 403
    assert ask(sidecar, "PUT", "/people/me", editor, {"name": "  Edda \u202e"})[1] == {"name": "Edda"}
    assert ask(sidecar, "PUT", "/people/me", editor, {"name": 5})[0] == 400
    named = join(sidecar, invite(sidecar, owner, role="viewer", name="Ben")[1], "Ada")
    assert ask(sidecar, "PUT", "/people/me", named, {"name": "Ada"})[0] == 403
    for wrong in ({"role": "root"}, {"role": "viewer", "seconds": "x"}, {"seconds": True}, {"name": 1}, {"seconds": 1}):
        assert ask(sidecar, "POST", "/people/invitations", owner, wrong)[0] == 400, wrong


async def test_guests_cannot_take_the_owners_places(tmp_path: Path, page: Path) -> None:
    server = Sidecar(tmp_path, 1, page, MAX_CLIENTS="4")
    try:
        owner = server.login()[1]
        viewer = join(server, invite(server, owner, role="viewer")[1])
        async with terminal(server, viewer), terminal(server, viewer), terminal(server, viewer) as third:
            await third.until_frame(p.STATE, clients=3)
            with pytest.raises(InvalidStatus) as caught:
                async with terminal(server, viewer):
                    pass
            assert caught.value.response.status_code == 503
            async with terminal(server, owner) as first:
                await first.until_frame(p.STATE, clients=4)
    finally:
        assert server.stop() == 0


async def test_the_command_shares_lists_and_revokes(
    sidecar: Sidecar, guest: Guest, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHARED_DIR", str(guest.shared))
    door = guest.shared / "terminal.sock"
    assert door.stat().st_mode & 0o777 == 0o600

    async def run(*words: str) -> str:
        assert await asyncio.to_thread(main, ["share", *words]) == 0
        return capsys.readouterr().out

    link = (await run("--role", "editor", "--name", "Edgar", "--expires", "10m", "--url", sidecar.origin)).strip()
    assert link.startswith(f"{sidecar.origin}/join#")
    cookie = join(sidecar, link.partition("#")[2])
    async with terminal(sidecar, cookie, p.Hello("shared")) as client:
        await client.until(b"guest$ ")
        (line,) = [each for each in (await run("--ls")).splitlines() if "Edgar" in each]
        id_, *rest = line.split("\t")
        assert rest[:3] == ["editor", "Edgar", "used"]
        assert f"{id_} is revoked" in await run("--revoke", id_)
        assert (await closing(client))[0] == p.CLOSE_LOGGED_OUT
    assert await asyncio.to_thread(main, ["share", "--revoke", "nobody"]) == 1
    assert "there is no invitation nobody" in capsys.readouterr().err
    assert await asyncio.to_thread(main, ["share", "--expires", "1s"]) == 1
    for wrong in (["--expires", "soon"], ["--url", "lab.example"], ["--url", "http://a/#b"]):
        assert await asyncio.to_thread(main, ["share", *wrong]) == 2


def test_the_command_says_when_there_is_no_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dozlab.terminal_sidecar.people import share

    monkeypatch.setenv("SHARED_DIR", str(tmp_path))
    with pytest.raises(DozlabError, match="nobody answers"):
        share.main([])
