"""HTTP and WebSocket routes: who may come in is asked here, on every route; what a terminal is, is not known here."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from dataclasses import asdict
from typing import Any
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

from dozlab.lib import log as logs
from dozlab.lib import tasks
from dozlab.lib.control import ControlServer
from dozlab.lib.files import scratch
from dozlab.lib.timeline import STAGES, Timeline
from dozlab.lib.units import MIB
from dozlab.terminal_sidecar import protocol
from dozlab.terminal_sidecar.auth import ROLES, TOKEN_SECONDS, Busy, Cookies, Gate, Member, Need, Origins, Tokens
from dozlab.terminal_sidecar.files.routes import Files
from dozlab.terminal_sidecar.guest import Guest
from dozlab.terminal_sidecar.history import History
from dozlab.terminal_sidecar.legacy import Legacy
from dozlab.terminal_sidecar.machine import MachineFile
from dozlab.terminal_sidecar.metrics import CONTENT_TYPE_LATEST, Leg, Metrics
from dozlab.terminal_sidecar.pace import Paces
from dozlab.terminal_sidecar.pages import SECURITY_HEADERS, Pages
from dozlab.terminal_sidecar.people.routes import People
from dozlab.terminal_sidecar.ports.routes import Ports
from dozlab.terminal_sidecar.proxies import Proxies, lane
from dozlab.terminal_sidecar.recording.routes import Recordings
from dozlab.terminal_sidecar.settings import Settings
from dozlab.terminal_sidecar.shell import Shells
from dozlab.terminal_sidecar.shells import ShellRoutes
from dozlab.terminal_sidecar.stream import Stream
from dozlab.terminal_sidecar.tls import Certificate

log = logging.getLogger(__name__)

_MOST_FORM = 8 << 10  # bytes of a login form
_DEVICE_SECONDS = 90 * 86400
_SWEEP = 5.0  # seconds
_BARE_POLICY = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Sidecar:
    """Everything one sidecar has; `app` is its ASGI application."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.settings = settings
        self.pages = Pages(settings.page_dir, settings.session_id)
        self.certificate = Certificate(settings.tls_cert, settings.tls_key) if settings.tls_cert else None
        self.timeline = Timeline(settings.shared_dir)
        self.gate = Gate(settings, clock)
        self.tokens = Tokens(clock)
        self.devices = Tokens(clock, seconds=_DEVICE_SECONDS)
        self.origins = Origins(settings.allowed_origins)
        self.cookies = Cookies(settings)
        self.guest = Guest(settings.vm_ip, settings.vm_ssh_port, settings.ssh_user, settings.shared_dir)
        self.files = Files(self.guest, self.guard)
        self.ports = Ports(settings, self.guest, self.guard, self.tokens.known, self.certificate, clock)
        self.recordings = Recordings(self, clock)
        self.shells = Shells(
            self.guest, most=settings.max_shells, history=self._history,
            idle_seconds=settings.shell_idle_seconds, clock=clock,
            record=self.recordings.recorder.tape if settings.recording else None,
        )  # fmt: skip
        self.recordings.recorder.on_change(self.shells.tell_state)
        self.guest.on_change(self.shells.tell_state)
        self.machine = MachineFile(settings.shared_dir / "vm.json")
        self.machine.on_change(self.guest.machine_changed)  # before the shells, which ask the guest
        self.machine.on_change(self.shells.machine_changed)
        self.metrics = Metrics(self.guest, self.shells)
        self._streams: set[Stream] = set()
        self._paces = Paces(clock)
        self._draining = False
        self.people = People(self, clock)
        self.app = Starlette(routes=self._routes(), lifespan=self._lifespan)
        self.app.router.redirect_slashes = False  # it would name a scheme that a TLS proxy does not serve
        self.app.add_middleware(_Headers)
        self.app.add_middleware(Proxies, trusted=settings.proxies)

    def _history(self) -> History:
        """Return the memory of a new shell, a file of its own where SCROLLBACK_DIR is set."""
        size, folder = self.settings.scrollback, self.settings.scrollback_dir
        if folder is None:
            return History(size)
        try:
            return History(size, scratch(folder, size))
        except OSError as error:
            log.warning("scrollback is kept in memory, 1 MiB at the most: %s: %s", folder, error.strerror)
            return History(min(size, MIB))

    def _routes(self) -> list[BaseRoute]:
        probes: list[BaseRoute] = [
            Route("/health", self.health),
            Route("/ready", self.ready),
            Route("/metrics", self.render_metrics),
        ]
        page: list[BaseRoute] = [
            Route("/", self.index),
            Route("/login", self.login, methods=["GET", "POST"]),
            Route("/logout", self.logout, methods=["POST"]),
            Route("/timeline", self.show_timeline),
            *self.people.routes(),
            *ShellRoutes(self).routes(),
            *self.recordings.routes(),
            Route("/assets/{name}", self.asset),
            WebSocketRoute("/ws", self.terminal),
            *Legacy(self.settings.session_id, self._serve).routes(),
            *self.files.routes(),
            *self.ports.routes(),
        ]
        if not self.settings.base:
            return page + probes
        # A kubelet asks the Pod itself, without the proxy's path.
        home = Route(self.settings.base, lambda request: RedirectResponse(f"{self.settings.base}/", 308))
        return [*probes, home, Mount(self.settings.base, routes=page + probes)]

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        self.machine.look()
        if self.settings.recording:
            await self.recordings.recorder.start()
        self.guest.start()
        await self.ports.start()
        running = [
            tasks.start(self._sweep(), name="terminal-sweeper"),
            tasks.start(self.machine.watch(), name="machine-watch"),
        ]
        if self.certificate is not None:
            running.append(tasks.start(self.certificate.watch(), name="certificate-watch"))
        door = ControlServer(self.settings.shared_dir / "terminal.sock", self.people.verbs())
        try:
            await door.start()
        except OSError as error:
            log.warning("dozlab share cannot be used: %s: %s", door.path, error.strerror or error)
        try:
            yield
        finally:
            await self.drain()
            await tasks.stop(running)
            await door.close()
            self.shells.close()
            await self.files.close()
            await self.guest.close()
            await self.recordings.recorder.close()

    async def _sweep(self) -> None:
        leg = Leg()
        while True:
            await asyncio.sleep(_SWEEP)
            self.shells.sweep()
            if leg.news(self.guest.latency):
                self.shells.tell_state()
            await self.people.sweep()

    async def drain(self) -> None:
        """Take no more clients and close those there are with 1001, so that they come back by themselves."""
        self._draining = True
        await self._close(self._streams, protocol.CLOSE_GOING_AWAY, "the terminal restarts")
        await asyncio.gather(self.files.drain(), self.ports.close())

    @staticmethod
    async def _close(streams: Iterable[Stream], code: int, reason: str) -> None:
        await asyncio.gather(*[stream.close(code, reason) for stream in streams])

    async def shut_out(self, keys: Iterable[str], reason: str) -> None:
        """Forget the tokens of these keys (`Member.key`) and close the terminals they had opened."""
        gone = set(keys)
        for key in gone:
            self.tokens.revoke(key)
        self.ports.drop(gone)
        await self.files.drop(gone)
        streams = [stream for stream in self._streams if stream.member.key in gone]
        await self._close(streams, protocol.CLOSE_LOGGED_OUT, reason)

    async def let_go(self, shell: str) -> None:
        """Close the terminals of a shell that was closed."""
        streams = [stream for stream in self._streams if stream.shell == shell]
        await self._close(streams, protocol.CLOSE_NO_SHELL, "the shell was closed")

    # --- who asks

    def member(self, connection: Request | WebSocket) -> Member | None:
        """Return whose cookie the request carries; None for nobody's, or one that is no longer good.

        What this request's task logs from now on has the member's id.
        """
        found = map(self.tokens.member, self.cookies.tokens(connection.headers.getlist("cookie")))
        members = [member for member in found if member is not None]
        if not members:
            return None
        member = min(members, key=lambda each: ROLES.index(each.role))  # what others have added lowers nobody
        logs.about(client=member.id)
        return member

    def guard(self, request: Request, *, need: Need = "any", post: bool = False) -> Member | Response:
        """Return who asks, or the answer that refuses it: every route of a feature begins with this.

        :param need: what the role must allow
        :param post: the request changes something, so its Origin must be the page's own
        """
        if not self.origins.host(request.headers.get("host", "")):
            return JSONResponse({"error": "this host name is not served here"}, 421)
        member = self.member(request)
        if member is None:
            return JSONResponse({"error": "log in first"}, 401)
        # Our cookie comes with what a page on another port of this host asks for; where the browser says so, no.
        strange = request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none")
        if strange or (post and not self.same_origin(request)):
            return JSONResponse({"error": "cross-origin request refused"}, 403)
        if not member.may(need):
            what = "change anything here" if need == "types" else "decide who comes in"
            return JSONResponse({"error": f"this link ({member.role}) does not let you {what}"}, 403)
        return member

    def same_origin(self, connection: Request | WebSocket) -> bool:
        """Tell whether the request says that it comes from the page's own origin."""
        scheme = "https" if connection.url.scheme in ("https", "wss") else "http"
        headers = connection.headers
        return self.origins.exact(headers.get("origin", ""), scheme, headers.get("host", ""))

    def _refused(self, request: Request) -> Response | None:
        if self.origins.host(request.headers.get("host", "")):
            return None
        return PlainTextResponse("this host name is not served here\n", 421)

    # --- pages

    async def index(self, request: Request) -> Response:
        """Serve the terminal page, or the login page to whom it does not know."""
        return self._refused(request) or (self.pages.index() if self.member(request) else self.pages.login())

    async def asset(self, request: Request) -> Response:
        """Serve a file of the page; nothing in it is secret."""
        return self.pages.asset(request)

    async def login(self, request: Request) -> Response:
        """Check the password and set the cookie."""
        if refused := self._refused(request):
            return refused
        home = f"{self.settings.base}/"
        if request.method == "GET":
            return RedirectResponse(home, 303)
        if "origin" in request.headers and not self.same_origin(request):
            return PlainTextResponse("cross-origin request refused\n", 403)
        password = await _form_field(request, "password")
        if password is None:
            return PlainTextResponse("too large\n", 413)
        device = request.cookies.get(self.cookies.device, "")
        address = request.client.host if request.client else "?"
        known = bool(device) and self.devices.valid(device)
        try:
            right = await self.gate.check(
                password, f"device {Tokens.key(device)}" if known else f"address {lane(address)}"
            )
        except Busy:
            self.metrics.logins.labels("delayed").inc()
            return self.pages.login(error="Too many attempts at once. Try again in a few seconds.", status=429)
        self.metrics.logins.labels("ok" if right else "wrong").inc()
        if not right:
            log.warning("wrong password from %s", address)
            return self.pages.login(error="That is not the session's password.", status=401)
        log.info("login from %s", address)
        response = RedirectResponse(home, 303)
        self.set_cookie(request, response, self.tokens.issue(), TOKEN_SECONDS)
        if not known:
            self.set_cookie(request, response, self.devices.issue(), _DEVICE_SECONDS, name=self.cookies.device)
        return response

    def set_cookie(self, request: Request, response: Response, token: str, seconds: int, *, name: str = "") -> None:
        """Let an answer set the session's cookie, or another one of ours."""
        secure = request.url.scheme == "https" or request.headers.get("origin", "").startswith("https://")
        cookie = self.cookies.make(name or self.cookies.session, token, seconds=seconds, secure=secure)
        response.headers.append("set-cookie", cookie)

    async def logout(self, request: Request) -> Response:
        """Forget the token, and close the terminals it had opened."""
        if not self.same_origin(request):
            return PlainTextResponse("cross-origin request refused\n", 403)
        tokens = self.cookies.tokens(request.headers.getlist("cookie"))
        await self.shut_out(map(Tokens.key, tokens), "logged out")
        response = RedirectResponse(f"{self.settings.base}/", 303)
        response.headers.append("set-cookie", self.cookies.make(self.cookies.session, "", seconds=0, secure=False))
        return response

    async def show_timeline(self, request: Request) -> Response:
        """Serve the stages of the session's start for the waiting page."""
        asks = self.guard(request)
        if isinstance(asks, Response):
            return asks
        body = {
            "session": self.settings.session_id,
            "now": round(time.time(), 3),
            "guest": self.guest.state,
            "stages": STAGES,
            "entries": [asdict(entry) for entry in self.timeline.read()],
        }
        return JSONResponse(body, headers={"Cache-Control": "no-store"})

    # --- probes

    async def health(self, request: Request) -> Response:
        """Answer while the process serves, whatever the guest does: restarting it would help neither."""
        return PlainTextResponse("ok\n")

    async def ready(self, request: Request) -> Response:
        """Answer 200 only while SSH to the guest answers, or the machine is paused.

        A paused session must stay reachable: a Pod that is not ready loses its Service's traffic, and with it the
        connection that would wake an idle machine and the page that says why it stands still.
        """
        if (self.guest.state == "live" or self.guest.still) and not self._draining:
            return PlainTextResponse("paused\n" if self.guest.still else "ready\n")
        return PlainTextResponse(f"not ready: {self.guest.fault or self.guest.state}\n", 503)

    async def render_metrics(self, request: Request) -> Response:
        """Serve the figures to Prometheus."""
        return Response(self.metrics.render(), media_type=CONTENT_TYPE_LATEST)

    # --- the terminal

    async def admit(self, socket: WebSocket) -> Member | None:
        """Return who opens a WebSocket: the page's own origin and a valid cookie only. None when it was refused."""
        member = self.member(socket)
        here = [stream.member for stream in self._streams]
        status, reason, text = (
            (403, "origin", "cross-origin request refused\n") if not self.same_origin(socket)
            else (401, "login", "log in first\n") if member is None
            else (503, "draining", "the terminal restarts\n") if self._draining
            else (503, "full", "too many clients\n") if self.people.full(member, here, self.settings.max_clients)
            else (101, "ok", "")
        )  # fmt: skip
        self.metrics.connections.labels(reason).inc()
        if text:
            await socket.send_denial_response(PlainTextResponse(text, status))
            return None
        return member

    async def terminal(self, socket: WebSocket) -> None:
        """Serve a terminal over a WebSocket."""
        await self._serve(socket, Stream)

    async def _serve(self, socket: WebSocket, kind: type[Stream]) -> None:
        member = await self.admit(socket)
        if member is None:
            return
        stream = kind(
            socket, self.shells, self.metrics.traffic, self.settings.session_id, member, self._paces.of(member.key)
        )
        self._streams.add(stream)  # before anything is awaited: from here on a revocation finds it
        try:
            offered = protocol.SUBPROTOCOL in socket.scope["subprotocols"]
            await socket.accept(subprotocol=protocol.SUBPROTOCOL if offered else None)
            await stream.serve()
        finally:
            self._streams.discard(stream)


async def _form_field(request: Request, name: str) -> str | None:
    """Return a field of a urlencoded form; "" when absent, None when the form is too large."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MOST_FORM:
            return None
    return parse_qs(body.decode(errors="replace"), keep_blank_values=True).get(name, [""])[0]


class _Headers:
    """Adds the security headers to every answer."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app = app
        self._headers = [(key.lower().encode(), value.encode()) for key, value in SECURITY_HEADERS.items()]

    async def __call__(self, scope: Scope, receive: Any, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                headers = [*message["headers"], *self._headers]
                if not any(name == b"content-security-policy" for name, _ in headers):
                    headers.append(_BARE_POLICY)
                message["headers"] = headers
            await send(message)

        await self._app(scope, receive, with_headers)
