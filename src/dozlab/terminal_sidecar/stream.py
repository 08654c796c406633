"""One WebSocket: frames in, frames out. Joins uvicorn's socket to a shell; the rules are in protocol and attachment."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from dozlab.lib import log as logs
from dozlab.lib import tasks
from dozlab.terminal_sidecar import protocol
from dozlab.terminal_sidecar.auth import Member
from dozlab.terminal_sidecar.metrics import Traffic
from dozlab.terminal_sidecar.pace import Pace
from dozlab.terminal_sidecar.people.clients import Client
from dozlab.terminal_sidecar.protocol import ProtocolError
from dozlab.terminal_sidecar.shell import Shell, Shells
from dozlab.terminal_sidecar.wire import quick
from dozlab.terminal_sidecar.wire.outlet import Outlet

log = logging.getLogger(__name__)

_INPUT, _MOST_INPUT = bytes([protocol.INPUT]), 1 + protocol.MAX_INPUT
_HELLO_WITHIN = 10.0  # seconds
_CLOSE_WITHIN = 2.0  # seconds; a client that does not read would never get its close frame


class Stream:
    """Serves one accepted WebSocket until it ends."""

    def __init__(
        self, socket: WebSocket, shells: Shells, traffic: Traffic, session: str, member: Member, pace: Pace
    ) -> None:
        self.member, self._pace = member, pace
        self._socket, self._shells, self._session = socket, shells, session
        self.wire, self.traffic = quick.of(socket), traffic
        self._outlet: Outlet | None = None
        self._attached: tuple[Shell, Client] | None = None
        self._task: asyncio.Task[None] | None = None
        self._refusal: asyncio.Task[None] | None = None
        self._closing = False

    @property
    def shell(self) -> str:
        """Return the name of the shell it is on; "" while it is on none."""
        return self._attached[0].name if self._attached is not None else ""

    async def serve(self) -> None:
        """Talk to the client. Returns when it has gone, or was closed with the code that says why."""
        self._task = asyncio.current_task()
        try:
            await self._serve()
        except asyncio.CancelledError:
            if not self._closing:
                raise

    async def _serve(self) -> None:
        try:
            hello = await self._hello()
            if self._closing:
                return
            shell = self._shells.get(hello.shell, self.member)
        except WebSocketDisconnect:
            return
        except ProtocolError as error:
            await self.close(error.code, str(error))
            return
        logs.about(client=self.member.id, shell=shell.name)
        log.info("a terminal is open, role %s", self.member.role)
        client = shell.attach(hello, self._session, self.member)
        self._attached = shell, client
        client.wake = self._outlet = self._make_outlet(shell, client)
        self._outlet.set()
        try:
            while not self._closing:
                self.wire.begin(self._taken)
                message = await self._receive()
                if wait := self._pace.delay(len(message)):
                    await asyncio.sleep(wait)
                self._take(message)
        except WebSocketDisconnect:
            pass
        except ProtocolError as error:
            log.info("the client is let go: %s", error)
            await self.close(error.code, str(error))
        finally:
            self._leave()
            log.info("the terminal is left")

    def _make_outlet(self, shell: Shell, client: Client) -> Outlet:
        return Outlet(self.wire, client.attachment, self.traffic)

    def _taken(self, message: bytes) -> None:
        """Take a message in the call that brought it."""
        try:
            self._take(message)
            if wait := self._pace.delay(len(message)):
                self.wire.hold(wait)
        except ProtocolError as error:
            about = {"client": self.member.id, "shell": self._attached[0].name if self._attached else ""}
            log.info("the client is let go: %s", error, extra=about)  # the socket's call, not the client's task
            self.wire.end()
            self._refusal = tasks.start(self.close(error.code, str(error)), name="terminal-refusal")

    def _take(self, message: bytes) -> None:
        """Give a message to the shell.

        :raises ProtocolError: when it is malformed or out of place
        """
        if message[:1] == _INPUT and len(message) <= _MOST_INPUT and self._attached is not None:
            shell, client = self._attached
            shell.type(client, message[1:])  # as an Input frame, which need not be made for every key
            if self.member.types:
                self.traffic.received += len(message) - 1
        elif (frame := protocol.decode_client(message)) is not None:
            self._give(frame)

    def _give(self, frame: protocol.ClientFrame) -> None:
        if self._attached is None:
            return
        shell, client = self._attached
        shell.receive(client, frame)
        if isinstance(frame, protocol.Input) and self.member.types:
            self.traffic.received += len(frame.data)

    def _leave(self) -> None:
        self.wire.end()
        if self._outlet is not None:
            self._outlet.close()
        if self._attached is not None:
            shell, client = self._attached
            self._attached = None
            shell.detach(client)

    async def close(self, code: int, reason: str) -> None:
        """Close with a code and a reason (at most 123 bytes: RFC 6455 section 5.5).

        From this moment on nothing is taken from the client, and it no longer counts as one of the shell, even if it
        does not read and so does not learn of it.
        """
        self._closing = True
        self._leave()
        if self._socket.application_state is not WebSocketState.CONNECTED:
            return
        try:
            async with asyncio.timeout(_CLOSE_WITHIN):
                with contextlib.suppress(WebSocketDisconnect, RuntimeError, OSError):  # it may go at the same moment
                    await self._socket.close(code, reason[:120])
        except TimeoutError:
            if self._task is not None:
                self._task.cancel()

    async def _hello(self) -> protocol.Hello:
        try:
            async with asyncio.timeout(_HELLO_WITHIN):
                frame = protocol.decode_client(await self._receive())
        except TimeoutError as error:
            raise ProtocolError("no HELLO", protocol.CLOSE_NO_HELLO) from error
        if not isinstance(frame, protocol.Hello):
            raise ProtocolError("the first frame must be HELLO")
        return frame

    async def _receive(self) -> bytes:
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        data = message.get("bytes")
        if not isinstance(data, bytes):
            raise ProtocolError("text frames are not used")
        return data
