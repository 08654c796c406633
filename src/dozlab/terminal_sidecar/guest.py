"""The one SSH connection into the guest: made, watched, made again. Only this, `pipe` and `ssh_lane` import asyncssh.

The key and the pinned host key come from SHARED_DIR; without both there is no connection, and never another shell.

A guest that stands still (`Machine.still`) keeps its connection however long it does: nothing is sent, nothing is
awaited. What was under way when it stopped waits in the tap's queue, from which the guest takes it when it goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import logging
import socket
import struct
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import asyncssh

from dozlab.lib import tasks
from dozlab.lib.tcp import outlive_a_pause, round_trip
from dozlab.terminal_sidecar import ssh_lane
from dozlab.terminal_sidecar.machine import Machine, started_anew
from dozlab.terminal_sidecar.pipe import PIPE_WINDOW, Away, Pipe, Still

log = logging.getLogger(__name__)

State = Literal["waiting", "live", "lost"]

WINDOW = 128 << 10
"""SSH receive window, bytes: what the guest may have under way to us. Bounds what Ctrl-C waits for (notes, D16)."""
_KEEPALIVE, _KEEPALIVE_MISSED = 3.0, 3
_DIAL_PATIENCE = (0.5, 0.5, 0.5, 2.0)
"""Seconds for TCP to connect, one attempt after the other. Short: a packet sent before the guest's network is up is
lost, and the kernel repeats it after 1 s and 3 s only. Now and then longer, for a host that is short of CPU."""
_LOGIN_TIMEOUT = 30.0
"""Seconds: to hang up on a slow guest and begin anew makes it slower yet."""
_RETRY_FIRST, _RETRY_DIAL, _RETRY_LOGIN = 0.25, 1.0, 2.0
"""Seconds between attempts: at first, and at most after one that reached nobody or was turned away."""


_OPEN_SECONDS = 10.0
_LOOPBACK = ("127.0.0.1", "::1")

_T = TypeVar("_T")


class ShellEvents(Protocol):
    """Who a channel reports to."""

    def shell_output(self, data: bytes) -> None:
        """Take bytes that the shell printed."""

    def shell_ended(self, status: int | None, signal: str | None) -> None:
        """Take the end: exit status or signal; both None when the connection was lost."""


class Channel(asyncssh.SSHClientSession[bytes]):
    """One shell in the guest, on a pty of its own."""

    def __init__(self, events: ShellEvents) -> None:
        self._events = events
        self._chan: asyncssh.SSHClientChannel[bytes] | None = None
        self._lane: ssh_lane.Lane | None = None
        self._ended: tuple[int | None, str | None] = (None, None)
        self._paused = False

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        """Keep the channel (asyncssh calls this)."""
        self._chan, self._lane = chan, ssh_lane.of(chan)

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        """Pass output on (asyncssh calls this)."""
        self._events.shell_output(data)

    def exit_status_received(self, status: int) -> None:
        """Remember the exit status (asyncssh calls this)."""
        self._ended = (status, None)

    def exit_signal_received(self, signal: str, core_dumped: bool, msg: str, lang: str) -> None:
        """Remember the signal (asyncssh calls this)."""
        self._ended = (None, signal)

    def connection_lost(self, exc: Exception | None) -> None:
        """Report the end (asyncssh calls this)."""
        self._chan = None
        self._events.shell_ended(*self._ended)

    def write(self, data: bytes) -> int:
        """Send input; returns the bytes that wait because the guest does not read."""
        if self._chan is None or (self._lane is not None and self._lane.write(self._chan, data)):
            return 0
        if self._chan.is_closing():
            return 0
        self._chan.write(data)
        return self._chan.get_write_buffer_size()

    def resize(self, cols: int, rows: int) -> None:
        """Set the pty's size in cells."""
        if self._chan is not None and not self._chan.is_closing():
            self._chan.change_terminal_size(cols, rows)

    def hold(self, hold: bool) -> None:
        """Stop or go on reading; the SSH window then holds the guest's program back."""
        if self._chan is None or hold == self._paused:
            return
        self._paused = hold
        if hold:
            self._chan.pause_reading()
        else:
            self._chan.resume_reading()

    def close(self) -> None:
        """Hang up."""
        if self._chan is not None:
            self._chan.close()


