"""The base image: found in the store, or fetched into it in one pass (read, unpack, check, hash, write sparsely).

Whatever happens on the way, the store holds the whole image or nothing of it, and no temporary file stays.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import itertools
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dozlab.images.store import IMAGE, Store, UrlRecord
from dozlab.init_rootfs import ext4
from dozlab.init_rootfs.progress import Progress
from dozlab.init_rootfs.settings import Settings
from dozlab.init_rootfs.source import BACK_OFF, Source, local_path, open_source, shown
from dozlab.init_rootfs.unpack import MAGIC_SIZE, detect, unpack, unpacked_size
from dozlab.lib.errors import DozlabError, TransientError
from dozlab.lib.units import format_size

log = logging.getLogger(__name__)

_PIECE = 1 << 16  # bytes: zeros of this size become holes
_ZEROS = bytes(_PIECE)


@dataclass(frozen=True)
class Base:
    """The base image of this session. `how`, for people: where it came from."""

    path: Path
    digest: str
    how: str


def base(settings: Settings, report: Callable[[str], None], back_off: tuple[float, ...] = BACK_OFF) -> Base:
    """Return the base image, fetching it when the store lacks it.

    :param report: gets a line of progress at most once a second
    :raises DozlabError: one line per cause; nothing is left behind
    """
    if settings.image_path and settings.image_path.exists():
        return _as_it_is(settings.image_path, settings.image_sha256)
    store = Store(settings.kernels_dir)
    if settings.image_sha256 and store.get(settings.image_sha256):
        return _stored(store, settings.image_sha256, "from the store")
    if not settings.image_url:
        wanted = settings.image_sha256[:12] or settings.image_path
        raise DozlabError(f"no image {wanted} here, and no IMAGE_DOWNLOAD_URL to get it from")
    path = local_path(settings.image_url)
    if path and (own := _own(store, path)):
        _compare(own, settings.image_sha256)
        return _stored(store, own, "from the store")
    key = record_key(settings.image_url)
    with _alone(settings.kernels_dir, key):
        if settings.image_sha256 and store.get(settings.image_sha256):  # another session fetched it meanwhile
            return _stored(store, settings.image_sha256, "from the store")
        return _fetch(settings, store, key, report, back_off)


def record_key(url: str) -> str:
    """Return the name under which the store remembers a URL: no password, no token, yet told apart by its query."""
    query = url.partition("?")[2]
    return shown(url) + (f"?{hashlib.sha256(query.encode()).hexdigest()[:16]}" if query else "")


def _fetch(
    settings: Settings, store: Store, key: str, report: Callable[[str], None], back_off: tuple[float, ...]
) -> Base:
    known = None if settings.image_sha256 else store.lookup_url(key)
    try:
        source = open_source(settings.image_url, known, back_off)
    except TransientError as error:
        if known is None:
            raise
        log.warning("%s; using the image it gave the last time", error.message)
        return _stored(store, known.digest, "from the store, its source is out of reach")
    with source:
        if source.unchanged and known:
            return _stored(store, known.digest, "from the store, unchanged at its source")
        digest = _receive(settings, store, source, report)
        meta = source.meta
        store.remember_url(UrlRecord(key, digest, meta.etag, meta.last_modified, meta.length))
    return _stored(store, digest, f"from {shown(settings.image_url)}")


def _receive(settings: Settings, store: Store, source: Source, report: Callable[[str], None]) -> str:
    """Bring the source's bytes into the store and return their digest."""
    progress = Progress(source.meta.length, report)
    blocks = progress.watch(source.blocks())
    head = b""
    for block in blocks:
        head += block
        if len(head) >= ext4.HEAD:
            break
    kind = detect(head)
    if kind == "plain":
        ext4.check_head(head)
    expected = unpacked_size(head[:MAGIC_SIZE]) or (source.meta.length if kind == "plain" else -1)
    limit = settings.kernels_limit
    if limit and expected > limit:
        raise _too_large(expected, limit, settings.kernels_dir)
    try:
        with store.begin() as temp:
            free = _free(settings.kernels_dir)
            if max(expected, source.meta.length) > free:
                raise _too_large(max(expected, source.meta.length), free, settings.kernels_dir)
            digest = _write(unpack(itertools.chain([head], blocks), kind), temp, limit)
            _compare(digest, settings.image_sha256)
            report(progress.line())
            store.commit(temp, digest)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DozlabError(
                f"the disk of {settings.kernels_dir} became full after {format_size(progress.done)} of the image",
                hint="free some space (dozlab image ls), or give volumes.kernels more",
            ) from error
        raise DozlabError(f"cannot write to {settings.kernels_dir}: {error.strerror}") from error
    return digest


