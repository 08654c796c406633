"""A day of 200 clients and 50 shells, by a clock that is turned by hand: nothing grows, and no task is left.

Real shells, attachments, outlets and wires over transports that take all there is; no sockets, no guest.
"""

from __future__ import annotations

import asyncio
import gc
import random
import tracemalloc
from collections import Counter
from types import SimpleNamespace

import pytest

from dozlab.lib import tasks
from dozlab.terminal_sidecar import protocol as p
from dozlab.terminal_sidecar.attachment import Attachment
from dozlab.terminal_sidecar.history import History
from dozlab.terminal_sidecar.metrics import Traffic
from dozlab.terminal_sidecar.people.clients import Client
from dozlab.terminal_sidecar.shell import Shell, Shells
from dozlab.terminal_sidecar.wire.outlet import Outlet

from .test_people import Clock, FakeGuest, member

CLIENTS, SHELLS = 200, 50
HISTORY = 16 << 10
ROUNDS, HOURS = 16, 1.5  # a day
OURS = (Attachment, Client, History, Outlet, Shell)


class Wire:
    """Takes every frame, as a socket whose other end reads; remembers how far the output got."""

    on_writable = None
    open = True

    def __init__(self) -> None:
        self.position = 0
        self.transport = SimpleNamespace(write=self._write_short)

    def _write_short(self, frame: bytes) -> None:
        assert (frame[0], frame[1]) == (0x82, len(frame) - 2)
        self.write(frame[2:])

    def write(self, message: bytes) -> None:
        if message[0] in (p.OUTPUT, p.REPLAY_BEGIN):
            frame = p.decode_server(message)
            self.position = frame.offset + (len(frame.data) if frame.kind == p.OUTPUT else 0)


class Browser:
    """A client that acknowledges what it gets, drops, and comes back where it was."""

    def __init__(self, shells: Shells, shell: str, number: int, traffic: Traffic) -> None:
        self.shells, self.name, self.traffic = shells, shell, traffic
        self.member = member(("owner", "editor", "viewer")[number % 3], f"{number}")
        self.epoch, self.wire = "", Wire()
        self.come()

    def come(self) -> None:
        self.shell = self.shells.get(self.name, self.member)
        hello = p.Hello(shell=self.name, epoch=self.epoch, offset=self.wire.position, cols=80 + len(self.member.name))
        self.client = self.shell.attach(hello, "soak", self.member)
        self.client.wake = self.outlet = Outlet(self.wire, self.client.attachment, self.traffic)  # type: ignore[arg-type]
        self.outlet.set()
        self.epoch = self.shell.history.epoch

    def go(self) -> None:
        self.outlet.close()
        self.shell.detach(self.client)

    def send(self, frame: p.ClientFrame) -> None:
        self.shell.receive(self.client, frame)


def counts() -> Counter[str]:
    gc.collect()
    return Counter(type(each).__name__ for each in gc.get_objects() if type(each) in OURS)


async def some_hours(shells: Shells, browsers: list[Browser], dice: random.Random, clock: Clock) -> None:
    for _ in range(2):
        clock.now += HOURS * 3600 / 2
        for shell in shells.all():
            if shell.live:
                shell.shell_output(dice.randbytes(dice.randrange(4000)) + b"\r\n")
        await asyncio.sleep(0)  # the rest of a turn is sent
        for browser in dice.sample(browsers, 40):
            browser.send(p.Ack(browser.wire.position, browser.wire.position))
        for browser in dice.sample(browsers, 3):
            browser.send(p.Ping(dice.randrange(1 << 63)))
            browser.send(p.Input(b"ls\r"))
            browser.send(p.Resize(dice.randrange(40, 200), dice.randrange(10, 60)))
            browser.send(p.Lead())
        for browser in dice.sample(browsers, 3):
            browser.go()
            browser.come()
        for shell in dice.sample(shells.all(), 1):
            if shell.live:
                shell.shell_ended(*dice.choice(((0, None), (None, "KILL"), (None, None))))
        await asyncio.sleep(0)
        for browser in browsers:
            if browser.shell.ended is not None:
                browser.send(p.NewShell())
        await asyncio.sleep(0)
        shells.sweep()
        shells.tell_state()
        await asyncio.sleep(0)
        await asyncio.sleep(0)


async def _soak(one_shell: bool) -> None:
    clock, dice, guest = Clock(), random.Random(1), FakeGuest()
    shells = Shells(guest, most=SHELLS, history=lambda: History(HISTORY), idle_seconds=3600, clock=clock)
    traffic = Traffic()
    names = ["main"] if one_shell else ["main", *(f"s{number}" for number in range(1, SHELLS))]
    before = counts()
    tracemalloc.start()
    for name in names:
        shells.get(name, member("owner"))
    browsers = [Browser(shells, names[number % len(names)], number, traffic) for number in range(CLIENTS)]
    await asyncio.sleep(0)
    sizes, running = [], []
    try:
        for number in range(ROUNDS):
            await some_hours(shells, browsers, dice, clock)
            guest.channels = guest.channels[-SHELLS:]
            for channel in guest.channels:
                channel.log.clear()
            if number >= ROUNDS // 2:
                gc.collect()
                sizes.append(tracemalloc.get_traced_memory()[0])
                running.append(len(asyncio.all_tasks()))
    finally:
        tracemalloc.stop()
    during = counts() - before
    assert (during["Client"], during["Attachment"], during["Outlet"]) == (CLIENTS, CLIENTS, CLIENTS)
    assert (during["Shell"], during["History"]) == (len(names), len(names))
    third, last = max(sizes[: len(sizes) // 2]), max(sizes[len(sizes) // 2 :])
    assert last < 1.1 * third, f"{last - third} bytes more in the last quarter of the day than in the third"
    assert max(running) <= 2 + len(names), "tasks pile up"
    assert traffic.sent > 1 << 20

    for browser in browsers:
        browser.go()
    clock.now += 3601
    shells.sweep()
    assert shells.all() == []
    del browsers, browser, shells
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert counts() - before == Counter()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert not tasks._running


@pytest.mark.parametrize("one_shell", [True, False], ids=["200 clients on one shell", "50 shells"])
async def test_a_day_leaves_nothing_behind(one_shell: bool) -> None:
    await _soak(one_shell)
