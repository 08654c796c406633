"""The workspace bridge against a hostile guest that speaks raw SFTP. Mirrors code_server/bridge.py."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import TypeVar

import pytest

from dozlab.code_server.bridge import LOOK, MAX_CONNECTIONS, Bridge
from dozlab.code_server.settings import Settings
from dozlab.lib.errors import DozlabError
from dozlab.lib.proc import Child
from dozlab.lib.units import MIB
from tests.unit.code_server.conftest import until
from tests.unit.code_server.rawsftp import RawSftp, SftpError

T = TypeVar("T")


async def attack(bridge: Bridge, do: Callable[[RawSftp], T]) -> T:
    """Run a conversation with the bridge in a thread: the client blocks, the bridge must not."""

    def talk() -> T:
        client = RawSftp("127.0.0.1", bridge.port)
        try:
            return do(client)
        finally:
            client.close()

    return await asyncio.to_thread(talk)


def inside(bridge: Bridge) -> str:
    """Return the workspace's path as the guest must name it."""
    settings = bridge._settings
    return "/workspace" if settings.sandbox == "bwrap" else str(settings.workspace)


async def test_reads_and_writes_the_workspace(bridge: Bridge, settings: Settings) -> None:
    (settings.workspace / "from-editor").write_text("hello")

    def do(client: RawSftp) -> tuple[str, bytes, set[str]]:
        client.mkdir("sub")
        client.write("sub/from-guest", b"data")
        client.rename("sub/from-guest", f"{inside(bridge)}/moved")
        return client.realpath("."), client.read("from-editor"), client.listdir(".")

    where, data, names = await attack(bridge, do)
    assert where == inside(bridge)
    assert data == b"hello"
    assert {"sub", "moved", "from-editor"} <= names
    assert (settings.workspace / "moved").read_bytes() == b"data"


@pytest.mark.parametrize(
    "path",
    ["../secret", "/workspace/../secret", "sub/../../secret", "/proc/self/environ", "/proc/1/root/secret", "{host}"],
)
async def test_paths_out_of_the_workspace_lead_nowhere(bridge: Bridge, settings: Settings, path: str) -> None:
    secret = settings.workspace.parent / "secret"
    secret.write_text("host secret")
    (settings.workspace / "sub").mkdir()
    path = path.format(host=secret)

    def do(client: RawSftp) -> None:
        with pytest.raises(SftpError):
            client.read(path)
        with pytest.raises(SftpError):
            client.write(path, b"owned")

    await attack(bridge, do)
    assert secret.read_text() == "host secret"
    assert sorted(os.listdir(settings.workspace)) == ["sub"]


async def test_links_do_not_lead_out(bridge: Bridge, settings: Settings) -> None:
    secret = settings.workspace.parent / "secret"
    secret.write_text("host secret")

    def do(client: RawSftp) -> None:
        for number, target in enumerate([str(secret), "../secret", "/etc/shadow", "/proc/self/root/etc/shadow"]):
            client.symlink(target, f"link{number}")
            with pytest.raises(SftpError):
                client.read(f"link{number}")
            with pytest.raises(SftpError):
                client.write(f"link{number}", b"owned")
        client.symlink(str(settings.workspace.parent), "up")
        with pytest.raises(SftpError):
            client.listdir("up")
        with pytest.raises(SftpError):
            client.hardlink(str(secret), "hard")
        with pytest.raises(SftpError):
            client.hardlink("link0", "up/hard")

    await attack(bridge, do)
    assert secret.read_text() == "host secret"
    assert sorted(os.listdir(settings.workspace.parent)) == ["home", "secret", "shared", "workspace"]


async def test_etc_passwd_is_not_the_hosts(settings: Settings) -> None:
    bridge = Bridge(settings)
    await bridge.start()
    try:
        assert (await attack(bridge, lambda client: client.read("/etc/passwd"))).count(b"\n") == 2
    finally:
        await bridge.close()


