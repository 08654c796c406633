"""Where the bytes of an image come from: HTTP(S) with retries and resumption, or a file. Knows nothing of formats."""

from __future__ import annotations

import logging
import ssl
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit, urlunsplit

from dozlab.images.store import UrlRecord
from dozlab.lib.errors import DozlabError, TransientError
from dozlab.lib.units import format_size

if TYPE_CHECKING:
    import httpx2

log = logging.getLogger(__name__)

BLOCK = 1 << 18
MAX_REDIRECTS = 5
BACK_OFF = (0.5, 1.0, 2.0)
"""Seconds before the second, third and fourth attempt."""
_TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}
_CONNECT, _SILENCE = 10.0, 30.0  # seconds


def shown(url: str) -> str:
    """Return the URL without user, password and query: those may be secrets and go to no log."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def local_path(url: str) -> Path | None:
    """Return the path of a file:// URL or a plain path, None for http and https.

    :raises DozlabError: for any other scheme
    """
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    if scheme in ("http", "https"):
        if not parts.hostname:
            raise DozlabError(f"no host in the image URL {shown(url)}")
        return None
    if scheme == "file":
        if parts.netloc not in ("", "localhost"):
            raise DozlabError(f"file URL of another machine: {shown(url)}", hint="write file:///path")
        return Path(unquote(parts.path))
    if "://" not in url:
        return Path(url)
    raise DozlabError(f"unknown scheme {scheme}:// of the image", hint="use https://, http://, file:// or a path")


@dataclass(frozen=True)
class Meta:
    """What the source said of itself. `length` of the transfer in bytes, -1 unknown."""

    etag: str = ""
    last_modified: str = ""
    length: int = -1

    def same(self, record: UrlRecord | Meta) -> bool:
        """Tell whether this is surely the same content as then: some validator, and nothing that differs."""
        ours, theirs = ((one.etag, one.last_modified, one.length) for one in (self, record))
        return bool(self.etag or self.last_modified) and ours == theirs


class Source(AbstractContextManager["Source"]):
    """An opened image: `meta`, then `blocks()` once. `unchanged` means: the remembered content still holds."""

    def __init__(self, meta: Meta, *, unchanged: bool = False) -> None:
        self.meta = meta
        self.unchanged = unchanged
        self._stack = ExitStack()

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @abstractmethod
    def blocks(self) -> Iterator[bytes]:
        """Yield the bytes."""


class FileSource(Source):
    """A file of this machine. Its time and inode stand in for an ETag."""

    def __init__(self, path: Path, known: UrlRecord | None) -> None:
        try:
            self._file = path.open("rb")
            stat = path.stat()
        except OSError as error:
            raise DozlabError(f"cannot read image {path}: {error.strerror}") from error
        meta = Meta(f"{stat.st_dev}:{stat.st_ino}:{stat.st_mtime_ns}", "", stat.st_size)
        super().__init__(meta, unchanged=known is not None and meta.same(known))
        self._stack.enter_context(self._file)
        self._path = path

    def blocks(self) -> Iterator[bytes]:
        """Yield the file's bytes."""
        try:
            while block := self._file.read(BLOCK):
                yield block
        except OSError as error:
            raise DozlabError(f"cannot read image {self._path}: {error.strerror}") from error


