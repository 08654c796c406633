"""What an operator sees is true: figures after every error, logs that say who and where, an end that is orderly."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import struct
import time
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from dozlab.terminal_sidecar import protocol as p
from dozlab.terminal_sidecar.metrics import Leg
from tests.unit.terminal_sidecar.conftest import Guest, Sidecar, terminal

ROOT = Path(__file__).parents[3]


def figures(server: Sidecar) -> dict[str, float]:
    """Return the figures that /metrics tells, without the times of creation."""
    text = server.request("GET", "/metrics")[2].decode()
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    return {name.removeprefix("dozlab_terminal_"): float(value) for name, value in lines if "_created" not in name}


def test_every_figure_is_in_the_reference(running: Sidecar) -> None:
    running.login()
    text = (ROOT / "docs/reference/terminal-operations.md").read_text()
    told = set(re.findall(r"`(dozlab_terminal_[a-z_]+)`", text))
    assert {f"dozlab_terminal_{name.partition('{')[0]}" for name in figures(running)} == told
    results = {name.partition('result="')[2].rstrip('"}') for name in figures(running) if "result=" in name}
    assert results and all(f"`{result}`" in text for result in results)


async def until(server: Sidecar, **wanted: float) -> dict[str, float]:
    """Return the figures once they are so."""
    end = time.monotonic() + 60
    while True:
        found = figures(server)
        if wanted.items() <= found.items():
            return found
        assert time.monotonic() < end, (wanted, found)
        await asyncio.sleep(0.05)


async def closed(client: ClientConnection) -> int:
    """Return the code that the server closes with."""
    with pytest.raises(ConnectionClosed) as caught:
        async with asyncio.timeout(60):
            while True:
                await client.recv()
    assert caught.value.rcvd is not None
    return caught.value.rcvd.code


def cut(client: ClientConnection) -> None:
    """End a connection with a reset, as a network that breaks does."""
    sock = client.transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.transport.abort()


async def test_figures_are_right_after_every_error(tmp_path: Path, guest: Guest, page: Path) -> None:
    server = Sidecar(tmp_path, guest.port, page, MAX_SHELLS="2", MAX_CLIENTS="3")
    try:
        server.until("/ready", 200)
        server.login("wrong")
        _, cookie = server.login()
        url, sent = f"ws://127.0.0.1:{server.port}/ws", {"Cookie": cookie, "Origin": server.origin}
        for headers in ({"Cookie": cookie}, {"Origin": server.origin}):
            with pytest.raises(InvalidStatus):
                await connect(url, additional_headers=headers, proxy=None)
        for first in (b"", b"\x01{", b"\x02early", b"\x01" + b'{"versions":[9],"cols":1,"rows":1}'):
            async with connect(url, additional_headers=sent, proxy=None) as raw:
                await raw.send(first)
                await closed(raw)
        async with connect(url, additional_headers=sent, proxy=None) as raw:
            await raw.send("text")
            await closed(raw)
        for broken in (
            b"\x04",
            b"\x02" + b"x" * p.MAX_FRAME,
            p.encode_client(p.Hello()),
            p.encode_client(p.Ack(9 << 40, 0)),
        ):
            async with terminal(server, cookie) as client:
                await client.until_frame(p.STATE)
                await client.socket.send(broken)
                await closed(client.socket)
        found = await until(server, clients=0, shells=1)
        assert found['logins_total{result="ok"}'] == found['logins_total{result="wrong"}'] == 1
        assert found['connections_total{result="origin"}'] == found['connections_total{result="login"}'] == 1
        assert found['connections_total{result="ok"}'] == 9 and found["guest_up"] == 1
        assert found["guest_round_trip_seconds"] > 0

        async with terminal(server, cookie) as one, terminal(server, cookie, p.Hello(shell="two")) as two:
            await one.type("yes\n")
            await two.until(b"guest$ ")
            async with terminal(server, cookie, p.Hello(shell="three")) as three:
                assert await closed(three.socket) == p.CLOSE_TOO_MANY
            async with terminal(server, cookie) as three:
                await three.until(b"y\r\ny\r\n")
                with pytest.raises(InvalidStatus):
                    await connect(url, additional_headers=sent, proxy=None)
                await until(server, clients=3, shells=2)
                cut(three.socket)
            cut(one.socket)
            found = await until(server, clients=1, shells=2)
            assert found['connections_total{result="full"}'] == 1
            guest.switch_off()
            await two.until_frame(p.STATE, guest="lost")
            found = await until(server, clients=1, shells=0, guest_up=0)
            assert "guest_round_trip_seconds" not in found
            guest.boot()
            await until(server, clients=1, shells=2, guest_up=1, guest_connections_total=2)
            await two.until(b"this is a new shell")
            await two.type("exit 3\n")
            await two.until_frame(p.EXIT, status=3)
            await until(server, clients=1, shells=1)
        await until(server, clients=0, shells=1)
    finally:
        assert server.stop() == 0


def test_a_round_trip_is_told_again_when_it_is_another_one() -> None:
    leg = Leg()
    assert not leg.news(None) and leg.news(0.010) and not leg.news(0.010) and not leg.news(0.014)
    assert leg.news(0.016) and leg.news(0.004) and leg.news(None) and not leg.news(None)
    assert leg.news(0.0001) and not leg.news(0.0009) and leg.news(0.0012)


async def test_log_lines_say_which_session_shell_and_client(tmp_path: Path, guest: Guest, page: Path) -> None:
    server = Sidecar(tmp_path, guest.port, page, LOG_FORMAT="json")
    try:
        server.until("/ready", 200)
        _, cookie = server.login()
        async with terminal(server, cookie, p.Hello(shell="two")) as client:
            frame = await client.until_frame(p.STATE, guest="live")
            assert frame.fields is not None and frame.fields["guest_ms"] > 0
            who = frame.fields["you"]
            await client.until(b"guest$ ")
            await client.type("exit\n")
            await client.until_frame(p.EXIT)
            await client.socket.send(b"\x04")
            await closed(client.socket)
        await until(server, clients=0)
        records = [json.loads(line) for line in server.log().splitlines()]
    finally:
        assert server.stop() == 0
    assert all(record["session"] == "lab1" and record["component"] == "terminal-sidecar" for record in records)
    said = {record["message"].partition(":")[0]: record for record in records}
    for message in ("a terminal is open, role owner", "the client is let go"):
        assert (said[message]["client"], said[message]["shell"]) == (who, "two")
    ended = next(record for record in records if record["message"].startswith("the shell has ended: exited"))
    assert ended["shell"] == "two" and "client" not in ended
    assert "shell" not in said["login from 127.0.0.1"]


def test_what_others_have_a_say_in_stays_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    import logging

    from dozlab.lib import log as logs

    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        logs.set_up("terminal-sidecar")
        logging.getLogger("x").warning(
            "%s", "a\n2026-01-01T00:00:00Z terminal-sidecar INFO login from 10.0.0.1\x1b[2J\u2028"
        )
        said = capsys.readouterr().err
    finally:
        logging.captureWarnings(False)
        root.handlers[:] = before
        root.setLevel(level)
    assert len(said.splitlines()) == 1 and "\x1b" not in said and "\\n2026" in said


async def test_sigterm_under_load_closes_every_client_and_ends_with_0(tmp_path: Path, guest: Guest, page: Path) -> None:
    server = Sidecar(tmp_path, guest.port, page)
    server.until("/ready", 200)
    _, cookie = server.login()
    async with terminal(server, cookie) as one, terminal(server, cookie) as two, terminal(server, cookie) as stopped:
        for client in (one, two):
            await client.until(b"guest$ ")
        stopped.socket.transport.pause_reading()
        await one.type("yes 0123456789012345678901234567890123456789\n")
        await two.until(b"0123456789\r\n")
        while two.received < 4_000_000:
            await two.take()
        server.process.terminate()
        assert set(await asyncio.gather(closed(one.socket), closed(two.socket))) == {1001}
        assert await asyncio.to_thread(server.process.wait, 60) == 0
        cut(stopped.socket)
    log = server.log()
    server.stop()
    assert "Traceback" not in log and "did not stop" not in log
    status = socket.socket()
    assert status.connect_ex(("127.0.0.1", server.port)) != 0
    status.close()
