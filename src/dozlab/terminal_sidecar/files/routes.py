"""The guest's files for the page: list, download, upload. SFTP is spoken in `sftp`; here is what people are told."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import shlex
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Coroutine
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from dozlab.lib import tasks
from dozlab.terminal_sidecar.auth import Member
from dozlab.terminal_sidecar.files import packets as p
from dozlab.terminal_sidecar.files import paths
from dozlab.terminal_sidecar.files.sftp import ANSWER_SECONDS, NO_SERVER, Refused, Sftp
from dozlab.terminal_sidecar.files.transfers import Download, Ended, TooMany, Transfers, pieces
from dozlab.terminal_sidecar.guest import Guest
from dozlab.terminal_sidecar.pipe import Away, Pipe, Still

log = logging.getLogger(__name__)

MOST_ENTRIES = 2000
"""Names shown of one folder."""
_MOST_LINKS = 256
"""Links of one folder that are followed, to see whether they lead to a folder."""
_MOST_SIZELESS = 16 << 20
"""Bytes given of a file that says it has none (those of /proc), which may never end."""
_MOST_LEFT = 64
"""Unfinished uploads remembered, to be removed when the guest is back."""
_TEMPORARY = b".dozlab-upload-"
_KEPT_MODE, _NEW_MODE = 0o777, 0o644
_PAUSED = "the machine is paused: let it go on first"
_REQUEST_REFUSED = "Session request failed"
"""What asyncssh says where sshd has no such subsystem; too many sessions have other words."""

Guard = Callable[..., Member | Response]


class Problem(Exception):
    """A request that cannot be done: HTTP status, a word for the page, and a line for people."""

    def __init__(self, status: int, kind: str, text: str) -> None:
        super().__init__(text)
        self.status, self.kind, self.text = status, kind, text


class Files:
    """Routes below `files`. `guard` is Sidecar.guard."""

    def __init__(self, guest: Guest, guard: Guard) -> None:
        self._guest, self._guard = guest, guard
        self._transfers = Transfers()
        self._sftp: Sftp | None = None
        self._opening = asyncio.Lock()
        self._left: list[bytes] = []
        self._tidying: set[asyncio.Task[None]] = set()
        guest.on_change(self._guest_changed)

    def routes(self) -> list[BaseRoute]:
        """Return what to serve."""
        return [
            Route("/files", self._route(self.show, post=False)),
            Route("/files/content", self._route(self.download, post=False)),
            Route("/files/content", self._route(self.upload), methods=["PUT"]),
            Route("/files/check", self._route(self.check), methods=["POST"]),
            Route("/files/archive", self._route(self.archive, post=False)),
            Route("/files/folder", self._route(self.make_folder), methods=["POST"]),
        ]

    def _route(
        self, handle: Callable[[Request, Member], Coroutine[Any, Any, Response]], *, post: bool = True
    ) -> Callable[[Request], Awaitable[Response]]:
        async def served(request: Request) -> Response:
            member = self._guard(request, need="types", post=post)  # a viewer sees terminals, not every file of root
            if isinstance(member, Response):
                return member
            try:
                if request.method == "PUT":  # a transfer waits for a machine that stands still meanwhile
                    return await handle(request, member)
                return await self._guest.unless_still(handle(request, member))
            except ClientDisconnect:
                return Response(status_code=400)  # nobody reads it
            except (Problem, Still, Away, TimeoutError, Refused, TooMany, Ended, paths.BadPath) as error:
                fault = _problem(error)
                # An answer to a body that was not read ends the connection: the rest is not waited for.
                close = {"Connection": "close"} if request.method == "PUT" else {}
                return JSONResponse({"error": fault.text, "kind": fault.kind}, fault.status, close)

        return served

    async def drop(self, keys: Collection[str]) -> None:
        """Shut members (`Member.key`) out: their transfers end."""
        await self._transfers.drop(keys)

    async def drain(self) -> None:
        """Stop all transfers; what they had begun in the guest is removed."""
        await self._transfers.drain()
        if self._tidying:
            await asyncio.wait(self._tidying, timeout=2.0)

    async def close(self) -> None:
        """End the file session."""
        await tasks.stop(self._tidying)
        if self._sftp is not None:
            self._sftp.close()

    async def _session(self) -> Sftp:
        if self._guest.still:
            raise Still
        async with self._opening:
            if self._sftp is None or self._sftp.closed:
                try:
                    pipe = await self._guest.subsystem("sftp")
                except Away as error:
                    if str(error) != _REQUEST_REFUSED:
                        raise
                    raise Away(NO_SERVER) from error
                made = Sftp(pipe, self._guest.patiently)
                await made.start()
                self._sftp = made
            return self._sftp

    # --- list

    async def show(self, request: Request, member: Member) -> Response:
        """Answer with a folder's entries; without a path with those of the user's home."""
        sftp = await self._session()
        asked = paths.parameters(request.scope["query_string"]).get("path", b"")
        path = await sftp.realpath(paths.absolute(asked) if asked else b".")
        if not (await sftp.stat(path)).folder:
            raise Problem(400, "file", "this is a file, not a folder")
        found, more = await sftp.names(path, MOST_ENTRIES)
        entries = await self._entries(sftp, path, found)
        body = {
            "path": paths.quoted(path), "crumbs": paths.crumbs(path), "entries": entries, "more": more,
            "free": await sftp.free(path),
        }  # fmt: skip
        return JSONResponse(body, headers={"Cache-Control": "no-store"})

    @staticmethod
    async def _entries(sftp: Sftp, folder: bytes, found: list[tuple[bytes, p.Attributes]]) -> list[dict[str, Any]]:
        links = [name for name, attributes in found if attributes.link][:_MOST_LINKS]
        targets = dict(zip(links, await asyncio.gather(*(_target(sftp, folder, name) for name in links)), strict=True))
        entries: list[dict[str, Any]] = []
        for name, own in found:
            what = targets.get(name) or own
            entries.append({
                "name": paths.shown(name), "path": paths.quoted(paths.join(folder, name)),
                "kind": "folder" if what.folder else "file" if what.file else "other", "link": own.link,
                "size": what.size, "time": own.mtime,
            })  # fmt: skip
        entries.sort(key=lambda each: (each["kind"] != "folder", each["name"].casefold(), each["name"]))
        return entries

    # --- out of the guest

    async def download(self, request: Request, member: Member) -> Response:
        """Stream a file; HEAD and `check=1` only tell whether that is possible."""
        asked = paths.parameters(request.scope["query_string"])
        path = paths.absolute(asked.get("path", b""))
        async with contextlib.AsyncExitStack() as opened:
            opened.enter_context(self._transfers.slot(member))
            sftp = await self._session()
            kind = await sftp.stat(path)  # opening a FIFO would block the guest's SFTP server
            if kind.folder:
                raise Problem(409, "folder", "this is a folder: take it as an archive")
            if not kind.file:
                raise Problem(409, "other", "this is no ordinary file")
            handle, now = await opened.enter_async_context(sftp.reading(path))
            if request.method == "HEAD" or asked.get("check") == b"1":
                return Response(status_code=204)
            headers = _headers(paths.disposition(path.rpartition(b"/")[2]))
            if now.size:
                headers["content-length"] = str(now.size)
            log.info("a file of %d bytes is downloaded by %s", now.size, member.id)
            contents = sftp.contents(handle, now.size) if now.size else _until_end(sftp, handle)
            return Download(contents, headers, self._transfers, member, opened.pop_all())
        raise AssertionError

    async def archive(self, request: Request, member: Member) -> Response:
        """Stream a folder as a tar archive, made by the guest's own tar."""
        asked = paths.parameters(request.scope["query_string"])
        async with contextlib.AsyncExitStack() as opened:
            opened.enter_context(self._transfers.slot(member))
            sftp = await self._session()
            path = await sftp.realpath(paths.absolute(asked.get("path", b"")))
            if not (await sftp.stat(path)).folder:
                raise Problem(400, "file", "this is a file, not a folder")
            folder, name = paths.split(path) if path != b"/" else (b"/", b".")
            try:
                words = [word.decode() for word in (folder, name)]
            except UnicodeDecodeError as error:
                raise Problem(400, "other", "this folder's name is not UTF-8, which tar cannot be told here") from error
            pipe = await self._guest.command(f"tar -cf - -C {shlex.quote(words[0])} -- {shlex.quote(words[1])}")
            opened.callback(pipe.close)
            first = await self._guest.patiently(pipe.read(p.MOST_DATA), ANSWER_SECONDS)
            if not first:
                raise Problem(503, "other", "the machine made no archive: its image lacks tar, or it may not be read")
            if asked.get("check") == b"1":
                return Response(status_code=204)
            log.info("a folder is downloaded by %s", member.id)
            headers = _headers(paths.disposition((name if path != b"/" else b"machine") + b".tar"))
            return Download(self._archived(pipe, first), headers, self._transfers, member, opened.pop_all())
        raise AssertionError

    async def _archived(self, pipe: Pipe, first: bytes) -> AsyncGenerator[bytes, None]:
        piece = first
        while piece:
            yield piece
            piece = await pipe.read(p.MOST_DATA)
        status = await self._guest.patiently(pipe.status(), ANSWER_SECONDS)
        if status not in (0, 1):  # 1: a file changed while it was read (GNU tar)
            raise Away("tar ended with an error")

    # --- into the guest

    async def check(self, request: Request, member: Member) -> Response:
        """Tell whether an upload of so many bytes would be taken: 204, or what PUT would say."""
        asked = paths.parameters(request.scope["query_string"])
        sftp = await self._session()
        target, folder, _ = await self._target_of(sftp, asked, _size(asked.get("size", b"")))
        temporary = await self._begin(sftp, folder, target)
        await sftp.remove(temporary)
        return Response(status_code=204)

    async def upload(self, request: Request, member: Member) -> Response:
        """Take a file: written beside its place under another name, and renamed when it is whole."""
        asked = paths.parameters(request.scope["query_string"])
        size = _size(request.headers.get("content-length", "").encode())
        with self._transfers.slot(member):
            await self._transfers.run(member, self._take(request, asked, size))
        log.info("a file of %s bytes was uploaded by %s", size, member.id)
        return Response(status_code=204)

    async def _take(self, request: Request, asked: dict[str, bytes], size: int | None) -> None:
        sftp = await self._session()
        target, folder, old = await self._target_of(sftp, asked, size)
        temporary = paths.join(folder, _TEMPORARY + secrets.token_hex(8).encode())
        try:
            async with sftp.writing(temporary) as writer:
                async for piece in pieces(request):
                    await writer.add(piece)
                await writer.finish()
            await sftp.set(temporary, p.mode(_NEW_MODE if old is None else old.mode & _KEPT_MODE))
            if old is not None:
                with contextlib.suppress(Refused):  # another user's file, where we are not root
                    await sftp.set(temporary, p.owner(old.uid, old.gid))
            await self._put_in_place(sftp, temporary, target, replace=asked.get("overwrite") == b"1")
        except BaseException as error:
            self._tidy(temporary)
            if isinstance(error, Refused):
                raise await self._refusal(sftp, error, folder, size) from error
            raise

    async def _target_of(
        self, sftp: Sftp, asked: dict[str, bytes], size: int | None
    ) -> tuple[bytes, bytes, p.Attributes | None]:
        """Return where an upload goes, its folder, and what is there.

        :raises Problem: when it cannot go there
        """
        folder, name = paths.split(asked.get("path", b""))
        try:
            folder = await sftp.realpath(folder)
            if not (await sftp.stat(folder)).folder:
                raise Problem(409, "missing", "the folder it should go to is a file")
        except Refused as refused:
            if refused.code == p.NO_SUCH_FILE:
                raise Problem(404, "missing", "the folder it should go to does not exist") from refused
            raise
        target = paths.join(folder, name)
        old = await _there(sftp, target)
        if old is not None and old.link:  # a link stays one: what it leads to is written
            target = await sftp.realpath(target)
            folder, _ = paths.split(target)
            old = await _there(sftp, target)
        if old is not None and old.folder:
            raise Problem(409, "folder", "there is a folder of this name")
        if old is not None and not old.file:
            raise Problem(409, "other", "there is something of this name that is no ordinary file")
        if old is not None and asked.get("overwrite") != b"1":
            raise Problem(409, "exists", "there is a file of this name")
        free = await sftp.free(folder)
        if size is not None and free is not None and size > free:
            raise _no_space(free)
        return target, folder, old

    async def _begin(self, sftp: Sftp, folder: bytes, target: bytes) -> bytes:
        temporary = paths.join(folder, _TEMPORARY + secrets.token_hex(8).encode())
        try:
            async with sftp.writing(temporary):
                pass
        except Refused as refused:
            raise await self._refusal(sftp, refused, folder, None) from refused
        return temporary

    @staticmethod
    async def _put_in_place(sftp: Sftp, temporary: bytes, target: bytes, *, replace: bool) -> None:
        try:
            await sftp.rename(temporary, target, replace=replace)
        except Refused as refused:
            if not replace and await _there(sftp, target) is not None:  # somebody else was quicker
                raise Problem(409, "exists", "there is a file of this name") from refused
            raise

    @staticmethod
    async def _refusal(sftp: Sftp, refused: Refused, folder: bytes, size: int | None) -> Problem:
        """Return why a write failed: version 3 of the protocol has no word for a full disk."""
        if refused.code == p.PERMISSION_DENIED:
            return Problem(403, "permission", "the machine does not let this user write into that folder")
        free = await sftp.free(folder) if refused.code == p.FAILURE and not sftp.closed else None
        if free is not None and free < (size or 1):
            return _no_space(free)
        return _problem(refused)

    def _tidy(self, temporary: bytes) -> None:
        """Remove an unfinished upload, now or when the guest is back."""

        async def remove() -> None:
            try:
                await (await self._session()).remove(temporary)
            except Refused:
                pass  # it was not made, or is gone with the disk's former state
            except (Still, Away):
                self._left = [*self._left, temporary][-_MOST_LEFT:]

        task = tasks.start(remove(), name="upload-tidy")
        self._tidying.add(task)
        task.add_done_callback(self._tidying.discard)

    def _guest_changed(self) -> None:
        if self._guest.state == "live":
            left, self._left = self._left, []
            for temporary in left:
                self._tidy(temporary)

    async def make_folder(self, request: Request, member: Member) -> Response:
        """Make a folder; one that is there already is as good."""
        path = paths.absolute(paths.parameters(request.scope["query_string"]).get("path", b""))
        folder, _ = paths.split(path)
        sftp = await self._session()
        there = await _there(sftp, path, follow=True)
        if there is not None:
            if there.folder:
                return Response(status_code=204)
            raise Problem(409, "exists", "there is a file of this name")
        try:
            await sftp.mkdir(path)
        except Refused as refused:
            raise await self._refusal(sftp, refused, folder, None) from refused
        return Response(status_code=204)