class HttpSource(Source):
    """One URL over HTTP. A cut connection is taken up again where it broke, if the content is surely the same."""

    def __init__(self, url: str, known: UrlRecord | None, back_off: tuple[float, ...] = BACK_OFF) -> None:
        import httpx2

        self._httpx = httpx2
        self._url, self._back_off = url, back_off
        super().__init__(Meta())
        self._client = self._stack.enter_context(
            httpx2.Client(
                verify=ssl.create_default_context(),
                follow_redirects=True,
                max_redirects=MAX_REDIRECTS,
                timeout=httpx2.Timeout(_SILENCE, connect=_CONNECT),
                headers={"User-Agent": "dozlab", "Accept-Encoding": "identity"},
            )
        )
        try:
            headers = {}
            if known and known.etag:
                headers["If-None-Match"] = known.etag
            if known and known.last_modified:
                headers["If-Modified-Since"] = known.last_modified
            self._response = self._retry(lambda: self._open(headers))
        except BaseException:
            self._stack.close()
            raise
        self.meta = _meta(self._response)
        self.unchanged = known is not None and (self._response.status_code == 304 or self.meta.same(known))

    def blocks(self) -> Iterator[bytes]:
        """Yield the body's bytes.

        :raises TransientError: when it keeps breaking off
        """
        done, skip, failures = 0, 0, 0
        while True:
            try:
                for block in self._response.iter_raw(BLOCK):
                    fresh = block[skip:]
                    skip -= len(block) - len(fresh)
                    done += len(fresh)
                    if fresh:
                        yield fresh
                return
            except self._httpx.TransportError as error:
                fault = TransientError(
                    f"download of {shown(self._url)} broke off after {format_size(done)}: {_words(error)}",
                    hint="try again",
                )
                if failures >= len(self._back_off) or not (self.meta.etag or self.meta.last_modified):
                    raise fault from error
            log.warning("%s; going on in %.1f s", fault.message, self._back_off[failures])
            time.sleep(self._back_off[failures])
            failures += 1
            skip = self._resume(done)

    def _resume(self, done: int) -> int:
        """Ask again from byte `done` on; return how many bytes to skip (servers without ranges send all)."""
        strong = "" if self.meta.etag.startswith("W/") else self.meta.etag
        headers = {"Range": f"bytes={done}-", "If-Range": strong or self.meta.last_modified}
        self._response = self._retry(lambda: self._open(headers))
        if self._response.status_code == 206:
            return 0
        if not _meta(self._response).same(self.meta):
            raise DozlabError(f"{shown(self._url)} has changed during the download", hint="try again")
        return done

    def _open(self, headers: dict[str, str]) -> httpx2.Response:
        request = self._client.build_request("GET", self._url, headers=headers)
        try:
            response = self._client.send(request, stream=True)
        except (self._httpx.UnsupportedProtocol, self._httpx.InvalidURL) as error:
            raise DozlabError(f"cannot download {shown(self._url)}: {_words(error)}") from error
        except self._httpx.TooManyRedirects as error:
            raise DozlabError(f"{shown(self._url)} redirects more than {MAX_REDIRECTS} times") from error
        except self._httpx.TransportError as error:
            raise TransientError(f"cannot download {shown(self._url)}: {_words(error)}") from error
        self._stack.callback(response.close)
        status = response.status_code
        if status in (200, 206, 304):
            return response
        kind: type[DozlabError] = TransientError if status in _TRANSIENT_STATUS else DozlabError
        raise kind(f"cannot download {shown(self._url)}: the server says {status} {response.reason_phrase}".rstrip())

    def _retry(self, attempt: Callable[[], httpx2.Response]) -> httpx2.Response:
        for pause in self._back_off:
            try:
                return attempt()
            except TransientError as error:
                log.warning("%s; trying again in %.1f s", error.message, pause)
                time.sleep(pause)
        return attempt()


def open_source(url: str, known: UrlRecord | None, back_off: tuple[float, ...] = BACK_OFF) -> Source:
    """Open an image.

    :param known: what the URL gave the last time; makes the request conditional
    :raises DozlabError: when there is nothing to be had; TransientError when a later try may work
    """
    path = local_path(url)
    return HttpSource(url, known, back_off) if path is None else FileSource(path, known)


def _meta(response: httpx2.Response) -> Meta:
    length = response.headers.get("content-length", "")
    return Meta(
        response.headers.get("etag", ""), response.headers.get("last-modified", ""), int(length) if length else -1
    )


def _words(error: Exception) -> str:
    """Return an error's words without its errno number; the type's name where it has none."""
    text = str(error)
    return text.partition("] ")[2] or text or type(error).__name__
