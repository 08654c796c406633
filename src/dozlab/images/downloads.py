"""Files from the web that go into images: fetched once, held to a checksum, kept by it in `downloads/` of the cache.

The checksum is the recipe's own or a line of the list that the publisher has beside the file. A list stays as it
was read last, so that a build without a network knows what it needs. Proxies: as urllib.request takes them from the
environment. Sources: sha256sum(1) and cksum(1) for the lists, RFC 9110.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import re
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from dozlab.images.recipe import Download
from dozlab.lib.errors import DozlabError
from dozlab.lib.files import locked, write_atomic
from dozlab.lib.units import MIB, format_size

TIMEOUT = 60.0
"""Seconds without a byte until a connection is given up."""
TRIES = 3
"""A transfer that was cut is begun anew so often."""
MAX_LIST = 4 * MIB
_CHUNK = 1 << 20
_REPORT = 2.0
_LINE = re.compile(r"^(?P<hex>[0-9A-Fa-f]{64})[ \t]+[ *]?(?P<name>\S.*)$")
_TAGGED = re.compile(r"^SHA256 \((?P<name>.+)\) = (?P<hex>[0-9A-Fa-f]{64})$")
_LONE = re.compile(r"^\s*(?P<hex>[0-9A-Fa-f]{64})\s*$")

Progress = Callable[[str], None]


class Unreachable(DozlabError):
    """The address gave no file: no connection, a timeout, or a status that is an error. Not: a wrong file."""


def fetch(download: Download, folder: Path, *, progress: Progress) -> tuple[Path, str]:
    """Return the path and the sha256 of a download, from the cache where it is there and whole.

    :param folder: of the cache, made when missing
    :param progress: gets a line now and then
    :raises Unreachable: when the file or its list cannot be had
    :raises DozlabError: when what came is not what the checksum says, the list does not name it, or the disk is full
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "lock"):
        for leftover in folder.glob(".get-*"):  # of a build that was killed: we hold the lock
            leftover.unlink()
        sha256 = download.sha256 or _published(download, folder)
        if path := _whole(folder, sha256):
            return path, sha256
        for attempt in range(1, TRIES + 1):
            try:
                return _get(download.url, folder, sha256, progress), sha256
            except _Cut as error:
                if attempt == TRIES:
                    raise Unreachable(f"{download.url}: {error}") from error
                progress(f"{download.url}: {error}, once more")
    raise AssertionError("not reached")


def cached(download: Download, folder: Path) -> tuple[Path, str] | None:
    """Return what `fetch` would, from the cache alone; None where the network is needed."""
    sha256 = download.sha256
    if not sha256:
        try:
            sha256 = digest_in((folder / _list_name(download.checksums)).read_text(), download.checksum_name)
        except OSError:
            return None
    path = _whole(folder, sha256) if sha256 else None
    return (path, sha256) if path else None


def digest_in(text: str, name: str) -> str:
    """Return the sha256 that a published list has for a file, empty where it has none. Pure.

    Lines of `sha256sum` and of `sha256sum --tag` are read, and a list that is one lone digest.
    """
    if lone := _LONE.match(text):
        return lone["hex"].lower()
    for line in text.splitlines():
        found = _LINE.match(line.strip()) or _TAGGED.match(line.strip())
        if found and name in (found["name"], found["name"].rpartition("/")[2]):
            return found["hex"].lower()
    return ""


def _published(download: Download, folder: Path) -> str:
    """Return the sha256 that the publisher's list has; where it cannot be reached, the one that was read last."""
    kept = folder / _list_name(download.checksums)
    try:
        text = b"".join(_chunks(download.checksums, MAX_LIST)).decode(errors="replace")
    except (Unreachable, _Cut) as error:
        if not kept.exists():
            raise Unreachable(str(error)) from error
        text = kept.read_text()
    sha256 = digest_in(text, download.checksum_name)
    if not sha256:
        raise DozlabError(
            f"{download.checksums} has no sha256 for {download.checksum_name}",
            hint="name its line with checksum_name in the recipe",
        )
    write_atomic(kept, text)
    return sha256


def _list_name(url: str) -> str:
    return f"{hashlib.sha256(url.encode()).hexdigest()}.list"


def _whole(folder: Path, sha256: str) -> Path | None:
    """Return the cached file of that digest; one that is damaged is removed."""
    path = folder / sha256
    if not path.exists():
        return None
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() == sha256:
            return path
    path.unlink()
    return None


def _get(url: str, folder: Path, sha256: str, progress: Progress) -> Path:
    fd, temp = tempfile.mkstemp(prefix=".get-", dir=folder)
    try:
        digest = hashlib.sha256()
        with os.fdopen(fd, "wb") as out:
            for chunk in _chunks(url, 0, progress):
                digest.update(chunk)
                out.write(chunk)
            os.fchmod(out.fileno(), 0o644)
        if digest.hexdigest() != sha256:
            raise DozlabError(
                f"{url} is not the file that its checksum is of: sha256 {digest.hexdigest()}, expected {sha256}",
                hint="compare the recipe's sha256 or version with what is published",
            )
        os.rename(temp, folder / sha256)
    except OSError as error:
        raise DozlabError(f"cannot keep {url} in {folder}: {error.strerror}") from error
    finally:
        Path(temp).unlink(missing_ok=True)
    return folder / sha256


def _chunks(url: str, most: int, progress: Progress = lambda text: None) -> Iterator[bytes]:
    """Yield the body of an address.

    :param most: bytes that it may have at most, 0: any
    :raises Unreachable: when there is none
    :raises _Cut: when it ends too early
    """
    with _opened(url) as answer:
        size, done, told = int(answer.headers.get("Content-Length") or 0), 0, time.monotonic()
        while True:
            try:
                chunk = answer.read(_CHUNK)
            except (OSError, http.client.HTTPException) as error:
                raise _Cut(f"the connection was lost after {format_size(done)}") from error
            if not chunk:
                break
            done += len(chunk)
            if most and done > most:
                raise DozlabError(f"{url} is too large to be a list of checksums")
            yield chunk
            if time.monotonic() - told >= _REPORT:
                told = time.monotonic()
                progress(f"{url}: {format_size(done)}" + (f" of {format_size(size)}" if size else ""))
        if done < size:
            raise _Cut(f"the connection was lost after {format_size(done)}")


@contextlib.contextmanager
def _opened(url: str) -> Iterator[Any]:
    request = urllib.request.Request(url, headers={"User-Agent": "dozlab"})  # noqa: S310  (the recipe's parser: http, https)
    try:
        answer = urllib.request.build_opener(_Redirects).open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        raise Unreachable(f"{url}: HTTP {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        why = error.reason.strerror if isinstance(error.reason, OSError) else str(error.reason)
        raise Unreachable(f"{url}: {why or error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"{url}: {error}") from error
    with answer:
        yield answer


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from https to plain http."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """Return the next request.

        :raises Unreachable: when it would be a plain one
        """
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise Unreachable(f"{req.full_url}: redirected to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Cut(Exception):
    """A transfer ended before its end."""
