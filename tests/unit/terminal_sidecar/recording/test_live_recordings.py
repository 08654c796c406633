"""The whole sidecar records real shells: its routes, its roles, a kill, a full disk, a lost machine."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dozlab.terminal_sidecar import protocol as p
from tests.unit.terminal_sidecar.conftest import Guest, Sidecar, terminal

from .casts import Cast, parse


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "recordings"
    made.mkdir()
    return made


Start = Callable[..., Sidecar]


@pytest.fixture
def start(tmp_path: Path, guest: Guest, page: Path, folder: Path) -> Iterator[Start]:
    """Start sidecars that record; all of them end with the test, with status 0 unless it killed them."""
    servers: list[Sidecar] = []

    def started(**environ: str) -> Sidecar:
        servers.append(Sidecar(tmp_path, guest.port, page, RECORDING_DIR=str(folder), **environ))
        servers[-1].until("/ready", 200)
        return servers[-1]

    yield started
    assert [server.stop() for server in servers if server.process.poll() is None] in ([], [0])


class Visitor:
    """A browser that has logged in."""

    def __init__(self, server: Sidecar) -> None:
        self.server = server
        self.cookie = server.login()[1]

    def ask(self, method: str, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
        return self.server.request(method, path, headers={"Cookie": self.cookie} | headers)

    def list(self) -> dict[str, Any]:
        status, _, body = self.ask("GET", "/recordings")
        assert status == 200
        found: dict[str, Any] = json.loads(body)
        return found

    def cast(self, name: str, version: str = "v3") -> Cast:
        status, headers, body = self.ask("GET", f"/recordings/{name}?format={version}")
        assert (status, headers["content-type"]) == (200, "application/x-asciicast")
        return parse(body)


def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, f"still missing: {what}"
        time.sleep(0.05)


async def test_a_shell_is_recorded_and_served_in_both_versions(start: Start, folder: Path) -> None:
    server = start()
    me = Visitor(server)
    async with terminal(server, me.cookie, p.Hello(cols=101, rows=31)) as client:
        assert (await client.until_frame(p.STATE, guest="live")).fields["recording"] is True  # type: ignore[index]
        await client.until(b"guest$ ")
        await client.type("echo h\u00e9-$((6*7)); exit 3\n")
        await client.until_frame(p.EXIT)
        await client.send(p.NewShell())
        await client.until(b"\x1b[!p\x1b[0m\r\n\x1b[?2004hguest$ ")
        listing = me.list()
        assert (listing["recording"], listing["input"], listing["limit"]) == (True, False, 64 << 20)
        newest, oldest = listing["recordings"]
        assert (oldest["shell"], oldest["live"], newest["live"]) == ("main", False, True)
        assert abs(oldest["start"] - time.time()) < 60
        cast = me.cast(oldest["id"])
        assert cast.header["term"] == {"cols": 101, "rows": 31, "type": "xterm-256color"}
        assert "hé-42\r\n" in cast.text() and cast.of("x") == ["3"] and cast.of("i") == []
        assert me.cast(newest["id"]).text().endswith("guest$ ")
        old = me.cast(oldest["id"], "v2")
        assert old.header["version"] == 2 and old.events == [event for event in cast.events if event[1] != "x"]
        _, headers, body = me.ask("GET", f"/recordings/{oldest['id']}")
        assert headers["content-disposition"] == f'attachment; filename="lab1-{oldest["id"]}.v3.cast"'
        assert int(headers["content-length"]) == len(body) == oldest["bytes"]
    assert server.stop() == 0
    assert {path.stem for path in folder.iterdir()} == {oldest["id"], newest["id"]}
    for path in folder.iterdir():
        parse(path.read_bytes())


async def test_who_may_see_and_who_may_remove(start: Start, folder: Path) -> None:
    server = start()
    me = Visitor(server)
    async with terminal(server, me.cookie) as client:
        await client.until(b"guest$ ")
        (item,) = me.list()["recordings"]
        path, origin = f"/recordings/{item['id']}", {"Origin": server.origin}
        for method, where in (("GET", "/recordings"), ("GET", path), ("DELETE", path)):
            assert server.request(method, where, headers=origin)[0] == 401
        for role, seen, removed in (("viewer", 403, 403), ("editor", 200, 403)):
            other = Visitor(server)  # its cookie is replaced below
            status, _, body = server.request(
                "POST", "/people/invitations", json.dumps({"role": role}), {"Cookie": me.cookie} | origin
            )
            assert status < 300
            ticket = json.loads(body)["path"].removeprefix("join#")
            status, headers, _ = server.request("POST", "/join", json.dumps({"ticket": ticket}), origin)
            assert status < 300
            other.cookie = headers["set-cookie"].split(";")[0]
            assert other.ask("GET", "/recordings")[0] == seen
            assert other.ask("GET", path)[0] == seen
            assert other.ask("DELETE", path, **origin)[0] == removed
        assert me.ask("DELETE", path)[0] == 403  # no Origin
        assert me.ask("DELETE", path, Origin="http://evil.example")[0] == 403
        assert me.ask("GET", f"{path}?format=v9")[0] == 400
        for wrong in ("20261127T212512.000-main", "..%2f..%2fetc%2fpasswd", "x"):
            assert me.ask("GET", f"/recordings/{wrong}")[0] == 404
            assert me.ask("DELETE", f"/recordings/{wrong}", **origin)[0] == 404
        assert [path.stem for path in folder.iterdir()] == [item["id"]]
        assert me.ask("DELETE", path, **origin)[0] == 204
        assert me.ask("DELETE", path, **origin)[0] == 404 and me.list()["recordings"] == []
        await client.type("echo and-$((1+1))\n")  # it goes on in a new one
        await client.until(b"and-2")
        (item,) = me.list()["recordings"]
        assert "and-2" in me.cast(item["id"]).text()
    assert server.stop() == 0


async def test_a_kill_leaves_a_playable_file_that_the_next_run_serves(start: Start, folder: Path) -> None:
    server = start()
    async with terminal(server, Visitor(server).cookie) as client:
        await client.until(b"guest$ ")
        await client.type("for i in $(seq 1 3000); do echo line-$i-$RANDOM; done; echo fi''rst; sleep 0.3\n")
        await client.until(b"first")
        until(lambda: any(b"first" in path.read_bytes() for path in folder.iterdir()), "the output in the file")
        await client.type("while :; do echo more-$RANDOM; done\n")
        await client.until(b"more-")
        server.process.kill()
        server.process.wait(30)
    server._log.close()
    (path,) = folder.iterdir()
    kept = path.read_bytes()
    whole = kept[: kept.rfind(b"\n") + 1]
    assert "line-3000" in parse(whole).text()
    again = start()
    me = Visitor(again)
    (item,) = me.list()["recordings"]
    assert not item["live"] and me.ask("GET", f"/recordings/{item['id']}")[2] == path.read_bytes() == whole


async def test_a_full_disk_stops_recording_says_so_and_the_terminal_goes_on(start: Start, folder: Path) -> None:
    server = start()
    me = Visitor(server)
    async with terminal(server, me.cookie) as client:
        await client.until(b"guest$ ")
        assert len(me.list()["recordings"]) == 1  # by now it is in its file
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
        await client.type("seq 1 20000; echo do''ne\n")
        await client.until(b"done")
        while (states := [frame.fields for frame in client.frames if frame.fields and "recording" in frame.fields])[-1][
            "recording"
        ]:
            await client.until_frame(p.STATE)
        assert states[0]["recording"] is True
        await client.type("echo still-$((40+2))\n")
        await client.until(b"still-42")
        listing = me.list()
        assert listing["recording"] is False
        assert me.cast(listing["recordings"][-1]["id"]).text().endswith("guest$ ")
    assert server.log().count("recording stops: ") == 1


async def test_a_lost_machine_ends_the_recording_and_the_next_shell_has_its_own(start: Start, guest: Guest) -> None:
    server = start()
    me = Visitor(server)
    async with terminal(server, me.cookie) as client:
        await client.until(b"guest$ ")
        guest.switch_off()
        await client.until_frame(p.STATE, guest="lost")
        guest.boot()
        await client.until(b"this is a new shell")
        newest, oldest = me.list()["recordings"]
        assert me.cast(oldest["id"]).of("m") == ["the machine was lost"]
        assert "this is a new shell" in me.cast(newest["id"]).text()
    assert server.stop() == 0


async def test_switched_off_nothing_is_written(start: Start, folder: Path) -> None:
    server = start(RECORDING="false")
    me = Visitor(server)
    async with terminal(server, me.cookie) as client:
        assert (await client.until_frame(p.STATE)).fields["recording"] is False  # type: ignore[index]
        await client.until(b"guest$ ")
        assert me.list() == {"recording": False, "input": False, "limit": 64 << 20, "used": 0, "recordings": []}
    assert server.stop() == 0
    assert list(folder.iterdir()) == []


async def test_keystrokes_are_recorded_when_asked_for(start: Start, folder: Path) -> None:
    server = start(RECORD_INPUT="true")
    me = Visitor(server)
    async with terminal(server, me.cookie) as client:
        await client.until(b"guest$ ")
        await client.type("echo typed\n")
        await client.until(b"typed\r\n")
        listing = me.list()
        assert listing["input"] is True
        assert me.cast(listing["recordings"][0]["id"]).of("i") == ["echo typed\n"]
    assert server.stop() == 0
