"""Streams between a browser and the guest: how many at a time, who waits for whom, and what is left when one is cut."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Coroutine, Iterator, Mapping
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from dozlab.lib import tasks
from dozlab.terminal_sidecar.auth import Member
from dozlab.terminal_sidecar.files.sftp import Refused
from dozlab.terminal_sidecar.pipe import Away

log = logging.getLogger(__name__)

_T = TypeVar("_T")

MOST = 4
"""Transfers of one member at a time."""
STALL_SECONDS = 60.0
"""Seconds a browser may take for the next piece, either way."""


class TooMany(Exception):
    """The member has as many transfers under way as it may."""


class Ended(Exception):
    """The sidecar ends, and the transfer with it."""


class Transfers:
    """What is under way, by member."""

    def __init__(self) -> None:
        self._slots: Counter[str] = Counter()
        self._running: dict[asyncio.Task[Any], Member] = {}
        self._draining = False

    @contextlib.contextmanager
    def slot(self, member: Member) -> Iterator[None]:
        """Count one more transfer of a member.

        :raises TooMany: when it has enough of them
        :raises Ended: when nobody may begin one any more
        """
        if self._draining:
            raise Ended
        if self._slots[member.id] >= MOST:
            raise TooMany
        self._slots[member.id] += 1
        try:
            yield
        finally:
            self._slots[member.id] -= 1
            self._slots += Counter()  # forgets those who have none

    async def run(self, member: Member, work: Coroutine[Any, Any, _T]) -> _T:
        """Do what can be stopped: it ends with whoever waits here, with the member's login, and with the sidecar.

        :raises Ended: when one of the latter has happened
        """
        task: asyncio.Task[_T] = tasks.start(work, name="file-transfer", guard=False)
        self._running[task] = member
        try:
            await asyncio.wait({task})
            if task.cancelled():
                raise Ended
            return task.result()
        finally:
            await tasks.stop([task])
            del self._running[task]

    async def drop(self, keys: Collection[str]) -> None:
        """Stop what members (`Member.key`) have under way."""
        await tasks.stop([task for task, member in self._running.items() if member.key in keys])

    async def drain(self) -> None:
        """Stop all, and take no new ones."""
        self._draining = True
        await tasks.stop(list(self._running))


async def pieces(request: Request) -> AsyncIterator[bytes]:
    """Yield a request's body.

    :raises ClientDisconnect: when the browser is gone, or sends nothing for a long time
    """
    body = request.stream()
    while True:
        try:
            async with asyncio.timeout(STALL_SECONDS):
                piece = await anext(body)
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            raise ClientDisconnect from error
        if piece:
            yield piece


class Download(Response):
    """Streams what an iterator yields. Where it fails the connection is cut, so that the browser says so.

    :param opened: what to close at the end, on every path
    """

    def __init__(
        self, contents: AsyncGenerator[bytes, None], headers: Mapping[str, str], transfers: Transfers, member: Member,
        opened: contextlib.AsyncExitStack,
    ) -> None:  # fmt: skip
        super().__init__(None, 200, headers)
        if "content-length" not in headers:
            del self.headers["content-length"]
        self._contents, self._transfers, self._member, self._opened = contents, transfers, member, opened

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve it (Starlette calls this)."""
        async with self._opened:
            gone = tasks.start(_gone(receive), name="download-watch", guard=False)
            work = tasks.start(self._transfers.run(self._member, self._serve(send)), name="download", guard=False)
            try:
                await asyncio.wait({gone, work}, return_when=asyncio.FIRST_COMPLETED)
                if work.done():
                    work.result()
            except (Away, Refused, TimeoutError, Ended) as error:
                log.info("a download was cut: %s", str(error) or type(error).__name__)
            finally:
                await tasks.stop([gone, work])

    async def _serve(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with contextlib.aclosing(self._contents) as contents:
            async for piece in contents:
                async with asyncio.timeout(STALL_SECONDS):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
