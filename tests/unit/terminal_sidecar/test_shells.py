"""The list of shells of a real sidecar: what it says, who may close one, and what the others are told."""

from __future__ import annotations

import json
from typing import Any

from dozlab.terminal_sidecar import protocol as p

from .conftest import Sidecar, terminal
from .test_people_live import ask, closing, invite, join


def listed(sidecar: Sidecar, cookie: str) -> dict[str, dict[str, Any]]:
    status, headers, body = sidecar.request("GET", "/shells", headers={"Cookie": cookie})
    assert (status, headers["cache-control"]) == (200, "no-store")
    found = json.loads(body)
    assert found["most"] == 8
    return {shell["name"]: shell for shell in found["shells"]}


async def test_the_list_says_what_there_is(sidecar: Sidecar) -> None:
    cookie = sidecar.login()[1]
    assert listed(sidecar, cookie) == {}
    async with terminal(sidecar, cookie) as first, terminal(sidecar, cookie, p.Hello("t-1", 90, 30)) as second:
        await first.type("printf '\\033]2;<b>n\u00f6tes</b>\\007'; echo se''t\n")
        await first.until(b"set\r\n")
        await second.type("exit 4\n")
        await second.until_frame(p.EXIT, status=4)
        shells = listed(sidecar, cookie)
        assert shells["main"] == {
            "name": "main", "title": "<b>n\u00f6tes</b>", "state": "live", "clients": 1, "cols": 80, "rows": 24,
        }  # fmt: skip
        assert (shells["t-1"]["state"], shells["t-1"]["cols"], shells["t-1"]["rows"]) == ("ended", 90, 30)


async def test_a_closed_shell_ends_and_its_clients_do_not_come_back(sidecar: Sidecar) -> None:
    owner = sidecar.login()[1]
    editor = join(sidecar, invite(sidecar, owner, role="editor")[1])
    async with terminal(sidecar, owner) as kept, terminal(sidecar, owner, p.Hello("t-1")) as gone:
        await gone.type("sleep 1000 & echo pi''d=$!.\n")
        await gone.until(b"pid=")
        await kept.until(b"guest$ ")
        assert ask(sidecar, "DELETE", "/shells/t-1", editor)[0] == 204
        assert await closing(gone) == (p.CLOSE_NO_SHELL, "the shell was closed")
        assert set(listed(sidecar, owner)) == {"main"}
        assert ask(sidecar, "DELETE", "/shells/t-1", owner)[:2] == (404, {"error": "there is no such shell"})
        await kept.type("echo st''ill\n")
        await kept.until(b"still\r\n")
        async with terminal(sidecar, owner, p.Hello("t-1")) as again:  # the name is free: another shell
            await again.type("jobs; echo n''ew\n")
            await again.until(b"new\r\n")
            assert b"sleep" not in again.text and again.epoch != gone.epoch


async def test_who_only_watches_and_who_comes_from_elsewhere_closes_nothing(sidecar: Sidecar) -> None:
    owner = sidecar.login()[1]
    viewer = join(sidecar, invite(sidecar, owner, role="viewer")[1])
    async with terminal(sidecar, owner) as first:
        await first.until(b"guest$ ")
        for cookie, headers, wanted in (
            ("", {}, 401), (viewer, {}, 403), (owner, {"Origin": "http://evil.example"}, 403),
            (owner, {"Origin": ""}, 403),
        ):  # fmt: skip
            assert ask(sidecar, "DELETE", "/shells/main", cookie, None, **headers)[0] == wanted
        assert ask(sidecar, "GET", "/shells")[0] == 401
        status, told, _ = ask(sidecar, "GET", "/shells", viewer)
        assert status == 200 and [shell["name"] for shell in told["shells"]] == ["main"]
        await first.type("echo st''ill\n")
        await first.until(b"still\r\n")


async def test_everybody_is_told_which_shells_there_are(sidecar: Sidecar) -> None:
    owner = sidecar.login()[1]
    viewer = join(sidecar, invite(sidecar, owner, role="viewer")[1])
    async with terminal(sidecar, owner), terminal(sidecar, viewer) as watching:
        await watching.until_frame(p.STATE, shells=["main"])
        async with terminal(sidecar, owner, p.Hello("t-1")):
            await watching.until_frame(p.STATE, shells=["main", "t-1"])
        assert ask(sidecar, "DELETE", "/shells/t-1", owner)[0] == 204
        await watching.until_frame(p.STATE, shells=["main"])
