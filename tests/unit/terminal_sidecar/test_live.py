"""The whole sidecar as a process, before a real SSH server with real shells."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from dozlab.terminal_sidecar import protocol as p
from tests.support import until

from .conftest import PASSWORD, Guest, Sidecar, Terminal, terminal


@contextlib.asynccontextmanager
async def logged_in(sidecar: Sidecar, hello: p.Hello | None = None) -> AsyncIterator[Terminal]:
    status, cookie = sidecar.login()
    assert status == 303
    async with terminal(sidecar, cookie, hello) as client:
        yield client


async def test_a_command_runs_in_the_guest(sidecar: Sidecar) -> None:
    async with logged_in(sidecar, p.Hello(cols=101, rows=31)) as client:
        await client.until(b"guest$ ")
        await client.type("stty size; printf 'h\\303\\251\\n'; echo $((6*7))-$TERM\n")
        await client.until("hé\r\n".encode())
        await client.until(b"42-xterm-256color")
        assert b"31 101" in client.text
        await client.send(p.Resize(90, 20))
        await client.type("stty size\n")
        await client.until(b"20 90")


async def test_the_shell_outlives_its_client_and_only_the_rest_is_sent(sidecar: Sidecar) -> None:
    async with logged_in(sidecar) as client:
        await client.until(b"guest$ ")
        await client.type("mark=kept; sleep 0.3; echo while-away-$mark\n")
        epoch, got = client.epoch, client.received
    async with logged_in(sidecar, p.Hello(epoch=epoch, offset=got)) as client:
        client.received = got
        await client.until(b"while-away-kept")
        assert b"guest$ mark" not in client.text.partition(b"mark=kept")[0]
        assert not any(frame.kind == p.REPLAY_BEGIN and frame.reset for frame in client.frames)
        await client.type("echo again-$mark\n")
        await client.until(b"again-kept")


async def test_a_reload_gets_all_again_between_replay_marks(sidecar: Sidecar) -> None:
    async with logged_in(sidecar) as client:
        await client.until(b"guest$ ")
        await client.type("echo fi''rst\n")
        await client.until(b"first\r\n")
    async with logged_in(sidecar) as client:
        await client.until_frame(p.REPLAY_END)
        assert b"first\r\n" in client.text
        kinds = [frame.kind for frame in client.frames if frame.kind not in (p.WELCOME, p.STATE)]
        assert kinds[0] == p.REPLAY_BEGIN and kinds[-1] == p.REPLAY_END and set(kinds[1:-1]) == {p.OUTPUT}


async def test_a_full_screen_program_is_made_to_draw_again_after_a_reload(sidecar: Sidecar) -> None:
    async with logged_in(sidecar) as client:
        await client.until(b"guest$ ")
        # a program that draws only when told to, on the alternate screen, with a lot of output before
        draw = "signal.signal(signal.SIGWINCH, lambda *_: print('drawn', *os.get_terminal_size(), flush=True))"
        loop = r"print('\033[?1049h\033[?1000h', 'up', flush=True)"
        code = f"import os, signal, time; {draw}; {loop}; [time.sleep(0.1) for _ in range(600)]"
        script = f'seq 400000; python3 -c "{code}"'
        await client.type(script + "\n")
        await client.until(b"up\r\n", 100)
    async with logged_in(sidecar) as client:
        await client.until(b"drawn 80 24")
        await client.type("\x03")


async def test_exit_and_a_new_shell(sidecar: Sidecar) -> None:
    async with logged_in(sidecar) as client:
        await client.until(b"guest$ ")
        await client.type("exit 7\n")
        await client.until_frame(p.EXIT, status=7, reason="exited")
        await client.send(p.NewShell())
        await client.until_frame(p.STATE, guest="live")
        client.text = b""
        await client.type("echo ne''w\n")
        await client.until(b"new\r\n")
        await client.type("kill -9 $$\n")
        frame = await client.until_frame(p.EXIT)
        assert frame.fields == {"status": None, "signal": "KILL", "reason": "killed"}
    async with logged_in(sidecar) as client:  # who comes later is told as well
        await client.until_frame(p.EXIT, signal="KILL")


async def test_a_rebooted_guest_gets_a_new_shell_by_itself(sidecar: Sidecar, guest: Guest) -> None:
    async with logged_in(sidecar) as client:
        await client.until(b"guest$ ")
        await client.type("printf '\\033[?1049h'; old=1\n")
        await client.until(b"\x1b[?1049h")
        guest.switch_off()
        await client.until(b"connection to the machine lost")
        await client.until_frame(p.STATE, guest="lost")
        sidecar.until("/ready", 503)
        guest.boot()
        await client.until(b"this is a new shell")
        assert client.text.index(b"\x1b[?1049l") < client.text.index(b"connection to the machine lost")
        client.text = b""
        await client.type("echo old=$old.\n")
        await client.until(b"old=.\r\n")
    sidecar.until("/ready", 200)


async def test_a_client_that_does_not_acknowledge_stops_the_program_and_nothing_is_lost(sidecar: Sidecar) -> None:
    async with logged_in(sidecar) as client:
        await client.until(b"guest$ ")
        client.acking = False
        start = client.received
        await client.type("seq 1000000 | head -c 5000000; echo e''nd\n")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.5):
                while True:
                    await client.take()
        assert client.received - start <= 512 << 10
        client.acking = True
        await client.send(p.Ack(client.received, client.received))
        await client.until(b"end\r\n", 100)
        assert client.received - start >= 5_000_000


async def test_two_clients_one_shell_and_the_one_who_types_leads(sidecar: Sidecar) -> None:
    async with logged_in(sidecar, p.Hello(cols=80)) as one, logged_in(sidecar, p.Hello(cols=120)) as two:
        await two.until_frame(p.STATE, lead=True, cols=120, clients=2)
        await one.until_frame(p.STATE, lead=False, cols=120, clients=2)
        await one.type("echo sh''ared\n")
        await one.until_frame(p.STATE, lead=True, cols=80)
        await two.until(b"shared\r\n")


async def test_broken_frames_close_with_the_code_that_says_so(sidecar: Sidecar) -> None:
    _, cookie = sidecar.login()
    first = {b"\x02early": 4400, b"\x01{": 4400, b'\x01{"versions":[9],"cols":1,"rows":1}': 4406}
    for message, code in first.items():
        async with raw(sidecar, cookie) as socket:
            await socket.send(message)
            assert await closed(socket) == code
    async with terminal(sidecar, cookie) as client:
        await client.socket.send(b"\x04")
        assert await closed(client.socket) == 4400
    async with terminal(sidecar, cookie) as client:
        await client.socket.send(b"\x02" + b"x" * (1 << 20))
        assert await closed(client.socket) == 1009
    sidecar.until("/health", 200)
    until(lambda: b"\ndozlab_terminal_clients 0.0\n" in sidecar.request("GET", "/metrics")[2], what="0", seconds=60)


def raw(sidecar: Sidecar, cookie: str) -> connect:
    headers = {"Cookie": cookie, "Origin": sidecar.origin}
    return connect(f"ws://127.0.0.1:{sidecar.port}/ws", additional_headers=headers, proxy=None)


async def closed(socket: ClientConnection) -> int:
    """Return the code that the server closes with."""
    with pytest.raises(ConnectionClosed) as caught:
        async with asyncio.timeout(60):
            while True:
                await socket.recv()
    assert caught.value.rcvd is not None
    return caught.value.rcvd.code


async def test_origin_and_cookie_guard_the_websocket(sidecar: Sidecar) -> None:
    _, cookie = sidecar.login()
    url = f"ws://127.0.0.1:{sidecar.port}/ws"
    good = {"Cookie": cookie, "Origin": sidecar.origin}
    cases = [
        ({"Cookie": cookie}, 403),
        (good | {"Origin": "null"}, 403),
        (good | {"Origin": f"https://127.0.0.1:{sidecar.port}"}, 403),
        (good | {"Origin": "http://127.0.0.1:1"}, 403),
        (good | {"Origin": "http://127.0.0.1"}, 403),
        (good | {"Origin": sidecar.origin + ".evil.example"}, 403),
        ({"Origin": sidecar.origin}, 401),
        (good | {"Cookie": f"dozlab-terminal-{sidecar.session}=guess"}, 401),
    ]
    for headers, status in cases:
        with pytest.raises(InvalidStatus) as caught:
            await connect(url, additional_headers=headers, proxy=None)
        assert caught.value.response.status_code == status, headers
    async with connect(url, additional_headers=good, proxy=None):
        pass


async def test_logout_closes_the_terminal(sidecar: Sidecar) -> None:
    _, cookie = sidecar.login()
    async with terminal(sidecar, cookie) as client:
        await client.until(b"guest$ ")
        assert sidecar.request("POST", "/logout", headers={"Cookie": cookie})[0] == 403  # no Origin
        headers = {"Cookie": cookie, "Origin": sidecar.origin}
        assert sidecar.request("POST", "/logout", headers=headers)[0] == 303
        assert await closed(client.socket) == p.CLOSE_LOGGED_OUT
    with pytest.raises(InvalidStatus):
        async with terminal(sidecar, cookie):
            pass


async def test_sigterm_closes_clients_with_going_away(sidecar: Sidecar) -> None:
    async with logged_in(sidecar) as client:
        await client.until(b"guest$ ")
        sidecar.process.terminate()
        assert await closed(client.socket) == 1001


def test_cookie_page_and_headers(sidecar: Sidecar) -> None:
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    status, headers, _ = sidecar.request("POST", "/login", "password=correct+horse", kind)
    assert (status, headers["location"]) == (303, "/")
    session = headers["set-cookie"].splitlines()[0]
    assert session.startswith("dozlab-terminal-lab1=")
    assert {"Path=/", "HttpOnly", "SameSite=Strict"} <= set(session.split("; "))
    assert "Secure" not in session
    cookie = session.split(";")[0]
    status, headers, body = sidecar.request("GET", "/", headers={"Cookie": cookie})
    nonce = re.search(rb'data-nonce="([^"]+)"', body)
    assert status == 200 and b"terminal of lab1" in body and nonce
    assert f"'nonce-{nonce[1].decode()}'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"] and headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert b"terminal of" not in sidecar.request("GET", "/")[2]
    status, headers, _ = sidecar.request("GET", "/assets/index-abc.js")
    assert status == 200 and "immutable" in headers["cache-control"]
    for path in ("/assets/../index.html", "/assets/%2e%2e%2findex.html", "/assets/missing.js"):
        assert sidecar.request("GET", path)[0] == 404


def test_wrong_password_is_said_and_never_logged(sidecar: Sidecar) -> None:
    status, cookie = sidecar.login("wrong-one<script>")
    assert (status, cookie) == (401, "")
    assert sidecar.login()[0] == 303  # delayed, not locked
    assert sidecar.login(Origin="http://evil.example")[0] == 403
    assert sidecar.request("POST", "/login", "password=" + "x" * 20000)[0] == 413
    log = sidecar.log()
    assert "wrong password from 127.0.0.1" in log
    assert PASSWORD not in log and "wrong-one" not in log and "argon2" not in log


def test_timeline_needs_a_login_and_shows_the_stages(sidecar: Sidecar) -> None:
    assert sidecar.request("GET", "/timeline")[0] == 401
    _, cookie = sidecar.login()
    body = json.loads(sidecar.request("GET", "/timeline", headers={"Cookie": cookie})[2])
    assert (body["session"], body["guest"]) == ("lab1", "live")
    assert [entry["event"] for entry in body["entries"] if entry["stage"] == "terminal"] == ["start", "done"]


async def test_base_path_and_https_origin_behind_a_proxy(tmp_path: Path, guest: Guest, page: Path) -> None:
    server = Sidecar(tmp_path, guest.port, page, BASE_PATH="/labs/x", ALLOWED_ORIGINS="https://lab.example")
    try:
        server.until("/ready", 200)  # probes answer without the path as well
        assert server.request("GET", "/labs/x/", headers={"Host": "other.example"})[0] == 421
        assert server.request("GET", "/labs/x", headers={"Host": "lab.example"})[1]["location"] == "/labs/x/"
        kind = {"Content-Type": "application/x-www-form-urlencoded", "Host": "lab.example"}
        origin = {"Origin": "https://lab.example"}
        status, headers, _ = server.request("POST", "/labs/x/login", "password=correct+horse", kind | origin)
        assert (status, headers["location"]) == (303, "/labs/x/")
        assert {"Path=/labs/x/", "Secure"} <= set(headers["set-cookie"].splitlines()[0].split("; "))
        assert server.request("GET", "/login")[0] == 404
    finally:
        assert server.stop() == 0


async def test_no_guest_no_shell(tmp_path: Path, page: Path) -> None:
    server = Sidecar(tmp_path, 1, page)
    try:
        async with logged_in(server) as client:
            frame = await client.until_frame(p.STATE)
            assert frame.fields is not None and frame.fields["guest"] == "waiting"
            await client.type("id\n")
            await client.send(p.Ping(5))
            assert (await client.until_frame(p.PONG)).offset == 5
            assert client.text == b""
        assert server.request("GET", "/ready")[0] == 503
    finally:
        assert server.stop() == 0


def test_another_host_key_is_refused(tmp_path: Path, guest: Guest, page: Path) -> None:
    line = "127.0.0.1 ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGVdlZb3pWXFJuhnYmXY8GFUPpYoNSsDUjmpTmzXkfsn\n"
    (tmp_path / "known_hosts").write_text(line)
    server = Sidecar(tmp_path, guest.port, page)
    try:
        end = time.monotonic() + 60
        while "ost key" not in (said := server.request("GET", "/ready")[2].decode()):
            assert time.monotonic() < end, said
            time.sleep(0.05)
        assert server.request("GET", "/ready")[0] == 503
    finally:
        assert server.stop() == 0
