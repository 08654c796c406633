"""The terminal protocol, version 1: frames to bytes and back. Sans-IO; docs/reference/terminal-protocol.md is its text.

Nothing here may open a socket, read a clock or know of SSH. One WebSocket binary message is one frame: a type byte,
then the payload. Integers are big-endian; JSON payloads are UTF-8 objects. A receiver ignores types it does not know,
so that a version can grow.
"""

from __future__ import annotations

import json
import re
import struct
from dataclasses import dataclass
from typing import Any

VERSION = 1
SUBPROTOCOL = "dozlab.terminal.v1"

MAX_INPUT = 64 << 10
"""Bytes of one INPUT frame at most."""
MAX_FRAME = 72 << 10
"""Bytes of one frame from a client at most (close code 1009 beyond)."""
MAX_OUTPUT = 64 << 10
"""Bytes of terminal output in one OUTPUT frame at most."""
MAX_CELLS = 1000
"""Columns or rows at most: an emulated screen costs memory in the guest too."""

# client to server
HELLO, INPUT, RESIZE, ACK, PING, NEW_SHELL, LEAD = 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07
# server to client
WELCOME, OUTPUT, REPLAY_BEGIN, REPLAY_END, EXIT, STATE, PONG = 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87

# close codes (RFC 6455 section 7.4.2 leaves 4000-4999 to applications)
CLOSE_GOING_AWAY = 1001
CLOSE_PROTOCOL = 4400
CLOSE_LOGGED_OUT = 4401
CLOSE_NO_SHELL = 4404
CLOSE_VERSION = 4406
CLOSE_NO_HELLO = 4408
CLOSE_TOO_MANY = 4429

_SHELL_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_U64, _SIZE, _ACK, _BEGIN = struct.Struct(">Q"), struct.Struct(">HH"), struct.Struct(">QQ"), struct.Struct(">QB")


class ProtocolError(Exception):
    """The peer broke the protocol; `code` is the close code that says so."""

    def __init__(self, message: str, code: int = CLOSE_PROTOCOL) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Hello:
    """First frame of a client. `epoch`/`offset` say how far it got; `epoch` "" asks for everything there is."""

    shell: str = "main"
    cols: int = 80
    rows: int = 24
    epoch: str = ""
    offset: int = 0


@dataclass(frozen=True)
class Input:
    """What the user typed, as bytes for the shell."""

    data: bytes


@dataclass(frozen=True)
class Resize:
    """The client's screen, in cells."""

    cols: int
    rows: int


@dataclass(frozen=True)
class Ack:
    """Offsets up to which the client's emulator has parsed, and the client has received, output."""

    parsed: int
    received: int


@dataclass(frozen=True)
class Ping:
    """Asks for a PONG with the same token (the client's own clock, as it likes)."""

    token: int


@dataclass(frozen=True)
class NewShell:
    """Asks for a new shell after EXIT."""


@dataclass(frozen=True)
class Lead:
    """Asks to lead ("take over")."""


ClientFrame = Hello | Input | Resize | Ack | Ping | NewShell | Lead


def decode_client(message: bytes) -> ClientFrame | None:
    """Return the client's frame, or None for a type this version does not know.

    :raises ProtocolError: when a known frame is malformed, or the versions do not meet
    """
    if not message:
        raise ProtocolError("empty frame")
    kind, body = message[0], message[1:]
    try:
        if kind == INPUT:
            if len(body) > MAX_INPUT:
                raise ProtocolError(f"more than {MAX_INPUT} bytes of input in one frame")
            return Input(body)
        if kind == ACK:
            return Ack(*_ACK.unpack(body))
        if kind == RESIZE:
            return Resize(*_check_size(*_SIZE.unpack(body)))
        if kind == PING:
            return Ping(*_U64.unpack(body))
        if kind == NEW_SHELL:
            return NewShell()
        if kind == LEAD:
            return Lead()
        if kind == HELLO:
            return _decode_hello(body)
    except struct.error as error:
        raise ProtocolError(f"frame {kind:#04x} has the wrong length") from error
    return None


def _check_size(cols: int, rows: int) -> tuple[int, int]:
    if not (1 <= cols <= MAX_CELLS and 1 <= rows <= MAX_CELLS):
        raise ProtocolError(f"a screen of {cols}x{rows} cells")
    return cols, rows


def _decode_hello(body: bytes) -> Hello:
    try:
        raw = json.loads(body)
        versions, shell = list(raw["versions"]), raw.get("shell", "main")
        cols, rows = int(raw["cols"]), int(raw["rows"])
        epoch, offset = raw.get("epoch", ""), raw.get("offset", 0)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ProtocolError("malformed HELLO") from error
    if VERSION not in versions:
        raise ProtocolError(f"this server speaks version {VERSION}", CLOSE_VERSION)
    if not (isinstance(shell, str) and isinstance(epoch, str) and type(offset) is int and 0 <= offset < 1 << 63):
        raise ProtocolError("malformed HELLO")
    if not _SHELL_NAME.fullmatch(shell):
        raise ProtocolError("not a shell name: 1 to 32 of a-z, 0-9 and -")
    return Hello(shell, *_check_size(cols, rows), epoch=epoch, offset=offset)


