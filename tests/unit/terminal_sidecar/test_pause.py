"""A guest that stands still, goes on, or is set back: a real SSH server, stopped and continued by signals.

The keep-alive is made quick, so that what it would end is ended within the test.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from dozlab.terminal_sidecar import guest as guest_module
from dozlab.terminal_sidecar import protocol as p
from dozlab.terminal_sidecar.auth import Member
from dozlab.terminal_sidecar.guest import Guest
from dozlab.terminal_sidecar.history import History
from dozlab.terminal_sidecar.machine import Machine
from dozlab.terminal_sidecar.people.clients import Client
from dozlab.terminal_sidecar.shell import MOST_WAITING_INPUT, Shell, Shells
from tests.support import free_port

from .conftest import Guest as Sshd
from .conftest import Sidecar, terminal

RUNNING = Machine("running", boots=1)
PAUSED = Machine("paused", "asked", 1)
OWNER = Member("a1", "owner", "", "k")
QUICK, DEAD = 0.1, 1.5
"""Seconds between keep-alives, and after which a connection that depends on them has long gone."""


@dataclass
class Lab:
    """A shell on a guest, and the machine as firecracker-vm tells of it."""

    sshd: Sshd
    guest: Guest
    shells: Shells
    shell: Shell
    client: Client

    def tell(self, machine: Machine | None) -> None:
        before = self.guest.machine
        self.guest.machine_changed(before, machine)
        self.shells.machine_changed(before, machine)

    def type(self, text: str) -> None:
        self.shell.receive(self.client, p.Input(text.encode()))

    def printed(self) -> str:
        history = self.shell.history
        return history.read(history.start, 1 << 20).decode()

    async def has(self, text: str) -> None:
        await until(lambda: text in self.printed(), f"{text!r} on the screen: {self.printed()[-400:]!r}")


async def until(condition: Callable[[], bool], what: str) -> None:
    end = asyncio.get_running_loop().time() + 60
    while not condition():
        assert asyncio.get_running_loop().time() < end, f"still missing: {what}"
        await asyncio.sleep(0.02)


@pytest.fixture
async def lab(tmp_path: Path, guest: Sshd, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Lab]:
    monkeypatch.setattr(guest_module, "_KEEPALIVE", QUICK)
    connection = Guest("127.0.0.1", guest.port, "root", tmp_path)
    clock = asyncio.get_running_loop().time
    shells = Shells(connection, most=2, history=History, idle_seconds=100, clock=clock)
    connection.on_change(shells.tell_state)
    connection.start()
    shell = shells.get("main", OWNER)
    lab = Lab(guest, connection, shells, shell, shell.attach(p.Hello(), "lab", OWNER))
    await lab.has("guest$ ")
    yield lab
    guest.thaw()
    shells.close()
    await connection.close()


async def test_a_guest_that_merely_does_not_answer_is_given_up(lab: Lab) -> None:
    lab.tell(RUNNING)
    lab.sshd.freeze()
    await until(lambda: lab.guest.state == "lost", "the end of the connection")


async def test_a_pause_keeps_the_shell_and_what_is_typed_meanwhile_comes_once(lab: Lab) -> None:
    lab.tell(RUNNING)
    lab.type("kept=yes; echo pid=$$.\n")
    await lab.has("pid=")
    lab.sshd.freeze()
    lab.tell(PAUSED)
    lab.type("echo again=$$. $kept ")
    lab.shell.receive(lab.client, p.Resize(91, 33))
    lab.type("typed-$((20+3)); stty size\n")
    await asyncio.sleep(DEAD)
    assert lab.guest.state == "live" and lab.guest._socket is not None
    option = lab.guest._socket.getsockopt  # the kernel must not ask either, nor give up what is under way
    assert option(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0
    assert option(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) > 86_400_000
    lab.sshd.thaw()
    lab.tell(RUNNING)
    await lab.has("33 91")
    first, second = re.findall(r"(?:pid|again)=(\d+)\.", lab.printed())
    assert first == second
    assert lab.printed().count("yes typed-23") == 1 and lab.guest.connections == 1
    lab.sshd.freeze()  # and the connection is watched again
    await until(lambda: lab.guest.state == "lost", "the end of the connection")


async def test_what_is_too_much_to_wait_is_refused_whole_and_said_once(lab: Lab) -> None:
    lab.tell(PAUSED)
    lab.type("echo fi''rst\n")
    for _ in range(3):
        lab.type("#" * (MOST_WAITING_INPUT - 10))
    lab.type("echo se''cond\n")
    assert lab.printed().count("256 KiB of input can wait for the machine") == 1
    lab.tell(RUNNING)
    await lab.has("first\r\n")
    lab.type("echo thi''rd\n")
    await lab.has("third\r\n")
    assert "se''cond" not in lab.printed() and "###" not in lab.printed()


async def test_nothing_is_sent_to_a_guest_that_stands_still(lab: Lab) -> None:
    """The redraw that a reload asks for and the size wait as well."""
    lab.type("trap 'echo si''ze $(stty size)' WINCH; printf '\\033[?1049h'\n")
    await lab.has("\x1b[?1049h")
    assert lab.guest._socket is not None
    lab.tell(PAUSED)
    await asyncio.sleep(3 * QUICK)  # what was on its way has come
    before = sent(lab.guest._socket)
    lab.shell.detach(lab.client)
    lab.client = lab.shell.attach(p.Hello(cols=70, rows=20), "lab", OWNER)
    lab.type("x")
    await asyncio.sleep(3 * QUICK)
    assert sent(lab.guest._socket) == before
    lab.tell(RUNNING)
    await until(lambda: sent(lab.guest._socket) > before, "what had waited")
    lab.type("\b")
    async with asyncio.timeout(60):
        while "size 20 70" not in lab.printed():  # bash sees to its traps between two lines
            lab.type("\n")
            await asyncio.sleep(0.05)


def sent(sock: socket.socket | None) -> int:
    """Return the bytes that this end has sent (tcpi_bytes_sent, linux/tcp.h)."""
    assert sock is not None
    return int.from_bytes(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 208)[200:208], "little")


@pytest.mark.parametrize("paused", [False, True])
async def test_a_reset_is_noticed_at_once_and_said_in_one_line(lab: Lab, paused: bool) -> None:
    lab.tell(RUNNING)
    lab.type("old=1\n")
    lab.sshd.freeze()
    if paused:
        lab.tell(PAUSED)
        lab.type("for the old shell only\n")
    ours = lab.guest._socket
    assert ours is not None
    pair = f":{ours.getsockname()[1]:04X} 0100007F:{lab.sshd.port:04X} "
    lab.tell(Machine("starting", "", 2, "checkpoint", "before-lab"))
    assert lab.guest.state == "lost"
    await until(lambda: pair not in Path("/proc/net/tcp").read_text(), "a kernel that keeps nothing of the connection")
    lab.sshd.switch_off()
    lab.sshd.boot()
    lab.tell(Machine("running", "", 2, "checkpoint", "before-lab"))
    await lab.has("set back to checkpoint before-lab: this is a new shell")
    lab.type("echo old=$old.\n")
    await lab.has("old=.\r\n")
    assert lab.printed().count(" --\x1b[0m") == 1 and "for the old" not in lab.printed()


async def test_an_attempt_to_connect_to_a_former_guest_is_given_up(tmp_path: Path, guest: Sshd) -> None:
    """It has taken our connection and says nothing more: its machine was set back."""
    guest.freeze()
    connection = Guest("127.0.0.1", guest.port, "root", tmp_path)
    connection.machine_changed(None, RUNNING)
    connection.start()
    await until(lambda: connection._socket is not None, "an attempt")
    silent = connection._socket
    connection.machine_changed(RUNNING, replace(RUNNING, boots=2))
    guest.thaw()
    await until(lambda: connection.state == "live", "another attempt")
    assert connection._socket is not silent
    await connection.close()


async def test_a_paused_guest_is_not_knocked_at(tmp_path: Path, guest: Sshd) -> None:
    port = free_port()
    knocks = 0

    def knock(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal knocks
        knocks += 1
        writer.close()

    server = await asyncio.start_server(knock, "127.0.0.1", port)
    connection = Guest("127.0.0.1", port, "root", tmp_path)
    connection.machine_changed(None, PAUSED)
    connection.start()
    await asyncio.sleep(0.6)
    assert knocks == 0
    connection.machine_changed(PAUSED, RUNNING)
    await until(lambda: knocks > 0, "an attempt")
    await connection.close()
    server.close()


async def test_a_paused_session_stays_ready_and_its_clients_are_told(sidecar: Sidecar, guest: Sshd) -> None:
    _, cookie = sidecar.login()
    async with terminal(sidecar, cookie) as client:
        first = await client.until_frame(p.STATE, guest="live")
        assert first.fields is not None and "machine" not in first.fields  # nobody says anything: as ever
        guest.tell("paused", paused="idle")
        frame = await client.until_frame(p.STATE, guest="live")
        while "machine" not in (frame.fields or {}):
            frame = await client.until_frame(p.STATE)
        assert frame.fields is not None
        assert frame.fields["machine"] == {
            "state": "paused", "paused": "idle", "boots": 1, "how": "boot", "name": "", "reason": "",
        }  # fmt: skip
        assert sidecar.request("GET", "/ready")[::2] == (200, b"paused\n")
        guest.switch_off()  # its machine may end meanwhile
        await client.until_frame(p.STATE, guest="lost")
        assert sidecar.request("GET", "/ready")[0] == sidecar.request("GET", "/health")[0] == 200
        guest.tell("starting", boots=2, how="clean")
        sidecar.until("/ready", 503)
        guest.boot()
        await client.until(b"set back to the clean image: this is a new shell")
        sidecar.until("/ready", 200)
