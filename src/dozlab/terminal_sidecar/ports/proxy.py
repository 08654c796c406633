"""HTTP/1.1 between browsers and one port of the guest: parsed strictly on both sides (h11), streamed, bounded."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import h11

from dozlab.lib import tasks
from dozlab.terminal_sidecar.pipe import Away, Still
from dozlab.terminal_sidecar.ports import entry, headers
from dozlab.terminal_sidecar.ports.passes import Pass, Passes

log = logging.getLogger(__name__)

PIECE = 64 << 10
"""Bytes held of one direction of one connection, beside what kernel and SSH hold."""
MOST_HEAD = 64 << 10
MOST_CONNECTIONS = 256
HEAD_SECONDS = 20.0
"""Seconds for a request's head, and between two requests of one connection."""
STALL_SECONDS = 300.0
"""Seconds that a browser may take for the next piece. A guest may take as long as it likes: a stream may be quiet."""
LINGER_BYTES = 1 << 20
_MOST_TICKET = 128


class PipeLike(Protocol):
    """What is needed of `pipe.Pipe`."""

    async def read(self, most: int) -> bytes:
        """Return what has come, b"" at the end."""

    async def write(self, data: bytes) -> None:
        """Send, with back-pressure."""

    def end(self) -> None:
        """Say that nothing more will be sent."""

    def close(self) -> None:
        """Close at once."""


@dataclass(frozen=True)
class Rules:
    """What a connection needs to know."""

    cookie: str
    passes: Passes
    dial: Callable[[int], Awaitable[PipeLike]]
    """Connects to a port of the guest, waking it where it sleeps."""
    scheme: Callable[[str], str]
    """Returns http or https for a Host."""
    client: Callable[[str, list[str]], str]
    """Returns whom to hold to account, of the peer and what X-Forwarded-For says."""


class _Gone(Exception):
    """The browser has left."""


