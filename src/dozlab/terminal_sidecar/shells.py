"""Routes of the list of shells: which there are, and closing one. What a shell is, is in shell.py."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

if TYPE_CHECKING:
    from dozlab.terminal_sidecar.server import Sidecar
    from dozlab.terminal_sidecar.shell import Shell

log = logging.getLogger(__name__)

_NO_STORE = {"Cache-Control": "no-store"}


def described(shell: Shell, guest: str) -> dict[str, Any]:
    """Return what the list says of a shell; the title is what a program has set (OSC 0 or 2), as text."""
    ended = shell.ended is not None
    state = "ended" if ended else "live" if shell.live else "lost" if guest == "lost" else "opening"
    title = shell.history.modes().title.decode(errors="replace")[:200]
    return {
        "name": shell.name, "title": title, "state": state, "clients": len(shell.clients),
        "cols": shell.cols, "rows": shell.rows,
    }  # fmt: skip


class ShellRoutes:
    """`GET shells` for everybody who is logged in, `DELETE shells/{name}` for those who may type."""

    def __init__(self, sidecar: Sidecar) -> None:
        self._sidecar = sidecar

    def routes(self) -> list[BaseRoute]:
        """Return the routes, relative to the base path."""
        return [Route("/shells", self.show), Route("/shells/{name}", self.close, methods=["DELETE"])]

    async def show(self, request: Request) -> Response:
        """List the shells, and the most there may be."""
        asks = self._sidecar.guard(request)
        if isinstance(asks, Response):
            return asks
        guest = self._sidecar.guest.state
        shells = [described(shell, guest) for shell in self._sidecar.shells.all()]
        body = {"shells": shells, "most": self._sidecar.shells.most(asks)}
        return JSONResponse(body, headers=_NO_STORE)

    async def close(self, request: Request) -> Response:
        """Hang up a shell and let its clients go with the code that says not to come back."""
        asks = self._sidecar.guard(request, need="types", post=True)
        if isinstance(asks, Response):
            return asks
        name = request.path_params["name"]
        if not self._sidecar.shells.remove(name):
            return JSONResponse({"error": "there is no such shell"}, 404, _NO_STORE)
        log.info("the shell was closed by %s", asks.id, extra={"shell": name})
        await self._sidecar.let_go(name)
        return Response(status_code=204, headers=_NO_STORE)
