"""An SFTP client over one pipe into the guest: any number of requests at a time, each bounded. Knows no routes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from typing import Protocol, TypeVar

from dozlab.lib import tasks
from dozlab.terminal_sidecar.files import packets as p
from dozlab.terminal_sidecar.pipe import Away

log = logging.getLogger(__name__)

_T = TypeVar("_T")

ANSWER_SECONDS = 30.0
"""Seconds the guest may take for one answer while it runs."""
NO_SERVER = "the machine's sshd serves no files: install openssh-sftp-server in it"
AHEAD = 8
"""Reads or writes of one transfer that are under way at a time: with MOST_DATA each, 256 KiB."""
_POSIX_RENAME, _STATVFS = b"posix-rename@openssh.com", b"statvfs@openssh.com"


class Refused(Exception):
    """The guest's SFTP server said no; `code` is SSH_FX_*."""

    def __init__(self, code: int) -> None:
        super().__init__(f"SFTP status {code}")
        self.code = code


class PipeLike(Protocol):
    """What is needed of `pipe.Pipe`."""

    async def read(self, most: int) -> bytes:
        """Return what has come, b"" at the end."""

    async def write(self, data: bytes) -> None:
        """Send, with back-pressure."""

    def close(self) -> None:
        """Close at once."""


class Patience(Protocol):
    """`Guest.patiently`."""

    def __call__(self, answer: Awaitable[_T], seconds: float) -> Awaitable[_T]:
        """Wait; the time that the guest stands still does not count."""


