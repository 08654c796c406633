"""Routes of recordings: the list, a recording as asciicast 2 or 3, and its removal."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, BinaryIO

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from dozlab.terminal_sidecar.recording import asciicast
from dozlab.terminal_sidecar.recording.recorder import Recorder

if TYPE_CHECKING:
    from dozlab.terminal_sidecar.server import Sidecar

log = logging.getLogger(__name__)

_CHUNK = 64 << 10  # bytes
_NO_STORE = {"Cache-Control": "no-store"}


class Recordings:
    """What is recorded, for the page. Owners and editors see it; only owners remove."""

    def __init__(self, sidecar: Sidecar, clock: Callable[[], float]) -> None:
        self._sidecar = sidecar
        settings = sidecar.settings
        self.recorder = Recorder(
            settings.recording_dir, limit=settings.recording_limit, with_input=settings.record_input, clock=clock
        )

    def routes(self) -> list[BaseRoute]:
        """Return the routes."""
        return [
            Route("/recordings", self.show, methods=["GET"]),
            Route("/recordings/{id}", self.fetch, methods=["GET"]),
            Route("/recordings/{id}", self.remove, methods=["DELETE"]),
        ]

    async def show(self, request: Request) -> Response:
        """Serve the list, the newest first."""
        asks = self._sidecar.guard(request, need="types")
        if isinstance(asks, Response):
            return asks
        recorder = self.recorder
        try:
            listing = await recorder.list()
        except OSError as error:
            return _fault(error)
        body = {
            "recording": recorder.on, "input": recorder.with_input, "limit": recorder.limit, "used": listing.used,
            "recordings": [asdict(item) for item in listing.recordings],
        }  # fmt: skip
        return JSONResponse(body, headers=_NO_STORE)

    async def fetch(self, request: Request) -> Response:
        """Serve a recording, up to this moment when it is being written."""
        asks = self._sidecar.guard(request, need="types")
        if isinstance(asks, Response):
            return asks
        version = request.query_params.get("format", "v3")
        if version not in ("v2", "v3"):
            return JSONResponse({"error": "format must be v2 or v3"}, 400, _NO_STORE)
        try:
            found = await self.recorder.find(request.path_params["id"])
            file = found[0].open("rb") if found is not None else None
        except OSError as error:
            return _fault(error)
        if found is None or file is None:
            return JSONResponse({"error": "there is no such recording"}, 404, _NO_STORE)
        path, size = found
        name = f"{self._sidecar.settings.session_id}-{path.stem}.{version}.cast"
        headers = _NO_STORE | {"Content-Disposition": f'attachment; filename="{name}"'}
        if version == "v3":
            headers["Content-Length"] = str(size)
        return StreamingResponse(_body(file, size, version), headers=headers, media_type="application/x-asciicast")

    async def remove(self, request: Request) -> Response:
        """Remove a recording. A shell that is being recorded goes on in a new one."""
        asks = self._sidecar.guard(request, need="manages", post=True)
        if isinstance(asks, Response):
            return asks
        name = request.path_params["id"]
        try:
            found = await self.recorder.remove(name)
        except OSError as error:
            return _fault(error)
        if not found:
            return JSONResponse({"error": "there is no such recording"}, 404, _NO_STORE)
        log.info("recording %s removed by %s", name, asks.id)
        return Response(status_code=204, headers=_NO_STORE)


def _fault(error: OSError) -> Response:
    return JSONResponse({"error": f"the recordings cannot be read: {error.strerror}"}, 503, _NO_STORE)


async def _body(file: BinaryIO, size: int, version: str) -> AsyncIterator[bytes]:
    """Yield the file's first `size` bytes, read and converted in a thread, one piece at a time."""
    pieces = _pieces(file, size) if version == "v3" else asciicast.to_v2(_lines(file, size))
    try:
        while piece := await asyncio.to_thread(_some, pieces):
            yield piece
    finally:
        file.close()


def _some(pieces: Iterator[bytes]) -> bytes:
    """Return about one chunk of what there is; b"" at the end."""
    found = bytearray()
    for piece in pieces:
        found += piece
        if len(found) >= _CHUNK:
            break
    return bytes(found)


def _pieces(file: BinaryIO, size: int) -> Iterator[bytes]:
    while size > 0 and (piece := file.read(min(size, _CHUNK))):
        size -= len(piece)
        yield piece


def _lines(file: BinaryIO, size: int) -> Iterator[bytes]:
    while size > 0 and (line := file.readline()):
        size -= len(line)
        yield line