async def test_nothing_is_renamed_in_or_out(bridge: Bridge, settings: Settings) -> None:
    secret = settings.workspace.parent / "secret"
    secret.write_text("host secret")
    (settings.workspace / "mine").write_text("mine")

    def do(client: RawSftp) -> None:
        for old, new in [("mine", "../out"), (str(secret), "in"), ("mine", str(secret.parent / "out"))]:
            with pytest.raises(SftpError):
                client.rename(old, new)
        with pytest.raises(SftpError):
            client.remove(str(secret))

    await attack(bridge, do)
    assert secret.exists()
    assert (settings.workspace / "mine").exists()
    assert not (settings.workspace.parent / "out").exists()


async def test_only_the_workspace_is_writable(settings: Settings) -> None:
    bridge = Bridge(settings)
    await bridge.start()

    def do(client: RawSftp) -> set[str]:
        for folder in ("/", "/etc", "/usr", "/lib", "/dev", "/tmp"):
            with pytest.raises(SftpError):
                client.write(f"{folder}/x", b"x")
        return client.listdir("/")

    try:
        assert await attack(bridge, do) <= {".", "..", "dev", "etc", "usr", "lib", "lib64", "workspace"}
    finally:
        await bridge.close()


async def test_one_file_cannot_exceed_the_cap(bridge: Bridge, settings: Settings) -> None:
    size = settings.workspace_size

    def do(client: RawSftp) -> None:
        client.write("huge", b"x")
        with pytest.raises(SftpError):
            client.truncate("huge", size + 1)
        with pytest.raises(SftpError):
            client.write("huge", b"x", offset=size)
        assert client.read("huge") == b"x"  # refused, and the connection still lives

    await attack(bridge, do)
    assert (settings.workspace / "huge").stat().st_size <= size


async def test_a_guest_that_fills_the_workspace_is_stopped(bridge: Bridge, settings: Settings) -> None:
    def fill(client: RawSftp) -> int:
        written = 0
        try:
            for number in range(1000):
                client.write(f"fill{number}", os.urandom(4 * MIB))
                written += 4 * MIB
        except (ConnectionError, SftpError):
            return written
        return written

    async def fill_until_refused() -> int:
        total = 0
        while bridge.room == "free":
            total += await attack(bridge, fill)
            assert total < 20 * settings.workspace_size, "nothing stops the guest"
        return total

    await fill_until_refused()
    used = sum(path.stat().st_blocks * 512 for path in settings.workspace.iterdir())
    assert used < 3 * settings.workspace_size
    assert bridge.room == "full"

    def refused(client: RawSftp) -> None:
        with pytest.raises(SftpError):
            client.write("more", b"x" * 4096)
        with pytest.raises(SftpError):
            client.mkdir("folder")

    await attack(bridge, refused)
    await attack(bridge, lambda client: client.remove("fill0"))  # the guest may make room
    assert not (settings.workspace / "fill0").exists()
    for path in settings.workspace.iterdir():  # and so may the learner, in the editor
        path.unlink()
    await until(lambda: bridge.room == "free", "room again")
    await attack(bridge, lambda client: client.write("again", b"x"))


async def test_others_than_the_guest_are_refused(settings: Settings) -> None:
    bridge = Bridge(replace(settings, vm_ip=IPv4Address("127.0.0.9")))
    await bridge.start()
    try:
        with pytest.raises(ConnectionError):
            await attack(bridge, lambda client: client.realpath("."))
    finally:
        await bridge.close()


async def test_the_newest_connections_win_and_all_end_with_us(bridge: Bridge) -> None:
    clients = [await asyncio.to_thread(RawSftp, "127.0.0.1", bridge.port) for _ in range(MAX_CONNECTIONS + 2)]
    await asyncio.to_thread(clients[-1].realpath, ".")
    # An answer comes from the child, which may be quicker than the bridge's own note of it.
    await until(lambda: len(bridge._connections) == MAX_CONNECTIONS, "the bridge's own view of the connections")
    children = [connection.child.pid for connection in bridge._connections]
    with pytest.raises(ConnectionError):
        await asyncio.to_thread(clients[0].realpath, ".")
    await bridge.close()
    for client in clients:
        client.close()
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]


