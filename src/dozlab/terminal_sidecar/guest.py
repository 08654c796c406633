"""The one SSH connection into the guest: made, watched, made again. The only module that imports asyncssh.

The key and the pinned host key come from SHARED_DIR; without both there is no connection, and never another shell.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol

import asyncssh

from dozlab.lib import tasks

log = logging.getLogger(__name__)

State = Literal["waiting", "live", "lost"]

WINDOW = 128 << 10
"""SSH receive window, bytes: what the guest may have under way to us. Bounds what Ctrl-C waits for (notes, D16)."""
_KEEPALIVE, _KEEPALIVE_MISSED = 3.0, 3
_CONNECT_TIMEOUT = 10.0
_RETRY_FIRST, _RETRY_LAST = 0.25, 2.0  # seconds between attempts


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
        self._ended: tuple[int | None, str | None] = (None, None)
        self._paused = False

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        """Keep the channel (asyncssh calls this)."""
        self._chan = chan

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
        if self._chan is None or self._chan.is_closing():
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
        self._listeners: list[Callable[[], None]] = []
        self._live = asyncio.Event()
        self._connection: asyncssh.SSHClientConnection | None = None
        self._task: asyncio.Task[None] | None = None

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
            connection = self._connection
            if connection is None:
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

    def _set(self, state: State) -> None:
        if state == self.state:
            return
        self.state = state
        (self._live.set if state == "live" else self._live.clear)()
        for listener in self._listeners:
            listener()

    async def _keep(self) -> None:
        delay = _RETRY_FIRST
        while True:
            try:
                self._connection = await self._connect()
            except (asyncssh.Error, OSError, ValueError) as error:
                fault = str(error) or type(error).__name__
                if fault != self.fault:
                    log.info("guest not reached yet: %s", fault)
                self.fault = fault
                await asyncio.sleep(delay)
                delay = min(delay * 1.5, _RETRY_LAST)
                continue
            delay, self.fault = _RETRY_FIRST, ""
            self.connections += 1
            log.info("connected to the guest at %s:%d", self._host, self._port)
            self._set("live")
            await self._connection.wait_closed()
            self._connection = None
            log.info("connection to the guest lost")
            self._set("lost")

    async def _connect(self) -> asyncssh.SSHClientConnection:
        for path in (self._key, self._known_hosts):
            if not path.exists():
                raise FileNotFoundError(f"{path.name} is not there yet")
        async with asyncio.timeout(_CONNECT_TIMEOUT):
            return await asyncssh.connect(
                self._host, self._port, username=self._user, client_keys=[str(self._key)],
                known_hosts=str(self._known_hosts), config=None, agent_path=None, preferred_auth="publickey",
                keepalive_interval=_KEEPALIVE, keepalive_count_max=_KEEPALIVE_MISSED, compression_algs=["none"],
                encryption_algs=["aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com"],
                x509_trusted_certs=None, gss_auth=False, login_timeout=_CONNECT_TIMEOUT,
            )  # fmt: skip