class Connection:
    """One browser's connection: request after request."""

    def __init__(self, rules: Rules, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._rules, self._reader, self._writer = rules, reader, writer
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MOST_HEAD)
        self._head = False
        self.member = ""
        """Whose pass the request under way has (`Member.key`)."""

    async def serve(self) -> None:
        """Answer until either side has enough."""
        try:
            while True:
                async with asyncio.timeout(HEAD_SECONDS):
                    request = await self._next()
                if not isinstance(request, h11.Request):
                    return
                await self._answer(request)
                self.member = ""
                if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                    await self._linger()
                    return
                self._http.start_next_cycle()
        except h11.RemoteProtocolError as error:
            with contextlib.suppress(h11.LocalProtocolError, OSError):
                await self._say(error.error_status_hint, f"this is no request: {error}")
        except (_Gone, TimeoutError, OSError, h11.LocalProtocolError) as error:
            log.debug("a connection to a port ends: %s", error)

    # --- the browser's side

    async def _next(self) -> h11.Event | type[h11.PAUSED]:
        while True:
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                return event  # type: ignore[return-value]
            self._http.receive_data(await self._reader.read(PIECE))

    async def _send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data:
            await self._write(data)

    async def _write(self, data: bytes) -> None:
        self._writer.write(data)
        async with asyncio.timeout(STALL_SECONDS):
            await self._writer.drain()

    async def _say(
        self, status: int, text: str, more: list[tuple[bytes, bytes]] | None = None, body: bytes | None = None
    ) -> None:
        """Answer by ourselves, in plain text where there is no body."""
        if body is None:
            body = f"{text}\n".encode()
            more = [*(more or []), (b"Content-Type", b"text/plain; charset=utf-8"), (b"Cache-Control", b"no-store"),
                    (b"X-Content-Type-Options", b"nosniff")]  # fmt: skip
        await self._send(
            h11.Response(status_code=status, headers=[*(more or []), (b"Content-Length", str(len(body)).encode())])
        )
        if not self._head:
            await self._send(h11.Data(data=body))
        await self._send(h11.EndOfMessage())

    async def _linger(self) -> None:
        """Take what a browser is still sending, within bounds, so that it gets to read the answer."""
        if self._http.our_state is h11.SWITCHED_PROTOCOL or self._http.our_state is h11.ERROR:
            return
        if self._writer.can_write_eof():
            self._writer.write_eof()
        taken = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2.0):
                while taken < LINGER_BYTES and (data := await self._reader.read(PIECE)):
                    taken += len(data)

    # --- one request

    async def _answer(self, request: h11.Request) -> None:
        found = list(request.headers.raw_items())
        self._head = request.method == b"HEAD"
        hosts = headers.named(found, b"host")
        host = hosts[0].decode("latin-1").lower() if hosts else ""
        target = request.target
        if not host or not target.startswith(b"/") or request.method in (b"CONNECT", b"TRACE"):
            await self._say(400, "this is no request for a server")
            return
        scheme = self._rules.scheme(host)
        origins = headers.named(found, b"origin")
        own = not origins or [value.decode("latin-1").lower() for value in origins] == [f"{scheme}://{host}"]
        path = target.partition(b"?")[0]
        if path.startswith(entry.PREFIX):
            await self._enter(request, path, allowed=own and bool(origins), secure=scheme == "https")
        elif not own:
            await self._say(403, "cross-origin request refused")
        elif headers.named(found, b"service-worker"):
            await self._say(403, "service workers are not let in: they would outlive this port")
        else:
            let_in = self._pass(found)
            if let_in is None:
                await self._say(401, "Open this port out of the session's terminal (Ports).")
                return
            self.member = let_in.member
            await self._forward(request, found, let_in.port, hosts[0], scheme)

    def _pass(self, found: list[tuple[bytes, bytes]]) -> Pass | None:
        for token in headers.cookie(found, self._rules.cookie)[:4]:
            if let_in := self._rules.passes.look(token):
                return let_in
        return None

    async def _enter(self, request: h11.Request, path: bytes, *, allowed: bool, secure: bool) -> None:
        if request.method in (b"GET", b"HEAD") and (found := entry.file(path)):
            await self._say(200, "", found[1], found[0])
            return
        if path != entry.PAGE or request.method != b"POST":
            await self._say(404, "not found")
            return
        if not allowed:
            await self._say(403, "cross-origin request refused")
            return
        ticket = b""
        async with asyncio.timeout(HEAD_SECONDS):
            while isinstance(event := await self._next(), h11.Data) and len(ticket) <= _MOST_TICKET:
                ticket += event.data
        token = self._rules.passes.enter(ticket.decode("latin-1")) if isinstance(event, h11.EndOfMessage) else None
        if token is None:
            await self._say(403, "This link has been used, or is too old: open the port again.")
            return
        # Lax: a login that leads back to the app from elsewhere finds it; other sites' posts do not.
        cookie = f"{self._rules.cookie}={token}; Path=/; Max-Age=43200; HttpOnly; SameSite=Lax"
        more = [(b"Set-Cookie", (cookie + ("; Secure" if secure else "")).encode())]
        before, now = self._pass(list(request.headers)), self._rules.passes.look(token)
        if before and now and before.port != now.port:  # its app may have left files of the same names
            more.append((b"Clear-Site-Data", b'"cache"'))
        await self._say(200, "ok", more)

    async def _forward(
        self, request: h11.Request, found: list[tuple[bytes, bytes]], port: int, host: bytes, scheme: str
    ) -> None:
        try:
            pipe = await self._rules.dial(port)
        except Still:
            await self._say(503, "The machine is paused: let it go on first.", [(b"Retry-After", b"5")])
            return
        except Away as error:
            await self._say(502, f"Nothing answers on port {port} of the machine: {error}")
            return
        try:
            up = h11.Connection(h11.CLIENT, max_incomplete_event_size=MOST_HEAD)
            peer = self._writer.get_extra_info("peername") or ("unknown",)
            hops = [hop.decode("latin-1") for hop in headers.words(found, b"x-forwarded-for")]
            client = self._rules.client(str(peer[0]), hops)
            sent = headers.to_guest(found, client=client, host=host, scheme=scheme)
            try:
                await pipe.write(
                    up.send(h11.Request(method=request.method, target=request.target, headers=sent)) or b""
                )
                await self._both(up, pipe)
            except (h11.RemoteProtocolError, Away) as error:
                if self._http.our_state is not h11.SEND_RESPONSE:
                    raise _Gone from error  # in the middle of an answer: the cut says it
                await self._say(502, f"Port {port} of the machine does not speak HTTP: {error}")
        finally:
            pipe.close()

    async def _both(self, up: h11.Connection, pipe: PipeLike) -> None:
        """Send the body up while the answer comes down; the first that cannot go on ends both."""
        uploading = tasks.start(self._upload(up, pipe), name="port-upload", guard=False)
        answering = tasks.start(self._download(up, pipe), name="port-download", guard=False)
        try:
            await asyncio.wait({uploading, answering}, return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                if answering.result():
                    await tasks.stop([uploading])
                    await self._pump(up, pipe)
            else:
                uploading.result()
        finally:
            await tasks.stop([uploading, answering])

    async def _upload(self, up: h11.Connection, pipe: PipeLike) -> None:
        """Send the request's body; then watch whether the browser stays.

        :raises _Gone: when it does not
        """
        with contextlib.suppress(Away):  # a server may answer and take no more
            while True:
                async with asyncio.timeout(STALL_SECONDS):
                    event = await self._next()
                if isinstance(event, h11.Data):
                    await pipe.write(up.send(event) or b"")
                elif isinstance(event, h11.EndOfMessage):
                    await pipe.write(up.send(h11.EndOfMessage()) or b"")
                    break
                else:
                    raise _Gone
        data = await self._reader.read(PIECE)
        if not data:
            raise _Gone
        self._http.receive_data(data)  # the next request, or what follows a change of protocol; no more is read
        await asyncio.get_running_loop().create_future()

    async def _download(self, up: h11.Connection, pipe: PipeLike) -> bool:
        """Pass the answer on; True where it changes the protocol."""
        while True:
            event = up.next_event()
            if event is h11.NEED_DATA:
                up.receive_data(await pipe.read(PIECE))
            elif isinstance(event, h11.InformationalResponse):
                switching = event.status_code == 101
                kept = headers.to_browser(event.headers.raw_items(), switching=switching)
                if switching or event.status_code == 100 or event.status_code == 103:
                    await self._send(
                        h11.InformationalResponse(status_code=event.status_code, headers=kept, reason=event.reason)
                    )
                if switching:
                    return True
            elif isinstance(event, h11.Response):
                kept = headers.to_browser(event.headers.raw_items())
                await self._send(h11.Response(status_code=event.status_code, headers=kept, reason=event.reason))
            elif isinstance(event, h11.Data):
                await self._send(h11.Data(data=event.data))
            elif isinstance(event, h11.EndOfMessage):
                await self._send(h11.EndOfMessage())
                return False
            else:
                raise Away("it ended without an answer")

    async def _pump(self, up: h11.Connection, pipe: PipeLike) -> None:
        """Pass bytes both ways until one side ends."""

        async def there() -> None:
            data = self._http.trailing_data[0]
            while data or (data := await self._reader.read(PIECE)):
                await pipe.write(data)
                data = b""
            pipe.end()

        async def back() -> None:
            data = up.trailing_data[0]
            while data or (data := await pipe.read(PIECE)):
                await self._write(data)
                data = b""

        pumps = [tasks.start(each(), name="port-pump", guard=False) for each in (there, back)]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await tasks.stop(pumps)


class Proxy:
    """The listening side: connections, counted, ended with their members."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._running: dict[asyncio.Task[None], Connection] = {}

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection (asyncio.start_server calls this)."""
        task = asyncio.current_task()
        assert task is not None
        connection = Connection(self._rules, reader, writer)
        if len(self._running) >= MOST_CONNECTIONS:  # a flood of those who have no pass pushes out its own
            idle = next((other for other, each in self._running.items() if not each.member), None)
            if idle is not None:
                del self._running[idle]
                idle.cancel()
        if len(self._running) < MOST_CONNECTIONS:
            self._running[task] = connection
            try:
                await connection.serve()
            except (Away, h11.RemoteProtocolError) as error:
                log.debug("a connection to a port ends: %s", error)
            except asyncio.CancelledError:
                pass  # `drop` or `close`
            finally:
                self._running.pop(task, None)
        writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(1.0):
                await writer.wait_closed()
        writer.transport.abort()

    def drop(self, members: set[str]) -> None:
        """End what these members (`Member.key`) have under way."""
        for task, connection in self._running.items():
            if connection.member in members:
                task.cancel()

    async def close(self) -> None:
        """End all."""
        await tasks.stop(list(self._running))