def encode_client(frame: ClientFrame) -> bytes:
    """Return a client's frame as bytes: for tests, benches and clients in Python."""
    match frame:
        case Hello():
            fields = {"versions": [VERSION], "shell": frame.shell, "cols": frame.cols, "rows": frame.rows}
            return bytes([HELLO]) + _json(fields | {"epoch": frame.epoch, "offset": frame.offset})
        case Input():
            return bytes([INPUT]) + frame.data
        case Resize():
            return bytes([RESIZE]) + _SIZE.pack(frame.cols, frame.rows)
        case Ack():
            return bytes([ACK]) + _ACK.pack(frame.parsed, frame.received)
        case Ping():
            return bytes([PING]) + _U64.pack(frame.token)
        case NewShell():
            return bytes([NEW_SHELL])
        case Lead():
            return bytes([LEAD])


def welcome(*, session: str, shell: str, epoch: str) -> bytes:
    """Return WELCOME: the version chosen and the epoch that byte offsets belong to."""
    return bytes([WELCOME]) + _json({"version": VERSION, "session": session, "shell": shell, "epoch": epoch})


def output(offset: int, data: bytes) -> bytes:
    """Return OUTPUT: bytes of the terminal that begin at `offset` of the epoch."""
    return b"\x82" + _U64.pack(offset) + data


def replay_begin(offset: int, *, reset: bool, preamble: bytes = b"") -> bytes:
    """Return REPLAY_BEGIN: old output follows from `offset`; with `reset` into a fresh emulator, preamble first."""
    return bytes([REPLAY_BEGIN]) + _BEGIN.pack(offset, int(reset)) + preamble


def replay_end(offset: int) -> bytes:
    """Return REPLAY_END: what follows from `offset` is live."""
    return bytes([REPLAY_END]) + _U64.pack(offset)


def exit_(*, status: int | None, signal: str | None, reason: str) -> bytes:
    """Return EXIT: the shell has ended. `reason` is `exited`, or `killed` by a signal."""
    return bytes([EXIT]) + _json({"status": status, "signal": signal, "reason": reason})


def shared_state(
    *, guest: str, cols: int, rows: int, clients: int, people: list[dict[str, Any]], recording: bool,
    shells: list[str], machine: dict[str, Any] | None = None, guest_ms: float | None = None,
) -> bytes:  # fmt: skip
    """Return what all clients of a shell are told alike: the first argument of `state`.

    :param guest: `waiting`, `live` or `lost`
    :param clients: how many there are; `people` may name fewer of them
    :param people: `{"id", "name", "role", "leads"}` for a client
    :param shells: names of all shells of the session
    :param machine: what is known of the machine itself
    :param guest_ms: milliseconds of a round trip from here to the guest
    """
    fields = {"guest": guest, "cols": cols, "rows": rows, "clients": clients, "recording": recording}
    fields |= {"people": people, "shells": shells}
    known = {"machine": machine, "guest_ms": guest_ms}
    return _json(fields | {name: value for name, value in known.items() if value is not None})


def state(shared: bytes, *, lead: bool, sizes: bool, role: str, you: str) -> bytes:
    """Return STATE for one client.

    :param shared: of `shared_state`
    :param lead: it is the one whose emulator answers queries
    :param sizes: the shell has this client's size
    :param you: the client's member id
    """
    own = _json({"lead": lead, "sizes": sizes, "role": role, "you": you})
    return bytes([STATE]) + own[:-1] + b"," + shared[1:]


def pong(token: int) -> bytes:
    """Return PONG with the token of the PING."""
    return bytes([PONG]) + _U64.pack(token)


@dataclass(frozen=True)
class ServerFrame:
    """A decoded server frame: `kind` is the type byte; the fields that the type has are set."""

    kind: int
    offset: int = 0
    data: bytes = b""
    fields: dict[str, Any] | None = None
    reset: bool = False


def decode_server(message: bytes) -> ServerFrame:
    """Return a server's frame: for tests, benches and clients in Python.

    :raises ProtocolError: when it is malformed
    """
    try:
        kind, body = message[0], message[1:]
        if kind in (WELCOME, EXIT, STATE):
            return ServerFrame(kind, fields=json.loads(body))
        if kind == OUTPUT:
            return ServerFrame(kind, offset=_U64.unpack_from(body)[0], data=body[8:])
        if kind == REPLAY_BEGIN:
            offset, flags = _BEGIN.unpack_from(body)
            return ServerFrame(kind, offset=offset, data=body[9:], reset=bool(flags & 1))
        if kind in (REPLAY_END, PONG):
            return ServerFrame(kind, offset=_U64.unpack(body)[0])
    except (IndexError, ValueError, struct.error) as error:
        raise ProtocolError("malformed server frame") from error
    return ServerFrame(kind, data=body)


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
