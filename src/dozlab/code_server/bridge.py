"""The guest's way to the workspace (design.md D15): raw SFTP over the tap link, one confined sftp-server a connection.

The guest is hostile. It may speak any bytes; it reaches nothing but the workspace and can fill no more than its cap.

A guest that is paused keeps its connection however long that takes: nothing here asks whether it still answers. A
connection ends when the guest ends it, or when its VMM has ended (`link`).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import pwd
import socket
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from dozlab.code_server import landlock, link, sandbox, usage
from dozlab.code_server.launch import with_data
from dozlab.code_server.settings import Settings
from dozlab.lib import tasks
from dozlab.lib.errors import DozlabError
from dozlab.lib.proc import Child
from dozlab.lib.tcp import outlive_a_pause
from dozlab.lib.units import MIB, format_size

MAX_CONNECTIONS = 4  # sshfs uses one; a restored guest leaves its old one behind
LOOK, LOOK_BUSY = 0.25, 0.05  # seconds between two looks at the connections' byte counters: one getsockopt each
BURST = 8 * MIB  # bytes received that make us measure at once
PERIOD = 1.0  # seconds between two measurements while bytes flow
SHARE = 20  # a measurement that takes t seconds is not repeated for SHARE * t: at most 5 % of a core
OPEN_FILES = 512

_IP_FREEBIND = 15  # ip(7): the tap's address may come later
_TCP_INFO_BYTES_RECEIVED = 128  # offset of tcpi_bytes_received (u64) in struct tcp_info, linux/tcp.h

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Connection:
    socket: socket.socket
    child: Child
    downs: int | None
    """How often the guest's link had gone down when this connection was made."""
    done: asyncio.Task[None] = field(init=False)

    def received(self) -> int:
        """Return the bytes that have come from the guest so far."""
        info = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES_RECEIVED + 8)
        return int(struct.unpack_from("Q", info, _TCP_INFO_BYTES_RECEIVED)[0])