async def test_a_connection_ends_with_its_guest_s_vmm_and_with_nothing_else(settings: Settings) -> None:
    downs: list[int | None] = [3]
    bridge = Bridge(settings, downs=lambda: downs[0])
    await bridge.start()
    try:
        old = await asyncio.to_thread(RawSftp, "127.0.0.1", bridge.port)
        assert await asyncio.to_thread(old.realpath, ".") == "/workspace"
        await until(lambda: len(bridge._connections) == 1, "the bridge's own view of the connection")
        child = bridge._connections[0].child.pid
        downs[0] = None  # nobody can tell at the moment
        await asyncio.sleep(2 * LOOK)
        assert await asyncio.to_thread(old.realpath, ".") == "/workspace"
        downs[0] = 4
        await until(lambda: not bridge._connections, "the end of the former guest's connection")
        ours = f":{bridge.port:04X} 0100007F:{old.socket.getsockname()[1]:04X} "
        assert ours not in Path("/proc/net/tcp").read_text()  # not even waiting for the guest's last word
        with pytest.raises(ConnectionError):
            await asyncio.to_thread(old.realpath, ".")
        old.close()
        assert not Path(f"/proc/{child}").exists()
        new = await asyncio.to_thread(RawSftp, "127.0.0.1", bridge.port)
        await asyncio.sleep(2 * LOOK)
        assert await asyncio.to_thread(new.realpath, ".") == "/workspace"
        new.close()
    finally:
        await bridge.close()


async def test_a_paused_guest_is_not_asked_whether_it_lives(bridge: Bridge) -> None:
    client = await asyncio.to_thread(RawSftp, "127.0.0.1", bridge.port)
    await asyncio.to_thread(client.realpath, ".")
    await until(lambda: len(bridge._connections) == 1, "the bridge's own view of the connection")
    peer = bridge._connections[0].socket
    assert peer.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0
    assert peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) > 86_400_000
    client.close()


async def test_garbage_ends_only_its_own_connection(bridge: Bridge) -> None:
    def noise() -> None:
        client = RawSftp("127.0.0.1", bridge.port)
        try:
            client.socket.sendall(os.urandom(65536))
            while client.socket.recv(65536):
                pass
        finally:
            client.close()

    with contextlib.suppress(ConnectionError):
        await asyncio.to_thread(noise)
    await until(lambda: not bridge._connections, "the end of the garbled connection")
    assert (await attack(bridge, lambda client: client.realpath("."))) == inside(bridge)


@pytest.mark.parametrize("fault", [None, OSError(24, "Too many open files")], ids=["we end", "no descriptors"])
async def test_a_guest_whose_server_does_not_start_is_let_go(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch, fault: OSError | None
) -> None:
    asked, start = asyncio.Event(), Child.start

    async def never(*_: object, **__: object) -> None:
        asked.set()
        if fault is not None:
            raise fault
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(Child, "start", never)
    reader, writer = await asyncio.open_connection("127.0.0.1", bridge.port)
    await asked.wait()
    if fault is None:
        await bridge.close()
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
    if fault is not None:  # and the next one is served
        monkeypatch.setattr(Child, "start", start)
        await attack(bridge, lambda client: client.realpath("."))


async def test_a_taken_port_is_said(bridge: Bridge, settings: Settings) -> None:
    with pytest.raises(DozlabError, match="cannot listen on"):
        await Bridge(replace(settings, workspace_port=bridge.port)).start()


async def test_a_missing_sftp_server_names_its_package(settings: Settings) -> None:
    with pytest.raises(DozlabError, match="apt-get install openssh-sftp-server"):
        await Bridge(replace(settings, sftp_server=Path("/nonexistent"))).start()
