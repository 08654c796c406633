"""A small versioned control socket: one JSON object a line, request and reply, over a unix stream socket.

Request `{"v": 1, "verb": str, ...arguments}`; reply `{"v": 1, "ok": true, ...}` or
`{"v": 1, "ok": false, "error": str}`.
The owner registers verbs; every verb from outside a process goes through such a socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from dozlab.lib.errors import DozlabError

VERSION = 1
_LIMIT = 1 << 20  # bytes of one request or reply: a console tail fits, an attack does not

Verb = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]

log = logging.getLogger(__name__)


class ControlServer:
    """Serves verbs on a unix socket until `close()`; the socket file is removed then."""

    def __init__(self, path: Path, verbs: Mapping[str, Verb]) -> None:
        self.path = path
        self._verbs = verbs
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        """Listen (mode 0600). A stale socket file of a dead owner is replaced."""
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
        old = os.umask(0o177)
        try:
            self._server = await asyncio.start_unix_server(self._serve, str(self.path), limit=_LIMIT)
        finally:
            os.umask(old)

    async def close(self) -> None:
        """Stop listening, drop clients, remove the file."""
        if self._server:
            self._server.close()
        for writer in list(self._clients):
            writer.close()
        if self._server:
            await self._server.wait_closed()
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients.add(writer)
        try:
            while line := await reader.readline():
                reply = await self._answer(line)
                writer.write(json.dumps({"v": VERSION, **reply}).encode() + b"\n")
                await writer.drain()
        except (ConnectionError, ValueError):  # ValueError: a line over the limit
            pass
        finally:
            self._clients.discard(writer)
            writer.close()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
            verb = self._verbs[request["verb"]] if request["v"] == VERSION else None
        except (ValueError, KeyError, TypeError):
            return {"ok": False, "error": f"unknown request; verbs: {', '.join(sorted(self._verbs))}"}
        if verb is None:
            return {"ok": False, "error": f"unknown protocol version; this is {VERSION}"}
        try:
            return {"ok": True, **await verb(request)}
        except DozlabError as error:
            return {"ok": False, "error": str(error)}
        except Exception as error:  # a verb's bug must not end the owner of the VM
            log.exception("verb %s failed", request["verb"])
            return {"ok": False, "error": f"internal error: {error!r}"}


async def call(path: Path, verb: str, *, timeout: float = 10.0, **arguments: Any) -> dict[str, Any]:
    """Ask the owner of a control socket and return its reply.

    :param timeout: seconds for the whole exchange
    :raises DozlabError: when nobody answers, or the owner says no (with its words)
    """
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_unix_connection(str(path), limit=_LIMIT)
            try:
                writer.write(json.dumps({"v": VERSION, "verb": verb, **arguments}).encode() + b"\n")
                line = await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError) as error:
        raise DozlabError(f"nobody answers on {path} ({error or 'timed out'})") from error
    try:
        reply = json.loads(line)
    except ValueError as error:
        raise DozlabError(f"no answer to {verb} on {path}: its owner has ended") from error
    if not reply.get("ok"):
        raise DozlabError(str(reply.get("error", "refused")))
    assert isinstance(reply, dict)
    return reply
