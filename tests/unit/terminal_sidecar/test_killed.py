"""The sidecar is killed under load and comes back: what clients find then (docs/reference/terminal-protocol.md)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from dozlab.terminal_sidecar import protocol as p

from .conftest import Guest, Sidecar, Terminal, terminal


def gone(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return False
    return True


async def _shell_pid(client: Terminal) -> int:
    await client.until(b"guest$ ")
    await client.type("echo pid''=$$\n")
    async with asyncio.timeout(60):
        while not (found := re.search(rb"pid=(\d+)\r\n", client.text)):
            await client.take()
    return int(found[1])


async def test_clients_are_back_in_shells_of_the_same_names(tmp_path: Path, guest: Guest, page: Path) -> None:
    names, pids, seen = ("main", "second"), [], {}
    first = Sidecar(tmp_path, guest.port, page)
    first.until("/ready", 200)
    _, cookie = first.login()
    async with contextlib.AsyncExitStack() as stack:
        clients = []
        for name in names:
            client = await stack.enter_async_context(terminal(first, cookie, p.Hello(shell=name)))
            pids.append(await _shell_pid(client))
            await client.type("yes lo''ad\n")
            clients.append(client)
        for name, client in zip(names, clients, strict=True):
            await client.until(b"load\r\n" * 1000)
            seen[name] = client.epoch, client.received
        first.process.kill()
        for client in clients:
            with pytest.raises(ConnectionClosed):
                while True:
                    await client.take()
    first.stop()

    second = Sidecar(tmp_path, guest.port, page)
    try:
        second.until("/ready", 200)
        with pytest.raises(InvalidStatus) as caught:
            async with terminal(second, cookie):
                pass
        assert caught.value.response.status_code == 401  # logins are in memory
        _, cookie = second.login()
        for name in names:
            epoch, offset = seen[name]
            async with terminal(second, cookie, p.Hello(shell=name, epoch=epoch, offset=offset)) as client:
                begin = await client.until_frame(p.REPLAY_BEGIN)
                assert begin.reset and client.epoch != epoch
                assert await _shell_pid(client) not in pids
        end = time.monotonic() + 60
        while not all(gone(pid) for pid in pids):  # the guest ended them with their connection
            assert time.monotonic() < end, "old shells still run"
            time.sleep(0.05)
    finally:
        assert second.stop() == 0