async def _target(sftp: Sftp, folder: bytes, name: bytes) -> p.Attributes | None:
    return await _there(sftp, paths.join(folder, name), follow=True)


async def _there(sftp: Sftp, path: bytes, *, follow: bool = False) -> p.Attributes | None:
    """Return what is known of a path, None when nothing is there."""
    try:
        return await sftp.stat(path, follow=follow)
    except Refused as refused:
        if refused.code in (p.NO_SUCH_FILE, p.PERMISSION_DENIED, p.FAILURE):
            return None
        raise


async def _until_end(sftp: Sftp, handle: bytes) -> AsyncGenerator[bytes, None]:
    """Yield a file whose size is not known, one read after the other."""
    offset = 0
    while offset < _MOST_SIZELESS and (data := await sftp.read(handle, offset, p.MOST_DATA)):
        offset += len(data)
        yield data


def _headers(disposition: str) -> dict[str, str]:
    return {
        "content-type": "application/octet-stream",
        "content-disposition": disposition,
        "cache-control": "no-store",
        "content-security-policy": "sandbox; default-src 'none'; frame-ancestors 'none'",
    }


def _size(text: bytes) -> int | None:
    return int(text) if text.isdigit() and len(text) < 20 else None


def _no_space(free: int) -> Problem:
    return Problem(507, "space", f"no space left on the machine's disk ({free >> 20} MiB are free)")


def _problem(error: Exception) -> Problem:
    """Return what to tell of an error."""
    match error:
        case Problem():
            return error
        case Still():
            return Problem(409, "paused", _PAUSED)
        case Away():
            return Problem(503, "away", str(error))
        case TimeoutError():
            return Problem(503, "away", "the machine does not answer")
        case TooMany():
            return Problem(429, "busy", "four of your transfers are under way: wait until one has ended")
        case Ended():
            return Problem(503, "away", "it was ended: the terminal restarts, or you were logged out")
        case Refused(code=p.NO_SUCH_FILE):
            return Problem(404, "missing", "there is no such file")
        case Refused(code=p.PERMISSION_DENIED):
            return Problem(403, "permission", "the machine does not let this user do that")
        case Refused():
            return Problem(409, "refused", "the machine refused: is the folder read-only, or the name too long?")
        case _:
            return Problem(400, "path", str(error))
