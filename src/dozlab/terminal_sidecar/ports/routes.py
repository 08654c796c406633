"""Routes of the ports panel, and the proxy's start and end. What is passed on is `proxy`'s business."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from dozlab.lib.errors import DozlabError
from dozlab.terminal_sidecar.auth import Member
from dozlab.terminal_sidecar.guest import Guest
from dozlab.terminal_sidecar.pipe import Away, Pipe, Still
from dozlab.terminal_sidecar.ports import entry
from dozlab.terminal_sidecar.ports.passes import Passes
from dozlab.terminal_sidecar.ports.proxy import PIECE, Proxy, Rules
from dozlab.terminal_sidecar.ports.table import listeners
from dozlab.terminal_sidecar.proxies import client
from dozlab.terminal_sidecar.settings import Settings
from dozlab.terminal_sidecar.tls import Certificate

log = logging.getLogger(__name__)

_MOST_TABLE = 1 << 20
"""Bytes read of the guest's tables: some 7,000 sockets."""
_TABLE_SECONDS = 10.0
_WAKE_SECONDS = 30.0
"""Seconds that a machine which sleeps may take to wake up for a request."""
_NOT_HTTP = (22, 5541)
"""sshd, and the kit's own service: never a page."""
_OTHER_LOOPBACK = {"localhost": "127.0.0.1", "127.0.0.1": "localhost", "[::1]": "localhost"}
"""Two names of one machine, so that a guest's page has neither the terminal's origin nor its site and cookies."""


class Ports:
    """Routes below `ports`, and the proxy on a port of its own. `guard` is Sidecar.guard."""

    def __init__(
        self, settings: Settings, guest: Guest, guard: Callable[..., Member | Response], known: Callable[[str], bool],
        certificate: Certificate | None, clock: Callable[[], float],
    ) -> None:  # fmt: skip
        self._settings, self._guest, self._guard, self._certificate = settings, guest, guard, certificate
        self._passes = Passes(clock, known)
        rules = Rules(f"dozlab-ports-{settings.session_id}", self._passes, self._dial, self._scheme, self._client)
        self._proxy = Proxy(rules)
        self._socket: socket.socket | None = None
        self._server: asyncio.Server | None = None

    def routes(self) -> list[BaseRoute]:
        """Return what to serve."""
        return [Route("/ports", self.show), Route("/ports/{port:int}/open", self.open)]

    # --- the proxy

    def bind(self) -> None:
        """Take the proxy's port, where one is wanted.

        :raises DozlabError: when somebody has it
        """
        settings = self._settings
        if not settings.ports_port:
            return
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((settings.host, settings.ports_port))
        except OSError as error:
            sock.close()
            where = f"{settings.host}:{settings.ports_port}"
            raise DozlabError(
                f"cannot listen on {where}: {error.strerror}", hint="set PORTS_PORT to a free one"
            ) from error
        self._socket = sock

    async def start(self) -> None:
        """Begin to take connections."""
        if self._socket is not None:
            context = self._certificate.context if self._certificate else None
            self._server = await asyncio.start_server(
                self._proxy.take, sock=self._socket, limit=PIECE, backlog=128, ssl=context
            )

    def drop(self, members: Iterable[str]) -> None:
        """Shut members (`Member.key`) out: what they have open ends."""
        gone = set(members)
        self._passes.drop(gone)
        self._proxy.drop(gone)

    async def close(self) -> None:
        """Take no more, and end what there is."""
        if self._server is not None:
            self._server.close()
        elif self._socket is not None:
            self._socket.close()
        await self._proxy.close()

    async def _dial(self, port: int) -> Pipe:
        machine = self._guest.machine
        if self._guest.still and machine is not None and machine.paused == "idle":  # the connection wakes it
            try:
                async with asyncio.timeout(_WAKE_SECONDS):
                    await self._guest.moves()
            except TimeoutError as error:
                raise Still from error
        return await self._guest.dial(port)

    def _scheme(self, host: str) -> str:
        wanted = urlsplit(self._settings.ports_origin)
        if wanted.netloc and fnmatchcase(host, wanted.netloc):
            return wanted.scheme
        return "https" if self._certificate else "http"

    def _client(self, peer: str, hops: list[str]) -> str:
        return client(peer, hops, self._settings.proxies)

    # --- the panel

    async def show(self, request: Request) -> Response:
        """Answer with what listens in the guest."""
        member = self._guard(request, need="types")
        if isinstance(member, Response):
            return member
        try:
            text = await self._guest.unless_still(self._guest.patiently(self._tables(), _TABLE_SECONDS))
        except Still:
            return JSONResponse({"error": "the machine is paused: let it go on first", "kind": "paused"}, 409)
        except (Away, TimeoutError) as error:
            said = str(error) or "the machine does not answer"
            return JSONResponse({"error": said, "kind": "away"}, 503)
        linked = bool(self._origin(request, 1))
        found = [
            {
                "port": each.port, "addresses": [str(address) for address in each.addresses], "open": each.open,
                "link": linked and each.port not in _NOT_HTTP and each.reached_by(self._settings.vm_ip),
            }
            for each in listeners(text)
        ]  # fmt: skip
        why = (
            "" if linked
            else "they are not opened from here (ports.enabled)" if self._socket is None
            else "to open them, say where browsers find their proxy (ports.origin)"
        )  # fmt: skip
        return JSONResponse({"ports": found, "note": why}, headers={"Cache-Control": "no-store"})

    async def _tables(self) -> str:
        pipe = await self._guest.command("cat /proc/net/tcp /proc/net/tcp6")
        try:
            text = b""
            while len(text) < _MOST_TABLE and (data := await pipe.read(PIECE)):
                text += data
            return text.decode(errors="replace")
        finally:
            pipe.close()

    async def open(self, request: Request) -> Response:
        """Lead a link of the panel to the proxy, with a ticket that is good once."""
        member = self._guard(request, need="types")
        if isinstance(member, Response):
            return member
        port = request.path_params["port"]
        origin = self._origin(request, port) if 0 < port < 65536 else ""
        if not origin:
            return PlainTextResponse("this port cannot be opened here\n", 404)
        ticket = self._passes.ticket(member.key, port)
        headers = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
        return RedirectResponse(f"{origin}{entry.PAGE.decode()}#{ticket}", 303, headers)

    def _origin(self, request: Request, port: int) -> str:
        """Return the proxy's origin as the asking browser reaches it; "" where there is none."""
        settings = self._settings
        if self._socket is None:
            return ""
        if settings.ports_origin:
            return settings.ports_origin.replace("*", str(port))
        if request.url.scheme == "https" and self._certificate is None:
            return ""  # another server speaks TLS for us, and knows nothing of the proxy
        name = request.headers.get("host", "").lower().rpartition("]")
        host = f"{name[0]}]" if name[1] else name[2].partition(":")[0]
        other = _OTHER_LOOPBACK.get(host)
        if other is None and not settings.ports_published:
            return ""
        return f"{request.url.scheme}://{other or host}:{settings.ports_published or settings.ports_port}"
