"""The original sidecar's protocol, `/terminal?session_id=`: JSON messages, text in them, no offsets and no acks.

For clients written for it. It is a view of the session's first shell: what arrives becomes frames of protocol.py, what
leaves is made of them. docs/reference/terminal-protocol.md says what such a client can and cannot have.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from dozlab.lib import tasks
from dozlab.terminal_sidecar import protocol
from dozlab.terminal_sidecar.people.clients import Client
from dozlab.terminal_sidecar.protocol import ProtocolError
from dozlab.terminal_sidecar.shell import Shell
from dozlab.terminal_sidecar.stream import Stream
from dozlab.terminal_sidecar.wire.outlet import Outlet

_QUERIES = re.compile(
    rb"\x05|\x1b\[[>=?]?[0-9;]*[cn]|\x1b\[\??[0-9;]*\$p|\x1b\[[>?][0-9;]*[qu]"
    rb"|\x1b\][0-9;]*;\?(?:\x07|\x1b\\)|\x1bP[+$]q[^\x1b]*\x1b\\"
)
"""What programs ask a terminal (ENQ, DA, DSR, DECRQM, XTVERSION, OSC colours, DECRQSS, XTGETTCAP: ctlseqs of xterm)."""
CLOSE_ENDED = 1000


def client_frames(message: bytes) -> list[protocol.ClientFrame]:
    """Return the frames that a client's JSON message stands for; of a type that is not known, none. Pure.

    :raises ProtocolError: when it is malformed
    """
    try:
        fields = json.loads(message)
        kind = fields["type"]
        if kind == "input":
            data = fields["data"].encode()
            step = protocol.MAX_INPUT
            return [protocol.Input(data[at : at + step]) for at in range(0, len(data), step)]
        if kind == "resize":
            cols, rows = fields["cols"], fields["rows"]
            if type(cols) is int and type(rows) is int and all(1 <= n <= protocol.MAX_CELLS for n in (cols, rows)):
                return [protocol.Resize(cols, rows)]
            raise ProtocolError(f"not a screen's size: {cols!r} x {rows!r}"[:100])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ProtocolError('not a message: {"type": "input", "data"} or {"type": "resize", "cols", "rows"}') from error
    return []


class JsonText:
    """Makes text messages of a server's frames. Pure.

    Characters are never cut, whatever frame their bytes come in. A replay is given without what programs had asked in
    it: such a client answers as if it were asked now, and the answer would be typed into the shell.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._replayed: bytearray | None = None

    def messages(self, frame: bytes) -> list[bytes]:
        """Return the messages that a frame leads to."""
        found = protocol.decode_server(frame)
        if found.kind == protocol.REPLAY_BEGIN:
            self._replayed = bytearray(found.data)
        elif found.kind == protocol.OUTPUT and self._replayed is not None:
            self._replayed += found.data
        elif found.kind == protocol.OUTPUT:
            return self._output(found.data)
        elif found.kind == protocol.REPLAY_END and self._replayed is not None:
            data, self._replayed = _QUERIES.sub(b"", self._replayed), None
            return [line for at in range(0, len(data), protocol.MAX_OUTPUT)
                    for line in self._output(data[at : at + protocol.MAX_OUTPUT])]  # fmt: skip
        return []

    def _output(self, data: bytes) -> list[bytes]:
        text = self._decoder.decode(data)
        return [_message(type="output", data=text)] if text else []


def _message(**fields: Any) -> bytes:
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()


class JsonOutlet(Outlet):
    """Writes JSON. What the socket has taken counts as parsed: the client says nothing of it, so TCP holds us back."""

    def __init__(self, stream: JsonStream, shell: Shell, client: Client) -> None:
        super().__init__(stream.wire, client.attachment, stream.traffic)
        self._stream, self._shell, self._client, self._text = stream, shell, client, JsonText()

    def printed(self, data: bytes) -> None:
        """Leave it to `set`, which makes messages of it."""

    def _pump(self) -> None:
        super()._pump()
        position = self._attachment.position
        if position > self._attachment.acked:
            self._shell.receive(self._client, protocol.Ack(position, position))

    def _write(self, frame: bytes) -> None:
        for message in self._text.messages(frame):
            self._wire.write(message, text=True)
        if frame[0] == protocol.EXIT and self._shell.ended is not None:  # a client that comes back opens a new one
            self._stream.ended()


class JsonStream(Stream):
    """Serves one client of the original protocol until it ends."""

    def ended(self) -> None:
        """Close, since the shell has ended: these clients know no other sign."""
        self._refusal = tasks.start(self.close(CLOSE_ENDED, "the shell has ended"), name="terminal-refusal")

    async def close(self, code: int, reason: str) -> None:
        """Say what is wrong in a message too, then close."""
        if code != CLOSE_ENDED and self._attached is not None and self.wire.open:
            self.wire.write(_message(type="error", message=reason, data=reason), text=True)
        await super().close(code, reason)

    async def _hello(self) -> protocol.Hello:
        return protocol.Hello()

    def _make_outlet(self, shell: Shell, client: Client) -> Outlet:
        if shell.ended is not None:
            shell.receive(client, protocol.NewShell())
        return JsonOutlet(self, shell, client)

    async def _receive(self) -> bytes:
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        text = message.get("text")
        return text.encode() if text is not None else bytes(message["bytes"])

    def _take(self, message: bytes) -> None:
        for frame in client_frames(message):
            self._give(frame)


class Legacy:
    """The route; who may come in is decided as for `/ws`."""

    def __init__(self, session: str, serve: Callable[[WebSocket, type[Stream]], Awaitable[None]]) -> None:
        self._session, self._serve = session, serve

    def routes(self) -> list[BaseRoute]:
        """Return the route."""
        return [WebSocketRoute("/terminal", self.open)]

    async def open(self, socket: WebSocket) -> None:
        """Serve a client of the original protocol."""
        if socket.query_params.get("session_id") != self._session:
            await socket.send_denial_response(PlainTextResponse("session_id names another session\n", 404))
            return
        await self._serve(socket, JsonStream)
