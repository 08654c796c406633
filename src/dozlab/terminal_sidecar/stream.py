"""One WebSocket: frames in, frames out. Joins uvicorn's socket to a shell; the rules are in protocol and attachment."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from dozlab.lib import tasks
from dozlab.terminal_sidecar import protocol
from dozlab.terminal_sidecar.metrics import Metrics
from dozlab.terminal_sidecar.protocol import ProtocolError
from dozlab.terminal_sidecar.shell import Client, Shells

log = logging.getLogger(__name__)

_HELLO_WITHIN = 10.0  # seconds
_INPUT_RATE, _INPUT_BURST = 4 << 20, 8 << 20  # bytes per second, bytes at once
_FRAME_COST = 256  # bytes that any frame counts for at least


class _Pace:
    """Slows a client that sends more than the rate: a delay, so that TCP holds it back. Never more than a second."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._level, self._at = clock, 0.0, clock()

    def delay(self, size: int) -> float:
        now = self._clock()
        self._level = max(0.0, self._level - (now - self._at) * _INPUT_RATE) + max(size, _FRAME_COST)
        self._at = now
        return min(max(0.0, self._level - _INPUT_BURST) / _INPUT_RATE, 1.0)


class Stream:
    """Serves one accepted WebSocket until it ends."""

    def __init__(self, socket: WebSocket, shells: Shells, metrics: Metrics, session: str) -> None:
        self._socket, self._shells, self._metrics, self._session = socket, shells, metrics, session
        self._loop = asyncio.get_running_loop()

    async def serve(self) -> None:
        """Talk to the client. Returns when it has gone, or was closed with the code that says why."""
        try:
            hello = await self._hello()
            shell = self._shells.get(hello.shell)
        except WebSocketDisconnect:
            return
        except ProtocolError as error:
            await self.close(error.code, str(error))
            return
        client = shell.attach(hello, self._session)
        writer = tasks.start(self._write(client), name=f"terminal-writer-{shell.name}")
        pace = _Pace(self._loop.time)
        try:
            while True:
                message = await self._receive()
                if wait := pace.delay(len(message)):
                    await asyncio.sleep(wait)
                frame = protocol.decode_client(message)
                if frame is None:
                    continue
                if isinstance(frame, protocol.Input):
                    self._metrics.received.inc(len(frame.data))
                shell.receive(client, frame)
        except WebSocketDisconnect:
            pass
        except ProtocolError as error:
            log.info("client of shell %s refused: %s", shell.name, error)
            await tasks.stop([writer])
            await self.close(error.code, str(error))
        finally:
            shell.detach(client)
            await tasks.stop([writer])

    async def close(self, code: int, reason: str) -> None:
        """Close with a code and a reason (at most 123 bytes: RFC 6455 section 5.5)."""
        if self._socket.application_state is WebSocketState.CONNECTED:
            with contextlib.suppress(WebSocketDisconnect, RuntimeError, OSError):  # it may go at the same moment
                await self._socket.close(code, reason[:120])

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

    async def _write(self, client: Client) -> None:
        send, attachment, wake = self._socket.send, client.attachment, client.wake
        try:
            while True:
                await wake.wait()
                wake.clear()
                while (frame := attachment.pull()) is not None:
                    await send({"type": "websocket.send", "bytes": frame})
                    if frame[0] == protocol.OUTPUT:
                        self._metrics.sent.inc(len(frame) - 9)
        except (WebSocketDisconnect, RuntimeError, OSError):
            return  # the client has gone; the reader sees it too
