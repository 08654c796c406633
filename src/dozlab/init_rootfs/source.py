"""Where the bytes of an image come from: HTTP(S), taken up again where it broke, or a file. Knows no formats."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dozlab.images.store import UrlRecord
from dozlab.init_rootfs.client import Auth, Client, Cut, Patience
from dozlab.init_rootfs.urls import shown
from dozlab.lib.errors import DozlabError, TransientError
from dozlab.lib.units import format_size

if TYPE_CHECKING:
    import httpx2

log = logging.getLogger(__name__)

BLOCK = 1 << 18


class NoRanges(Exception):
    """The server sends whole files only."""


@dataclass(frozen=True)
class Meta:
    """What the source said of itself. `length` of the transfer in bytes, -1 unknown."""

    etag: str = ""
    last_modified: str = ""
    length: int = -1

    @property
    def told(self) -> bool:
        """Tell whether there is some validator at all."""
        return bool(self.etag or self.last_modified)

    def same(self, record: UrlRecord | Meta) -> bool:
        """Tell whether this is surely the same content as then: some validator, and nothing that differs."""
        ours, theirs = ((one.etag, one.last_modified, one.length) for one in (self, record))
        return self.told and ours == theirs

    def as_dict(self) -> dict[str, Any]:
        """Return it for a file."""
        return asdict(self)


class Source(AbstractContextManager["Source"]):
    """An opened image: `meta`, then `blocks()` once. `unchanged` means: the remembered content still holds."""

    meta: Meta
    unchanged: bool

    @abstractmethod
    def blocks(self, start: int = 0) -> Iterator[bytes]:
        """Yield the bytes from `start` on."""

    @abstractmethod
    def span(self, start: int, end: int) -> Iterator[bytes]:
        """Yield the bytes from `start` to before `end`, no fewer.

        :raises NoRanges: when they cannot be had alone
        """


class FileSource(Source):
    """A file of this machine. Its time and inode stand in for an ETag."""

    def __init__(self, path: Path, known: UrlRecord | None = None) -> None:
        try:
            self._file = path.open("rb")
            stat = path.stat()
        except OSError as error:
            raise DozlabError(f"cannot read image {path}: {error.strerror}") from error
        self.meta = Meta(f"{stat.st_dev}:{stat.st_ino}:{stat.st_mtime_ns}", "", stat.st_size)
        self.unchanged = known is not None and self.meta.same(known)
        self._path = path

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def blocks(self, start: int = 0) -> Iterator[bytes]:
        """Yield the file's bytes."""
        try:
            self._file.seek(start)
            while block := self._file.read(BLOCK):
                yield block
        except OSError as error:
            raise DozlabError(f"cannot read image {self._path}: {error.strerror}") from error

    def span(self, start: int, end: int) -> Iterator[bytes]:
        """Yield a part of the file; several threads may at once."""
        try:
            with self._path.open("rb", buffering=0) as file:
                file.seek(start)
                while start < end:
                    block = file.read(min(BLOCK, end - start))
                    if not block:
                        raise DozlabError(f"{self._path} is cut off", hint="copy or build it again")
                    start += len(block)
                    yield block
        except OSError as error:
            raise DozlabError(f"cannot read image {self._path}: {error.strerror}") from error