class Guest:
    """Keeps a connection to the guest's sshd from `start()` to `close()`; `state` changes are told to `on_change`."""

    def __init__(self, host: str, port: int, user: str, shared: Path) -> None:
        self._host, self._port, self._user = host, port, user
        self._key, self._known_hosts = shared / "id_ed25519", shared / "known_hosts"
        self.state: State = "waiting"
        self.connections = 0
        self.fault = "waiting for the machine's key"
        self.machine: Machine | None = None
        """What firecracker-vm says of it."""
        self.still = False
        """The guest stands still, so that nothing must be sent to it."""
        self._listeners: list[Callable[[], None]] = []
        self._live, self._moving, self._news = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._standing = asyncio.Event()
        self._moving.set()
        self._socket: socket.socket | None = None
        self._connection: asyncssh.SSHClientConnection | None = None
        self._attempt: asyncio.Task[asyncssh.SSHClientConnection] | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def latency(self) -> float | None:
        """Return the round trip to the guest in seconds, as the kernel measures it; None while it does not answer."""
        sock = self._socket
        return round_trip(sock) if sock is not None and self.state == "live" and not self.still else None

    def machine_changed(self, before: Machine | None, now: Machine | None) -> None:
        """Take what firecracker-vm says now: stand still and go on with the guest, let go of one that is no more."""
        self.machine, self.still = now, now is not None and now.still
        (self._moving.clear if self.still else self._moving.set)()
        (self._standing.set if self.still else self._standing.clear)()
        self._news.set()
        self._set_keepalive()
        anew = started_anew(before, now)
        if self._attempt is not None and (anew or self.still):
            self._attempt.cancel()
        if anew:
            self._drop()

    def _drop(self) -> None:
        """End the connection at once, leaving nothing of it in the kernel.

        A guest whose memory is older than this connection's last bytes may still hold its other end: it must find
        nobody there (RST, hence SO_LINGER 0 of socket(7)) instead of somebody who waits for other bytes.
        """
        if self._connection is None:
            return
        log.info("the machine was started anew: letting go of the connection")
        if self._socket is not None:
            with contextlib.suppress(OSError):  # it has just been closed
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._connection.abort()
        if self.state == "live":
            self._set("lost")

    def _set_keepalive(self) -> None:
        if self._connection is not None:
            self._connection.set_keepalive(0 if self.still else _KEEPALIVE)

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` after each change of `state`."""
        self._listeners.append(listener)

    def start(self) -> None:
        """Begin to connect."""
        self._task = tasks.start(self._keep(), name="guest-connection")

    async def close(self) -> None:
        """Disconnect and stop trying."""
        if self._task:
            await tasks.stop([self._task])
        if self._connection is not None:
            self._connection.abort()
            await self._connection.wait_closed()

    async def open_shell(self, events: ShellEvents, cols: int, rows: int) -> Channel:
        """Wait until the guest answers and open a login shell on a new pty."""
        while True:
            await self._live.wait()
            await self._moving.wait()
            connection = self._connection
            if connection is None or not self._live.is_set():
                continue
            channel = Channel(events)
            try:
                await self._session(connection, channel, cols, rows)
            except (asyncssh.Error, OSError) as error:
                log.warning("the guest opened no shell: %s", error)
                await asyncio.sleep(_RETRY_FIRST)
                continue
            return channel

    @staticmethod
    async def _session(connection: asyncssh.SSHClientConnection, channel: Channel, cols: int, rows: int) -> None:
        await connection.create_session(
            lambda: channel, term_type="xterm-256color", term_size=(cols, rows), encoding=None, window=WINDOW,
            env={"COLORTERM": "truecolor", "LANG": "C.UTF-8"},
        )  # fmt: skip

    # --- for files and ports

    async def command(self, line: str) -> Pipe:
        """Run a command of the guest's shell; what it writes to stderr is not kept.

        :raises Still: while the machine stands still
        :raises Away: when there is no connection, or the guest refuses
        """
        writer, reader, _ = await self._opened(
            lambda connection: connection.open_session(
                f"{line} 2>/dev/null", encoding=None, window=PIPE_WINDOW, request_pty=False
            )
        )
        return Pipe(reader, writer)

    async def subsystem(self, name: str) -> Pipe:
        """Open a subsystem of the guest's sshd, such as `sftp`. Raises as `command`."""
        writer, reader, _ = await self._opened(
            lambda connection: connection.open_session(
                subsystem=name, encoding=None, window=PIPE_WINDOW, request_pty=False
            )
        )
        return Pipe(reader, writer)

    async def dial(self, port: int) -> Pipe:
        """Connect to a TCP port in the guest, as a program there would to localhost. Raises as `command`."""
        fault: Away | None = None
        for host in (*_LOOPBACK, self._host):
            try:
                reader, writer = await self._opened(
                    lambda connection, host=host: connection.open_connection(  # type: ignore[misc]
                        host, port, encoding=None, window=PIPE_WINDOW
                    )
                )
            except Away as error:
                fault = fault or error
                if self.state != "live":
                    break
            else:
                return Pipe(reader, writer)
        raise fault or Away("nobody listens there")

    async def _opened(self, ask: Callable[[asyncssh.SSHClientConnection], Awaitable[_T]]) -> _T:
        if self.still:
            raise Still
        connection = self._connection
        if connection is None or self.state != "live":
            raise Away("the machine does not answer yet")
        try:
            return await self.patiently(ask(connection), _OPEN_SECONDS)
        except TimeoutError as error:
            raise Away("the machine does not answer") from error
        except (asyncssh.Error, OSError) as error:
            raise Away(str(error) or type(error).__name__) from error

    async def moves(self) -> None:
        """Wait until the machine does not stand still."""
        await self._moving.wait()

    async def unless_still(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Return what the work does; it is stopped when the machine stands still before it is done.

        :raises Still: then
        """
        doing: asyncio.Task[_T] = tasks.start(work, name="unless-still", guard=False)
        standing = tasks.start(self._standing.wait(), name="standing", guard=False)
        try:
            await asyncio.wait({doing, standing}, return_when=asyncio.FIRST_COMPLETED)
            if not doing.done():
                raise Still
            return doing.result()
        finally:
            await tasks.stop([doing, standing])

    async def patiently(self, answer: Awaitable[_T], seconds: float) -> _T:
        """Return what the guest answers; the time it stands still does not count.

        :raises TimeoutError: when it does not answer within `seconds` although it runs
        """
        waiting = asyncio.ensure_future(answer)
        try:
            while True:
                still = self.still
                done, _ = await asyncio.wait({waiting}, timeout=seconds)
                if done:
                    return waiting.result()
                if not (still or self.still):
                    raise TimeoutError
        finally:
            waiting.cancel()

    def _set(self, state: State) -> None:
        if state == self.state:
            return
        self.state = state
        (self._live.set if state == "live" else self._live.clear)()
        for listener in self._listeners:
            listener()

    async def _keep(self) -> None:
        """Connect, wait for the end, connect again: for ever."""
        delay, patience = _RETRY_FIRST, itertools.cycle(_DIAL_PATIENCE)
        while True:
            await self._moving.wait()
            self._news.clear()
            try:
                connection = await self._try(next(patience))
            except (asyncssh.Error, OSError, ValueError) as error:
                fault = str(error) or type(error).__name__
                if fault != self.fault:
                    log.info("guest not reached yet: %s", fault)
                self.fault = fault
                most = _RETRY_DIAL if isinstance(error, OSError) else _RETRY_LOGIN
                delay = _RETRY_FIRST if await self._news_within(delay) else min(delay * 1.5, most)
                continue
            delay, patience = _RETRY_FIRST, itertools.cycle(_DIAL_PATIENCE)
            if connection is None:
                continue
            self.fault = ""
            self.connections += 1
            log.info("connected to the guest at %s:%d", self._host, self._port)
            self._set_keepalive()
            self._set("live")
            await connection.wait_closed()
            self._connection = self._socket = None
            log.info("connection to the guest lost")
            self._set("lost")

    async def _news_within(self, seconds: float) -> bool:
        """Wait; tell whether firecracker-vm said something meanwhile, which ends the wait."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()
        return self._news.is_set()

    async def _try(self, patience: float) -> asyncssh.SSHClientConnection | None:
        """Return the connection; None when the machine stopped or was started anew meanwhile, so that it is to be made
        again.
        """
        self._attempt = tasks.start(self._connect(patience), name="guest-connect", guard=False)
        try:
            await asyncio.wait({self._attempt})
            return None if self._attempt.cancelled() else self._attempt.result()
        finally:
            await tasks.stop([self._attempt])
            self._attempt = None

    async def _connect(self, patience: float) -> asyncssh.SSHClientConnection:
        for path in (self._key, self._known_hosts):
            if not path.exists():
                raise FileNotFoundError(f"{path.name} is not there yet")
        self._socket = sock = await self._dial(patience)
        try:
            async with asyncio.timeout(_LOGIN_TIMEOUT):
                self._connection = await asyncssh.connect(
                    self._host, self._port, sock=sock, username=self._user, client_keys=[str(self._key)],
                    known_hosts=str(self._known_hosts), config=None, agent_path=None, preferred_auth="publickey",
                    keepalive_interval=_KEEPALIVE, keepalive_count_max=_KEEPALIVE_MISSED, tcp_keepalive=False,
                    encryption_algs=["aes128-gcm@openssh.com", "aes256-gcm@openssh.com",
                                     "chacha20-poly1305@openssh.com"],
                    compression_algs=["none"], x509_trusted_certs=None, gss_auth=False, login_timeout=_LOGIN_TIMEOUT,
                )  # fmt: skip
        except BaseException:
            sock.close()
            raise
        ssh_lane.lay(self._connection)
        return self._connection

    async def _dial(self, patience: float) -> socket.socket:
        """Return a connected socket.

        :raises OSError: nobody answers, or not within `patience` seconds
        """
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            async with asyncio.timeout(patience):
                await asyncio.get_running_loop().sock_connect(sock, (self._host, self._port))
            outlive_a_pause(sock)  # a guest that is dead is found by SSH's own keep-alive
        except BaseException as error:
            sock.close()
            if isinstance(error, TimeoutError) or (isinstance(error, OSError) and error.errno == errno.EHOSTUNREACH):
                raise OSError("the guest's network does not answer") from error  # one fault, whichever clock says so
            raise
        return sock