class Sftp:
    """One session of the protocol. After `closed` it answers nothing more: open another one."""

    def __init__(self, pipe: PipeLike, patiently: Patience) -> None:
        self._pipe, self._patiently = pipe, patiently
        self._waiting: dict[int, asyncio.Future[tuple[int, p.Reader]]] = {}
        self._next = 0
        self._buffer = b""
        self._task: asyncio.Task[None] | None = None
        self._extensions: frozenset[bytes] = frozenset()
        self.closed = False

    async def start(self) -> None:
        """Agree on version 3.

        :raises Away: when there is no SFTP server in the guest
        """
        try:
            await self._pipe.write(p.packet(p.INIT, p.number(3)))
            kind, reader = await self._patiently(self._packet(), ANSWER_SECONDS)
            if kind != p.VERSION or reader.number() < 3:
                raise p.BadPacket("no version")
            self._extensions = p.extensions(reader)
        except (p.BadPacket, TimeoutError, Away) as error:
            self.close()
            raise Away(NO_SERVER) from error
        except BaseException:
            self.close()
            raise
        self._task = tasks.start(self._answers(), name="sftp-answers")

    def close(self) -> None:
        """End it; whoever waits for an answer gets Away."""
        self.closed = True
        self._pipe.close()
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(Away("the connection to the machine is lost"))
        self._waiting.clear()

    async def _exactly(self, count: int) -> bytes:
        parts, got = [self._buffer], len(self._buffer)
        while got < count:
            data = await self._pipe.read(p.MOST_DATA)
            if not data:
                raise Away("the machine's SFTP server has ended")
            parts.append(data)
            got += len(data)
        whole = b"".join(parts)
        self._buffer = whole[count:]
        return whole[:count]

    async def _packet(self) -> tuple[int, p.Reader]:
        length = int.from_bytes(await self._exactly(4))
        if not 1 <= length <= p.MOST_PACKET:
            raise p.BadPacket(f"a packet of {length} bytes")
        reader = p.Reader(await self._exactly(length))
        return reader.byte(), reader

    async def _answers(self) -> None:
        try:
            while True:
                kind, reader = await self._packet()
                future = self._waiting.pop(reader.number(), None)
                if future is None:
                    raise p.BadPacket("an answer nobody waits for")
                if not future.done():
                    future.set_result((kind, reader))
        except (p.BadPacket, Away) as error:
            if not self.closed:
                log.info("file session with the guest ended: %s", error)
        finally:
            self.close()

    async def _ask(self, kind: int, body: bytes) -> tuple[int, p.Reader]:
        if self.closed:
            raise Away("the connection to the machine is lost")
        number, self._next = self._next, (self._next + 1) % (1 << 32)
        future = asyncio.get_running_loop().create_future()
        self._waiting[number] = future  # stays there when nobody waits any more, until the answer has come
        try:
            await self._pipe.write(p.packet(kind, p.number(number) + body))
            return await self._patiently(future, ANSWER_SECONDS)
        except TimeoutError as error:
            self.close()
            raise Away("the machine does not answer") from error

    async def _reply(self, wanted: int, kind: int, body: bytes) -> p.Reader:
        """Ask and return the answer, which must be of the kind wanted.

        :raises Refused: when the server says no
        :raises Away: when it says nothing, or nonsense
        """
        found, reader = await self._ask(kind, body)
        if found == p.STATUS:
            try:
                code = reader.number()
            except p.BadPacket as error:
                raise self._parsed(error) from error
            if code != p.OK:
                raise Refused(code)
        if found != wanted:
            self.close()
            raise Away("the machine's SFTP server answers nonsense")
        return reader

    def _parsed(self, error: p.BadPacket) -> Away:
        self.close()
        return Away(f"the machine's SFTP server answers nonsense: {error}")

    # --- names

    async def realpath(self, path: bytes) -> bytes:
        """Return the absolute path without links; `.` is the user's home."""
        reader = await self._reply(p.NAME, p.REALPATH, p.string(path))
        try:
            found = p.names(reader)
            if len(found) != 1 or not found[0][0].startswith(b"/") or b"\0" in found[0][0]:
                raise p.BadPacket("no path")
        except p.BadPacket as error:
            raise self._parsed(error) from error
        return found[0][0]

    async def stat(self, path: bytes, *, follow: bool = True) -> p.Attributes:
        """Return what is known of a file."""
        return self._attributes(await self._reply(p.ATTRS, p.STAT if follow else p.LSTAT, p.string(path)))

    def _attributes(self, reader: p.Reader) -> p.Attributes:
        try:
            return p.attributes(reader)
        except p.BadPacket as error:
            raise self._parsed(error) from error

    async def names(self, path: bytes, most: int) -> tuple[list[tuple[bytes, p.Attributes]], bool]:
        """Return what a folder holds, and whether there is more than `most`. Names that are none are left out."""
        found: list[tuple[bytes, p.Attributes]] = []
        async with self._open(p.OPENDIR, p.string(path)) as handle:
            for _ in range(most):  # an answer may hold no name at all
                try:
                    reader = await self._reply(p.NAME, p.READDIR, p.string(handle))
                except Refused as refused:
                    if refused.code == p.EOF:
                        return found, False
                    raise
                try:
                    batch = p.names(reader)
                except p.BadPacket as error:
                    raise self._parsed(error) from error
                found += [each for each in batch if each[0] not in (b"", b".", b"..") and not set(each[0]) & {0, 47}]
                if len(found) > most:
                    break
        return found[:most], True

    async def mkdir(self, path: bytes) -> None:
        """Make a folder."""
        await self._reply(p.STATUS, p.MKDIR, p.string(path) + p.NOTHING)

    async def remove(self, path: bytes) -> None:
        """Remove a file."""
        await self._reply(p.STATUS, p.REMOVE, p.string(path))

    async def rename(self, old: bytes, new: bytes, *, replace: bool) -> None:
        """Give a file another name; what has it already is replaced at once, or the server refuses."""
        names = p.string(old) + p.string(new)
        if not replace:
            await self._reply(p.STATUS, p.RENAME, names)
        elif _POSIX_RENAME in self._extensions:
            await self._reply(p.STATUS, p.EXTENDED, p.string(_POSIX_RENAME) + names)
        else:
            with contextlib.suppress(Refused):
                await self.remove(new)
            await self._reply(p.STATUS, p.RENAME, names)

    async def set(self, path: bytes, attributes: bytes) -> None:
        """Set attributes (`packets.mode`, `owner`)."""
        await self._reply(p.STATUS, p.SETSTAT, p.string(path) + attributes)

    async def free(self, path: bytes) -> int | None:
        """Return the bytes free where `path` lies; None where the server cannot say."""
        if _STATVFS not in self._extensions:
            return None
        try:
            return p.free_bytes(await self._reply(p.EXTENDED_REPLY, p.EXTENDED, p.string(_STATVFS) + p.string(path)))
        except Refused:
            return None
        except p.BadPacket as error:
            raise self._parsed(error) from error

    # --- contents

    @contextlib.asynccontextmanager
    async def _open(self, kind: int, body: bytes) -> AsyncIterator[bytes]:
        opening = tasks.start(self._handle(kind, body), name="sftp-open", guard=False)
        try:
            handle = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(self._not_wanted)
            raise
        try:
            yield handle
        finally:  # nobody waits for this: a machine that stands still answers much later
            tasks.start(self._close(handle), name="sftp-close")

    async def _handle(self, kind: int, body: bytes) -> bytes:
        reader = await self._reply(p.HANDLE, kind, body)
        try:
            handle = reader.string()
            if len(handle) > 256:
                raise p.BadPacket("a handle that is too long")
        except p.BadPacket as error:
            raise self._parsed(error) from error
        return handle

    def _not_wanted(self, opening: asyncio.Task[bytes]) -> None:
        if not opening.cancelled() and opening.exception() is None:
            tasks.start(self._close(opening.result()), name="sftp-close")

    async def _close(self, handle: bytes) -> None:
        with contextlib.suppress(Refused, Away):
            await self._reply(p.STATUS, p.CLOSE, p.string(handle))

    @contextlib.asynccontextmanager
    async def reading(self, path: bytes) -> AsyncIterator[tuple[bytes, p.Attributes]]:
        """Open a file for reading; gives its handle and what is known of it then."""
        async with self._open(p.OPEN, p.string(path) + p.number(p.READ_FLAG) + p.NOTHING) as handle:
            yield handle, self._attributes(await self._reply(p.ATTRS, p.FSTAT, p.string(handle)))

    async def contents(self, handle: bytes, size: int) -> AsyncGenerator[bytes, None]:
        """Yield `size` bytes of an open file, with at most AHEAD reads under way.

        :raises Away: when the file is shorter
        """
        reads: deque[tuple[int, asyncio.Task[bytes]]] = deque()
        asked = 0
        try:
            while asked < size or reads:
                while asked < size and len(reads) < AHEAD:
                    count = min(p.MOST_DATA, size - asked)
                    reads.append((count, tasks.start(self.read(handle, asked, count), name="sftp-read", guard=False)))
                    asked += count
                count, read = reads.popleft()
                offset = asked - count - sum(each for each, _ in reads)
                data = await read
                while len(data) < count:  # a server may give less than was asked for
                    rest = await self.read(handle, offset + len(data), count - len(data))
                    if not rest:
                        raise Away("the file became shorter meanwhile")
                    data += rest
                yield data
        finally:
            await tasks.stop(read for _, read in reads)

    async def read(self, handle: bytes, offset: int, count: int) -> bytes:
        """Return at most `count` bytes from `offset`; b"" at the end."""
        try:
            reader = await self._reply(p.DATA, p.READ, p.string(handle) + p.long(offset) + p.number(count))
            data = reader.string()
            if not 1 <= len(data) <= count:
                raise p.BadPacket("more data than was asked for, or none")
        except Refused as refused:
            if refused.code == p.EOF:
                return b""
            raise
        except p.BadPacket as error:
            raise self._parsed(error) from error
        return data

    @contextlib.asynccontextmanager
    async def writing(self, path: bytes) -> AsyncIterator[Writer]:
        """Make a file that nobody else may read yet, and give what writes to it. It must not exist."""
        flags = p.WRITE_FLAG | p.CREATE_FLAG | p.EXCLUSIVE_FLAG
        async with self._open(p.OPEN, p.string(path) + p.number(flags) + p.mode(0o600)) as handle:
            writer = Writer(self, handle)
            try:
                yield writer
            finally:
                await writer.stop()

    async def write(self, handle: bytes, offset: int, data: bytes) -> None:
        """Write at an offset."""
        await self._reply(p.STATUS, p.WRITE, p.string(handle) + p.long(offset) + p.string(data))


class Writer:
    """Writes one file from its beginning, with at most AHEAD writes under way."""

    def __init__(self, sftp: Sftp, handle: bytes) -> None:
        self._sftp, self._handle = sftp, handle
        self._writes: deque[asyncio.Task[None]] = deque()
        self.offset = 0

    async def add(self, data: bytes) -> None:
        """Write what comes next; waits when too much is under way. Raises what an earlier write failed with."""
        for start in range(0, len(data), p.MOST_DATA):
            if len(self._writes) >= AHEAD:
                await self._writes.popleft()
            part = data[start : start + p.MOST_DATA]
            write = self._sftp.write(self._handle, self.offset, part)
            self._writes.append(tasks.start(write, name="sftp-write", guard=False))
            self.offset += len(part)

    async def finish(self) -> None:
        """Wait until all is written."""
        while self._writes:
            await self._writes.popleft()

    async def stop(self) -> None:
        """Wait for no more answers."""
        await tasks.stop(self._writes)