def _write(chunks: Iterator[bytes], temp: Path, limit: int) -> str:
    """Write the image with holes for zeros, checking it as soon and as far as possible; return its sha256."""
    digest, size, head = hashlib.sha256(), 0, b""
    checked = False
    with temp.open("r+b", buffering=0) as file:
        for chunk in chunks:
            digest.update(chunk)
            if len(head) < ext4.HEAD:
                head += chunk[: ext4.HEAD - len(head)]
            if not checked and len(head) == ext4.HEAD:
                ext4.check_head(head)
                checked = True
            _write_sparse(file.fileno(), chunk, size)
            size += len(chunk)
            if limit and size > limit:
                raise _too_large(size, limit, temp.parent.parent)
        ext4.check_size(head, size)
        file.truncate(size)
        os.fsync(file.fileno())
    return digest.hexdigest()


def _write_sparse(fd: int, chunk: bytes, at: int) -> None:
    """Write all but pieces of zeros; pieces that are not zero and touch are written at once."""
    view, start, here = memoryview(chunk), 0, 0
    while here < len(chunk):
        end = min(here + _PIECE, len(chunk))
        if chunk[here] == 0 and view[here:end] == _ZEROS[: end - here]:
            _write_all(fd, view[start:here], at + start)
            start = end
        here = end
    _write_all(fd, view[start:], at + start)


def _write_all(fd: int, data: memoryview, at: int) -> None:
    while data:
        written = os.pwrite(fd, data, at)
        data, at = data[written:], at + written


def _stored(store: Store, digest: str, how: str) -> Base:
    return Base(store.path(digest), digest, how)


def _own(store: Store, path: Path) -> str | None:
    """Return the digest when a path is an image of this very store."""
    path = path.resolve()
    digest = path.parent.name
    return digest if path.name == IMAGE and store.get(digest) and path == store.path(digest).resolve() else None


def _as_it_is(path: Path, sha256: str) -> Base:
    """Take IMAGE_PATH: not copied, not read but for its superblock, which stands in for a missing digest."""
    try:
        with path.open("rb") as file:
            head = file.read(2 * ext4.HEAD)
            size = file.seek(0, os.SEEK_END)
    except OSError as error:
        raise DozlabError(f"cannot read image {path}: {error.strerror}") from error
    ext4.check_size(head, size)
    stand_in = "sb-" + hashlib.sha256(head + str(size).encode()).hexdigest()[:61]
    return Base(path.resolve(), sha256 or stand_in, "as it is")


def _compare(digest: str, wanted: str) -> None:
    if wanted and digest != wanted:
        raise DozlabError(
            f"the image's sha256 is {digest}, wanted is {wanted}", hint="correct rootfs.sha256 or rootfs.imageUrl"
        )


def _free(folder: Path) -> int:
    stat = os.statvfs(folder)
    return stat.f_bavail * stat.f_frsize


def _too_large(size: int, room: int, folder: Path) -> DozlabError:
    return DozlabError(
        f"the image needs {format_size(size)}, {folder} has room for {format_size(room)}",
        hint="free some space (dozlab image ls), or give volumes.kernels more",
    )


@contextlib.contextmanager
def _alone(folder: Path, key: str) -> Iterator[None]:
    """Let one process of the node at a time fetch a URL; a lock on one byte of one file, so that nothing piles up."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fd = os.open(folder / "fetch.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise DozlabError(f"cannot write to {folder}: {error.strerror}") from error
    byte = int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) >> 1
    try:
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except (BlockingIOError, PermissionError):  # fcntl(2): EAGAIN or EACCES
            log.info("another session is fetching this image: waiting for it")
            fcntl.lockf(fd, fcntl.LOCK_EX, 1, byte)
        yield
    finally:
        os.close(fd)