class HttpSource(Source):
    """One URL over HTTP. A cut connection is taken up again where it broke, if the content is surely the same.

    Nothing is sent before `begin()` or `span()`.

    :param fixed: the URL names its content (a blob in a registry): that cannot change
    """

    def __init__(self, client: Client, url: str, *, auth: Auth | None = None, fixed: Meta | None = None) -> None:
        self._client, self._url, self._auth = client, url, auth
        self.meta = fixed or Meta()
        self.unchanged = False
        self._fixed = fixed is not None
        self._response: httpx2.Response | None = None
        self._expected = 0

    def __exit__(self, *_: object) -> None:
        if self._response:
            self._response.close()

    def expect(self, length: int) -> None:
        """Give no parts of a file that has another length than its manifest says: that is of another one."""
        self._expected = length

    def begin(self, known: UrlRecord | None) -> None:
        """Ask for all of it.

        :param known: what the URL gave the last time; makes the request conditional
        :raises DozlabError: when there is nothing to be had; TransientError when a later try may work
        """
        headers = {}
        if known and known.etag:
            headers["If-None-Match"] = known.etag
        if known and known.last_modified:
            headers["If-Modified-Since"] = known.last_modified
        response = self._response = self._client.retry(lambda: self._ask(headers, 200, 304))
        self.meta = _meta(response)
        self.unchanged = known is not None and (response.status_code == 304 or self.meta.same(known))

    def blocks(self, start: int = 0) -> Iterator[bytes]:
        """Yield the body's bytes.

        :raises TransientError: when it keeps breaking off
        """
        done, patience = start, Patience(self._client.limits)
        skip = self._resume(start) if start else 0
        while True:
            assert self._response is not None
            try:
                for block in self._client.body(self._response):
                    fresh = block[skip:] if skip else block
                    skip -= len(block) - len(fresh)
                    done += len(fresh)
                    if fresh:
                        yield fresh
                if skip == 0 and (self.meta.length < 0 or done >= self.meta.length):
                    return
                raise Cut("the server ended it too early")
            except Cut as cut:
                if 0 <= self.meta.length <= done:
                    return
                fault = self._broken(done, cut)
                if not self.meta.told:
                    raise fault from cut
            self._response.close()
            patience.wait(fault, done)
            skip = self._resume(done)

    def span(self, start: int, end: int) -> Iterator[bytes]:
        """Yield a part; several threads may at once.

        :raises NoRanges: when the server does not know how
        :raises TransientError: when it keeps breaking off
        """
        done, patience = start, Patience(self._client.limits)
        while True:
            response = self._client.retry(lambda at=done: self._ask(self._range(at, end), 200, 206))  # type: ignore[misc]
            try:
                if response.status_code != 206 or not _starts_at(response, done) or self._is_other(response):
                    raise NoRanges
                for block in self._client.body(response):
                    fresh = block[: end - done]
                    done += len(fresh)
                    yield fresh
                if done >= end:
                    return
                raise Cut("the server ended it too early")
            except Cut as cut:
                fault = self._broken(done, cut)
            finally:
                response.close()
            patience.wait(fault, done)

    def _is_other(self, response: httpx2.Response) -> bool:
        told = response.headers.get("content-range", "").rpartition("/")[2]
        return bool(self._expected) and told.isdecimal() and int(told) != self._expected

    def _broken(self, done: int, cut: Cut) -> TransientError:
        return TransientError(
            f"download of {shown(self._url)} broke off after {format_size(done)}: {cut}", hint="try again"
        )

    def _range(self, start: int, end: int | None = None) -> dict[str, str]:
        headers = {"Range": f"bytes={start}-{'' if end is None else end - 1}"}
        strong = "" if self.meta.etag.startswith("W/") else self.meta.etag
        if not self._fixed and (strong or self.meta.last_modified):
            headers["If-Range"] = strong or self.meta.last_modified
        return headers

    def _resume(self, done: int) -> int:
        """Ask again from byte `done` on; return how many bytes to skip (servers without ranges send all)."""
        if self._response:
            self._response.close()
        response = self._response = self._client.retry(lambda: self._ask(self._range(done), 200, 206))
        if response.status_code == 206 and _starts_at(response, done):
            return 0
        if response.status_code == 206 or not (self._fixed or _meta(response).same(self.meta)):
            raise DozlabError(f"{shown(self._url)} has changed during the download", hint="try again")
        return done

    def _ask(self, headers: dict[str, str], *wanted: int) -> httpx2.Response:
        return self._client.get(self._url, headers, auth=self._auth, wanted=wanted)


def _starts_at(response: httpx2.Response, start: int) -> bool:
    """Tell whether a partial answer begins where it was asked to (RFC 9110, 14.4)."""
    told = response.headers.get("content-range", f"bytes {start}-")
    return str(told).replace("=", " ").startswith(f"bytes {start}-")


def _meta(response: httpx2.Response) -> Meta:
    length = response.headers.get("content-length", "")
    return Meta(
        response.headers.get("etag", ""), response.headers.get("last-modified", ""), int(length) if length else -1
    )