class Bridge:
    """Listens on GATEWAY_IP:WORKSPACE_PORT until `close()`."""

    def __init__(self, settings: Settings, *, downs: Callable[[], int | None] | None = None) -> None:
        self._settings = settings
        self._downs = downs or (lambda: link.downs(settings.gateway_ip))
        self._listener: socket.socket | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._connections: list[_Connection] = []
        self.room: usage.Room = "free"
        """What the guest may do at the moment."""
        self._full_at = 0  # bytes in use when it became full

    @property
    def port(self) -> int:
        """Return the port listened on."""
        assert self._listener
        return int(self._listener.getsockname()[1])

    async def start(self) -> None:
        """Measure the workspace and listen. The tap's address need not exist yet (IP_FREEBIND).

        :raises DozlabError: sftp-server is missing, the port is taken, or nothing here can confine it
        """
        settings = self._settings
        if not settings.sftp_server.exists():
            raise DozlabError(
                f"{settings.sftp_server} is missing", hint="run: sudo apt-get install openssh-sftp-server"
            )
        if settings.sandbox == "none":
            _check_landlock()
        await self._measure()
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
            listener.bind((str(settings.gateway_ip), settings.workspace_port))
            listener.listen(MAX_CONNECTIONS)
        except OSError as error:
            listener.close()
            where = f"{settings.gateway_ip}:{settings.workspace_port}"
            raise DozlabError(f"workspace bridge cannot listen on {where}: {error.strerror}") from error
        listener.setblocking(False)
        self._listener = listener
        self._tasks = [tasks.start(self._accept(), name="bridge accept"), tasks.start(self._watch(), name="bridge cap")]
        log.info("workspace for the guest on %s:%d", settings.gateway_ip, self.port)

    async def close(self) -> None:
        """Stop listening and end every connection."""
        await tasks.stop(self._tasks)
        if self._listener:
            self._listener.close()
        await self._end_all()

    async def _accept(self) -> None:
        assert self._listener
        while True:
            await _readable(self._listener)
            try:
                peer, (address, _) = self._listener.accept()
            except BlockingIOError:
                continue  # who was there has gone
            except OSError as error:
                if error.errno not in (errno.ECONNABORTED, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    raise
                await asyncio.sleep(0.1)  # out of descriptors: back off, do not spin
                continue
            if address != str(self._settings.vm_ip):
                log.warning("workspace: refused a connection from %s", address)
                peer.close()
                continue
            try:
                await self._serve(peer)
            except (DozlabError, OSError) as error:
                log.error("workspace: %s", error)
                peer.close()
            except BaseException:
                peer.close()
                raise

    async def _serve(self, peer: socket.socket) -> None:
        while len(self._connections) >= MAX_CONNECTIONS:  # the newest wins: an old one may be a dead guest's
            await self._end(self._connections[0])
        peer.setblocking(True)  # sftp-server's side of it; we only ask for counters and shut it down
        outlive_a_pause(peer)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        downs = self._downs()
        argv, fds = self._command()
        try:
            child = await Child.start(
                argv, name="sftp-server", env=_environment(), stdin=peer.fileno(), stdout=peer.fileno(), pass_fds=fds
            )
        finally:
            for fd in fds:
                os.close(fd)
        connection = _Connection(peer, child, downs)
        self._connections.append(connection)
        connection.done = tasks.start(self._reap(connection), name=f"sftp-server {child.pid}")
        log.info("workspace: the guest has connected (%s)", {"free": "read-write"}.get(self.room, self.room))

    def _command(self) -> tuple[list[str], list[int]]:
        settings = self._settings
        inside = sandbox.WORKSPACE if settings.sandbox == "bwrap" else str(settings.workspace)
        server = [str(settings.sftp_server), "-e", "-l", "ERROR", "-u", "022", "-d", inside]
        server += usage.sftp_options(self.room)
        # A file over the limit gives the guest EFBIG, not a dead connection: hence the ignored signal (setrlimit(2)).
        limits = ["env", "--ignore-signal=XFSZ", "prlimit", f"--fsize={settings.workspace_size}",
                  f"--nofile={OPEN_FILES}", "--core=0", "--"]  # fmt: skip
        if settings.sandbox == "bwrap":
            argv, fds = with_data(sandbox.sftp(settings, server))
            return [*limits, *argv], fds
        return [*limits, sys.executable, "-m", "dozlab.code_server.confine", inside, *server], []

    async def _reap(self, connection: _Connection) -> None:
        await connection.child.wait()
        connection.socket.close()
        with contextlib.suppress(ValueError):
            self._connections.remove(connection)

    async def _end(self, connection: _Connection) -> None:
        with contextlib.suppress(OSError):
            connection.socket.shutdown(socket.SHUT_RDWR)
        await connection.child.stop(grace=2.0)
        await connection.done

    async def _end_of_former_guests(self) -> None:
        """End the connections whose VMM has ended, leaving nothing of them in the kernel.

        A guest that is set back to a checkpoint still holds its end of them, as it was then. It must be told that
        nobody is there (RST, hence SO_LINGER 0 of socket(7)), so that its sshfs connects anew at once.
        """
        now = self._downs()
        for connection in [one for one in self._connections if now is not None and one.downs != now]:
            with contextlib.suppress(OSError):
                connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            log.info("workspace: the guest has ended, and its connection with it")
            await self._end(connection)

    async def _end_all(self) -> None:
        for connection in list(self._connections):
            await self._end(connection)

    async def _measure(self) -> float:
        """Measure the workspace, end connections when what is allowed changes, and return the seconds it took."""
        started = time.monotonic()
        used = await asyncio.to_thread(usage.measure, self._settings.workspace)
        spent = time.monotonic() - started
        now = usage.room(used, self._settings.workspace_size, self._full_at)
        if now != self.room:
            figures = f"{format_size(used)} of {format_size(self._settings.workspace_size)}"
            if now == "free":
                log.info("workspace: there is room again (%s); the guest may write", figures)
            else:
                allowed = "delete" if now == "full" else "read"
                log.warning("workspace is full (%s): the guest may only %s until there is room", figures, allowed)
            self.room = now
            self._full_at = 0 if now == "free" else self._full_at or used
            await self._end_all()  # it reconnects by itself and gets a server with the new rights
        return spent

    async def _watch(self) -> None:
        """Measure while bytes flow, or while it is full: then the editor, which we do not see, may make room.

        And look whether the guests that connected are still there.
        """
        seen, measured, spent, last = 0, 0.0, 0.0, 0
        while True:
            received = sum(connection.received() for connection in self._connections)
            await asyncio.sleep(LOOK_BUSY if received != last else LOOK)  # a sampling period, not a wait for something
            last = received
            if not self._connections and self.room == "free":
                seen = 0
                continue
            await self._end_of_former_guests()
            since, fresh = time.monotonic() - measured, abs(received - seen)
            due = since >= max(PERIOD, spent * SHARE) and (fresh or self.room != "free")
            burst = fresh >= BURST and since >= spent * 2
            if due or burst:
                seen = received
                spent = await self._measure()
                measured = time.monotonic()


async def _readable(sock: socket.socket) -> None:
    """Wait until somebody is there to accept. (asyncio's `sock_accept` loses the one it has when it is cancelled.)"""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(sock, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(sock)


def _check_landlock() -> None:
    if landlock.abi() < 3:
        raise DozlabError("this kernel has no Landlock that could confine the workspace bridge (Linux 6.2 or newer)")
    try:
        pwd.getpwuid(os.getuid())
    except KeyError as error:
        raise DozlabError(f"sftp-server needs a user of uid {os.getuid()} in /etc/passwd") from error


def _environment() -> dict[str, str]:
    names = ("PATH", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
    return {name: os.environ[name] for name in names if name in os.environ}
