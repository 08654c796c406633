"""TCP relay: 0.0.0.0:SSH_RELAY_PORT -> the guest's sshd. Half-closes pass, a slow side slows the other."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket

from dozlab.firecracker_vm.guest import Greeting
from dozlab.lib import tasks
from dozlab.lib.errors import DozlabError
from dozlab.lib.tcp import outlive_a_pause

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 64
_CHUNK = 64 * 1024
_CONNECT = 10.0
_SPARE = 20.0
"""Seconds a connection that sshd has greeted is kept for the first client: an emulated guest makes one in 0.2 s."""
_LOOK = 0.5
"""Seconds between two looks whether a client that waits for a paused guest is still there."""


class Relay:
    """Holds its port from `start()` to `close()`, and takes connections on it only while it is `open()`.

    So a port that answers means an sshd that answers: what a Pod's readiness probe and a waiting client want to know.
    """

    def __init__(self, target: str, port: int, *, limit: int = MAX_CONNECTIONS) -> None:
        self._target, self._port, self._limit = target, port, limit
        self._where = ("", 0)
        self._bound: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._spare: Greeting | None = None
        self._spare_ends: asyncio.TimerHandle | None = None
        self._runs = asyncio.Event()
        self._runs.set()

    def hold(self, hold: bool) -> None:
        """While the guest is paused, clients are taken and wait: nobody is there to answer a connection to it."""
        (self._runs.clear if hold else self._runs.set)()
        if hold:
            self._drop_spare()

    def start(self, host: str, port: int) -> int:
        """Take the port and return it (useful with port 0); connections are refused until `open()`.

        :raises DozlabError: when the port is taken
        """
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, port))
        except OSError as error:
            sock.close()
            raise DozlabError(f"SSH relay: cannot listen on {host}:{port}: {error.strerror}") from error
        self._bound = sock
        self._where = (host, int(sock.getsockname()[1]))
        return self._where[1]

    async def open(self, spare: Greeting | None = None) -> None:
        """Take connections from now on.

        :param spare: goes to the first client, if that comes soon; else it is closed
        :raises DozlabError: when another process has begun to listen there
        """
        assert self._bound
        self._drop_spare()
        if spare:
            self._spare = spare
            self._spare_ends = asyncio.get_running_loop().call_later(_SPARE, self._drop_spare)
        try:
            self._server = await asyncio.start_server(self._accept, sock=self._bound, limit=_CHUNK)
        except OSError as error:
            where = "{}:{}".format(*self._where)
            raise DozlabError(f"SSH relay: cannot listen on {where}: {error.strerror}") from error

    async def shut(self) -> None:
        """Refuse connections again and drop those there are."""
        if self._server:
            await self.close()
            self.start(*self._where)

    async def close(self) -> None:
        """Drop every connection and let go of the port."""
        self._drop_spare()
        if self._server:
            self._server.close()
        await tasks.stop(list(self._connections))
        if self._server:
            await self._server.wait_closed()
            self._server = None
        if self._bound:
            self._bound.close()
            self._bound = None

    def _take_spare(self) -> Greeting | None:
        """Return the connection that was kept, unless sshd has hung up meanwhile."""
        spare, self._spare = self._spare, None
        if self._spare_ends:
            self._spare_ends.cancel()
            self._spare_ends = None
        if spare and (spare.reader.at_eof() or spare.reader.exception() or spare.writer.is_closing()):
            spare.writer.close()
            return None
        return spare

    def _drop_spare(self) -> None:
        if spare := self._take_spare():
            spare.writer.close()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= self._limit:
            log.warning("SSH relay: refused a connection: %d are open", self._limit)
            writer.close()
            return
        task = tasks.start(self._serve(reader, writer), name="ssh-relay")
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            while not self._runs.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK):
                        await self._runs.wait()
                if reader.at_eof():  # a probe
                    return
            said = b""
            try:
                if spare := self._take_spare():
                    there, to_guest, said = spare.reader, spare.writer, spare.said
                else:
                    async with asyncio.timeout(_CONNECT):
                        there, to_guest = await asyncio.open_connection(self._target, self._port, limit=_CHUNK)
            except (OSError, TimeoutError) as error:
                log.info("SSH relay: the guest does not answer (%s)", error or "timed out")
                return
            with contextlib.closing(to_guest):
                outlive_a_pause(to_guest.get_extra_info("socket"))
                writer.write(said)
                one = tasks.start(_pump(reader, to_guest), name="relay-in", guard=False)
                two = tasks.start(_pump(there, writer), name="relay-out", guard=False)
                try:
                    await asyncio.gather(one, two)
                except OSError as error:
                    log.debug("SSH relay: %s", error)
                finally:
                    await tasks.stop([one, two])


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(_CHUNK):
        sink.write(data)
        await sink.drain()
    if sink.can_write_eof():
        sink.write_eof()
