"""HTTP and WebSocket routes: who may come in is asked here, on every route; what a terminal is, is not known here."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from dataclasses import asdict
from typing import Any
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

from dozlab.lib import tasks
from dozlab.lib.timeline import STAGES, Timeline
from dozlab.terminal_sidecar import protocol
from dozlab.terminal_sidecar.auth import TOKEN_SECONDS, Busy, Cookies, Gate, Origins, Tokens
from dozlab.terminal_sidecar.guest import Guest
from dozlab.terminal_sidecar.machine import MachineFile
from dozlab.terminal_sidecar.metrics import CONTENT_TYPE_LATEST, Metrics
from dozlab.terminal_sidecar.pages import SECURITY_HEADERS, Pages
from dozlab.terminal_sidecar.settings import Settings
from dozlab.terminal_sidecar.shell import Shells
from dozlab.terminal_sidecar.stream import Stream

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
        self.timeline = Timeline(settings.shared_dir)
        self.gate = Gate(settings, clock)
        self.tokens = Tokens(clock)
        self.devices = Tokens(clock, seconds=_DEVICE_SECONDS)
        self.origins = Origins(settings.allowed_origins)
        self.cookies = Cookies(settings)
        self.guest = Guest(settings.vm_ip, settings.vm_ssh_port, settings.ssh_user, settings.shared_dir)
        self.shells = Shells(
            self.guest, most=settings.max_shells, history_bytes=settings.scrollback,
            idle_seconds=settings.shell_idle_seconds, clock=clock,
        )  # fmt: skip
        self.guest.on_change(self.shells.tell_state)
        self.machine = MachineFile(settings.shared_dir / "vm.json")
        self.machine.on_change(self.guest.machine_changed)  # before the shells, which ask the guest
        self.machine.on_change(self.shells.machine_changed)
        self.metrics = Metrics(self.guest, self.shells)
        self._streams: dict[Stream, str] = {}  # with the key of the token that let it in
        self._draining = False
        self.app = Starlette(routes=self._routes(), lifespan=self._lifespan)
        self.app.router.redirect_slashes = False  # it would name a scheme that a TLS proxy does not serve
        self.app.add_middleware(_Headers)

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
            Route("/assets/{name}", self.asset),
            WebSocketRoute("/ws", self.terminal),
        ]
        if not self.settings.base:
            return page + probes
        # A kubelet asks the Pod itself, without the proxy's path.
        home = Route(self.settings.base, lambda request: RedirectResponse(f"{self.settings.base}/", 308))
        return [*probes, home, Mount(self.settings.base, routes=page + probes)]

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        self.machine.look()
        self.guest.start()
        running = [
            tasks.start(self._sweep(), name="terminal-sweeper"),
            tasks.start(self.machine.watch(), name="machine-watch"),
        ]
        try:
            yield
        finally:
            await self.drain()
            await tasks.stop(running)
            self.shells.close()
            await self.guest.close()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP)
            self.shells.sweep()

    async def drain(self) -> None:
        """Take no more clients and close those there are with 1001, so that they come back by themselves."""
        self._draining = True
        for stream in list(self._streams):
            await stream.close(protocol.CLOSE_GOING_AWAY, "the terminal restarts")

    # --- who asks

    def _token(self, connection: Request | WebSocket) -> str:
        """Return the request's token when it is valid, else ""."""
        token = self.cookies.token(connection.cookies)
        return token if token and self.tokens.valid(token) else ""

    def _same_origin(self, connection: Request | WebSocket) -> bool:
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
        return self._refused(request) or (self.pages.index() if self._token(request) else self.pages.login())

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
        if "origin" in request.headers and not self._same_origin(request):
            return PlainTextResponse("cross-origin request refused\n", 403)
        password = await _form_field(request, "password")
        if password is None:
            return PlainTextResponse("too large\n", 413)
        device = request.cookies.get(self.cookies.device, "")
        address = request.client.host if request.client else "?"
        known = bool(device) and self.devices.valid(device)
        try:
            right = await self.gate.check(password, f"device {Tokens.key(device)}" if known else f"address {address}")
        except Busy:
            self.metrics.logins.labels("delayed").inc()
            return self.pages.login(error="Too many attempts at once. Try again in a few seconds.", status=429)
        self.metrics.logins.labels("ok" if right else "wrong").inc()
        if not right:
            log.warning("wrong password from %s", address)
            return self.pages.login(error="That is not the session's password.", status=401)
        log.info("login from %s", address)
        secure = request.url.scheme == "https" or request.headers.get("origin", "").startswith("https://")
        response = RedirectResponse(home, 303)
        cookie = self.cookies.make(self.cookies.session, self.tokens.issue(), seconds=TOKEN_SECONDS, secure=secure)
        response.headers.append("set-cookie", cookie)
        if not known:
            cookie = self.cookies.make(
                self.cookies.device, self.devices.issue(), seconds=_DEVICE_SECONDS, secure=secure
            )
            response.headers.append("set-cookie", cookie)
        return response

    async def logout(self, request: Request) -> Response:
        """Forget the token, and close the terminals it had opened."""
        if not self._same_origin(request):
            return PlainTextResponse("cross-origin request refused\n", 403)
        token = self.cookies.token(request.cookies)
        self.tokens.revoke(token)
        for stream, key in list(self._streams.items()):
            if key == Tokens.key(token):
                await stream.close(protocol.CLOSE_LOGGED_OUT, "logged out")
        response = RedirectResponse(f"{self.settings.base}/", 303)
        response.headers.append("set-cookie", self.cookies.make(self.cookies.session, "", seconds=0, secure=False))
        return response

    async def show_timeline(self, request: Request) -> Response:
        """Serve the stages of the session's start for the waiting page."""
        if refused := self._refused(request):
            return refused
        if not self._token(request):
            return JSONResponse({"error": "log in first"}, 401)
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

    async def terminal(self, socket: WebSocket) -> None:
        """Serve a terminal over a WebSocket, to the page's own origin and a valid cookie only."""
        token = self._token(socket)
        refusal = (
            (403, "origin", "cross-origin request refused\n") if not self._same_origin(socket)
            else (401, "login", "log in first\n") if not token
            else (503, "draining", "the terminal restarts\n") if self._draining
            else (503, "full", "too many clients\n") if len(self._streams) >= self.settings.max_clients
            else None
        )  # fmt: skip
        if refusal:
            status, reason, text = refusal
            self.metrics.connections.labels(reason).inc()
            await socket.send_denial_response(PlainTextResponse(text, status))
            return
        self.metrics.connections.labels("ok").inc()
        offered = protocol.SUBPROTOCOL in socket.scope["subprotocols"]
        await socket.accept(subprotocol=protocol.SUBPROTOCOL if offered else None)
        stream = Stream(socket, self.shells, self.metrics, self.settings.session_id)
        self._streams[stream] = Tokens.key(token)
        try:
            await stream.serve()
        finally:
            del self._streams[stream]


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
