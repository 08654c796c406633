"""A QMP client over a connected socket: commands with checked answers, events kept apart. Knows no machine.

Reference: QEMU docs/interop/qmp-spec.rst. One line of JSON each way; events may come between command and answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import socket
from typing import Any

from dozlab.firecracker_vm.machine import VmmRefused
from dozlab.lib import tasks

log = logging.getLogger(__name__)

_LIMIT = 1 << 20


class Qmp:
    """One QMP session."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connected: socket.socket) -> None:
        self._reader, self._writer = reader, writer
        self._socket = connected
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._greeting: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.shutdown_reason = ""
        """Reason of the last SHUTDOWN event, or `guest-panic` after GUEST_PANICKED."""
        self.stopped_by_disk = asyncio.Event()
        """Set when QEMU stopped the guest because a disk of the host could take no more (event BLOCK_IO_ERROR)."""
        self._task = tasks.start(self._read(), name="qmp")

    @classmethod
    async def attach(cls, connected: socket.socket) -> Qmp:
        """Speak QMP on a connected stream socket, which is ours from now on."""
        connected.setblocking(False)
        reader, writer = await asyncio.open_unix_connection(sock=connected, limit=_LIMIT)
        return cls(reader, writer, connected)

    async def greet(self) -> dict[str, Any]:
        """Wait for the greeting, leave negotiation mode, and return QEMU's version object.

        :raises ConnectionError: when QEMU closed the socket first
        """
        greeting = await self._greeting
        await self.execute("qmp_capabilities")
        version = greeting["QMP"]["version"]
        assert isinstance(version, dict)
        return version

    async def execute(self, verb: str, *, descriptor: int | None = None, **arguments: Any) -> Any:
        """Run one command and return its answer.

        :param descriptor: passed along (SCM_RIGHTS, unix(7)), for `getfd`
        :raises VmmRefused: with QEMU's own description
        :raises ConnectionError: when QEMU has closed the socket
        """
        if self._task.done():
            raise ConnectionResetError("QMP is closed")
        number = next(self._ids)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        request: dict[str, Any] = {"execute": verb, "id": number}
        if arguments:
            request["arguments"] = arguments
        line = json.dumps(request).encode() + b"\n"
        try:
            if descriptor is None:
                self._writer.write(line)
                await self._writer.drain()
            else:
                socket.send_fds(self._socket, [line], [descriptor])  # a line is far smaller than the socket's buffer
            return await future
        finally:
            self._waiting.pop(number, None)

    async def _read(self) -> None:
        try:
            while line := await self._reader.readline():
                self._take(json.loads(line))
        except (ConnectionError, ValueError) as error:
            log.debug("qmp: %s", error)
        finally:
            lost = ConnectionResetError("QEMU closed QMP")
            for future in [self._greeting, *self._waiting.values()]:
                if not future.done():
                    future.set_exception(lost)
                    future.exception()  # marked as seen: not everybody waits for the greeting

    def _take(self, message: dict[str, Any]) -> None:
        if "QMP" in message:
            if not self._greeting.done():
                self._greeting.set_result(message)
        elif "event" in message:
            self._event(message["event"], message.get("data") or {})
        else:
            future = self._waiting.get(message.get("id", 0))
            if future is None or future.done():
                return
            if "error" in message:
                future.set_exception(VmmRefused(f"qemu refused: {message['error'].get('desc', 'no reason given')}"))
            else:
                future.set_result(message.get("return"))

    def _event(self, name: str, data: dict[str, Any]) -> None:
        log.debug("qmp event %s %s", name, data)
        if name == "GUEST_PANICKED":
            self.shutdown_reason = "guest-panic"
        elif name == "BLOCK_IO_ERROR" and data.get("action") == "stop":
            self.stopped_by_disk.set()
        elif name == "SHUTDOWN" and self.shutdown_reason != "guest-panic":
            self.shutdown_reason = str(data.get("reason", ""))

    async def close(self) -> None:
        """Read what is left, then close."""
        await asyncio.wait({self._task}, timeout=0.5)
        await tasks.stop([self._task])
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()
