"""The base image: found in the store, or fetched into it in one pass (read, check, unpack, write sparsely, hash).

Whatever happens on the way, the store holds the whole image or nothing of it; what stays is at most a partial download
that the next start goes on with.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dozlab.images import ext4, manifest
from dozlab.images.manifest import ImageManifest
from dozlab.images.partial import Partial
from dozlab.images.store import IMAGE, Store, UrlRecord
from dozlab.init_rootfs import auth, frames, oci, stream
from dozlab.init_rootfs.client import Client, Limits
from dozlab.init_rootfs.progress import Progress
from dozlab.init_rootfs.settings import Settings
from dozlab.init_rootfs.source import FileSource, HttpSource, NoRanges, Source
from dozlab.init_rootfs.stream import Room
from dozlab.init_rootfs.urls import OCI, local_path, manifest_url, record_key, scheme, shown
from dozlab.lib.errors import DozlabError, TransientError
from dozlab.lib.files import allocated
from dozlab.lib.units import format_size

log = logging.getLogger(__name__)

Report = Callable[[str], None]
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


@dataclass(frozen=True)
class Wanted:
    """An image as it is wanted: where it can be had, and what it must be. `limit`: most bytes unpacked, 0 unlimited."""

    urls: tuple[str, ...]
    sha256: str = ""
    limit: int = 0
    auth_file: Path | None = None
    ca_file: Path | None = None
    docker_dir: Path | None = None


@dataclass(frozen=True)
class Base:
    """The base image of this session. `how`, for people: where it came from. Nobody removes it until `release()`."""

    path: Path
    digest: str
    how: str
    fd: int = -1

    def release(self) -> None:
        """Say that it is no longer looked after here: the session's disk names it by now."""
        if self.fd >= 0:
            os.close(self.fd)


class Local(DozlabError):
    """Something of this machine is in the way: no other address of the image would help."""


def base(settings: Settings, report: Report, limits: Limits | None = None) -> Base:
    """Return the base image of a session, fetching it when the store lacks it.

    :param report: gets a line of progress at most once a second
    :raises DozlabError: one line per cause
    """
    if settings.image_path and settings.image_path.exists():
        return _as_it_is(settings.image_path, settings.image_sha256)
    if not settings.image_urls and not settings.image_sha256:
        raise DozlabError(f"no image {settings.image_path} here, and no IMAGE_DOWNLOAD_URL to get it from")
    wanted = Wanted(
        settings.image_urls, settings.image_sha256, settings.kernels_limit, settings.auth_file, settings.ca_file,
        settings.docker_dir,
    )  # fmt: skip
    return get(Store(settings.kernels_dir), wanted, report, limits)


def get(store: Store, wanted: Wanted, report: Report, limits: Limits | None = None) -> Base:
    """Return an image of the store, fetching it when it is not there or damaged.

    :raises DozlabError: one line per cause
    """
    again = bool(wanted.urls)
    if wanted.sha256 and (found := _take(store, wanted.sha256, "from the store", again=again)):
        return found
    if not wanted.urls:
        raise DozlabError(f"no image {wanted.sha256[:12]} here, and no IMAGE_DOWNLOAD_URL to get it from")
    path = local_path(wanted.urls[0])
    if path and (own := _own(store, path)):
        _compare(own, wanted.sha256)
        if found := _take(store, own, "from the store", again=False):
            return found
    with _alone(store.root, wanted.sha256 or record_key(wanted.urls[0])):
        if wanted.sha256 and (found := _take(store, wanted.sha256, "from the store", again=True)):
            return found  # another session fetched it meanwhile
        with contextlib.ExitStack() as stack:
            return _Fetch(store, wanted, report, limits or Limits(), stack).any()


class _Fetch:
    """One fetch from the first address that gives the image."""

    def __init__(
        self, store: Store, wanted: Wanted, report: Report, limits: Limits, stack: contextlib.ExitStack
    ) -> None:
        self._store, self._wanted, self._report, self._limits, self._stack = store, wanted, report, limits, stack
        self._made: Client | None = None
        self._begun: list[str] = []
        """Partial downloads of all addresses that were tried."""

    def any(self) -> Base:
        """Return the image from the first address that gives it, else what the first one gave the last time."""
        *others, last = self._wanted.urls
        for url in others:
            try:
                return self._one(url)
            except Local:
                raise
            except DozlabError as error:
                log.warning("%s; trying the next address", error.message)
        try:
            return self._one(last)
        except TransientError as error:
            known = None if self._wanted.sha256 else self._store.lookup_url(record_key(self._wanted.urls[0]))
            found = known and _take(self._store, known.digest, "from the store, its source is out of reach", again=True)
            if not found:
                raise
            log.warning("%s; using the image it gave the last time", error.message)
            return found

    def _client(self) -> Client:
        if self._made is None:
            credentials = auth.load(self._wanted.auth_file, self._wanted.urls, self._wanted.docker_dir)
            self._made = Client(credentials, ca_file=self._wanted.ca_file, limits=self._limits)
            self._stack.callback(self._made.close)
        return self._made

    def _one(self, url: str) -> Base:
        key = record_key(url)
        found, source = self._described(url)
        with source:
            if found:
                _compare(found.sha256, self._wanted.sha256)
                there = "from the store, unchanged at its source"
                if taken := _take(self._store, found.sha256, there, again=True):
                    return taken
                with contextlib.suppress(NoRanges):
                    self._framed(found, source)
                    self._remember(UrlRecord(key, found.sha256))
                    return self._stored(found.sha256, url)
                log.info("%s gives no parts of it: fetching all of it", shown(url))
            known = None if self._wanted.sha256 else self._store.lookup_url(key)
            self._begin(source, known)
            if known and source.unchanged:
                there = "from the store, unchanged at its source"
                if taken := _take(self._store, known.digest, there, again=True):
                    return taken
                self._begin(source, None)
            digest = self._streamed(key, source)
            meta = source.meta
            self._remember(UrlRecord(key, digest, meta.etag, meta.last_modified, meta.length))
        return self._stored(digest, url)

    def _described(self, url: str) -> tuple[ImageManifest | None, Source]:
        """Return the image's manifest, None where it has none that fits, and the source of its bytes."""
        kind = scheme(url)
        if kind == OCI:
            return oci.open_image(self._client(), url)
        beside, path = manifest_url(url), local_path(url)
        found: ImageManifest | None = None
        source: Source = HttpSource(self._client(), url) if path is None else FileSource(path)
        with contextlib.suppress(DozlabError, OSError):  # other images have none, or a file of that name is no such one
            if path is not None and beside:
                beside_path = local_path(beside)
                assert beside_path is not None
                found = manifest.parse(beside_path.read_bytes(), where=shown(beside))
                if found.length != source.meta.length:
                    found = None
            elif beside:
                text = self._client().text(beside, {}, manifest.MAX_TEXT)
                found = manifest.parse(text, where=shown(beside))
        if isinstance(source, HttpSource) and found:
            source.expect(found.length)
        return found, source

    def _begin(self, source: Source, known: UrlRecord | None) -> None:
        if isinstance(source, HttpSource):
            source.begin(known)
        else:
            source.unchanged = known is not None and source.meta.same(known)

    def _framed(self, found: ImageManifest, source: Source) -> None:
        """Fetch it frame by frame into the store."""
        progress = Progress(found.length, self._report)
        key = hashlib.sha256(repr(frames.about(found)).encode()).hexdigest()[:32]
        self._begun.append(key)
        with self._into_store(progress), self._store.partial(key) as partial:
            if self._store.get(found.sha256):  # another session fetched it, from another address
                return
            self._room(partial).check(found.size)
            digest = frames.fetch(found, source, partial, progress)
            if digest != found.sha256:
                raise DozlabError(f"the image's sha256 is {digest}, its manifest says {found.sha256}")
            with partial.image.open("rb") as image:
                ext4.check_size(image.read(ext4.HEAD), found.size)
            self._report(progress.line())
            self._store.commit(
                partial.image, digest, packages=found.packages, kernel=found.kernel, cpus=found.cpus,
                memory=found.memory, parts=found.parts,
            )  # fmt: skip

    def _streamed(self, key: str, source: Source) -> str:
        """Fetch it as one stream into the store, and return its digest."""
        progress = Progress(source.meta.length, self._report)
        name = hashlib.sha256(key.encode()).hexdigest()[:32]
        self._begun.append(name)
        with self._into_store(progress), self._store.partial(name) as partial:
            digest = stream.fetch(key, source, partial, progress, self._room(partial))
            _compare(digest, self._wanted.sha256)
            self._report(progress.line())
            self._store.commit(partial.image, digest)
        return digest

    @contextlib.contextmanager
    def _into_store(self, progress: Progress) -> Iterator[None]:
        """Tell what the disk refuses in words of ours."""
        root = self._store.root
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise Local(
                    f"the disk of {root} became full after {format_size(progress.done)} of the image",
                    hint="free some space (dozlab image gc), or give volumes.kernels more",
                ) from error
            raise Local(f"cannot write to {root}: {error.strerror}") from error

    def _room(self, partial: Partial) -> Room:
        stat = os.statvfs(self._store.root)
        there = allocated(partial.image) if partial.image.exists() else 0
        return Room(self._wanted.limit, stat.f_bavail * stat.f_frsize + there, self._too_large)

    def _too_large(self, size: int, room: int) -> DozlabError:
        return Local(
            f"the image needs {format_size(size)}, {self._store.root} has room for {format_size(room)}",
            hint="free some space (dozlab image gc), or give volumes.kernels more",
        )

    def _remember(self, record: UrlRecord) -> None:
        with contextlib.suppress(OSError):  # the image is there: it is found by its digest
            self._store.remember_url(record)

    def _stored(self, digest: str, url: str) -> Base:
        found = _take(self._store, digest, f"from {shown(url)}", again=True)
        if found is None:
            raise TransientError(
                f"image {digest[:12]} has gone from the store as soon as it was there", hint="try again"
            )
        for name in self._begun:  # what an address before this one has given is of no more use
            self._store.drop_partial(name)
        return found


def _take(store: Store, digest: str, how: str, *, again: bool) -> Base | None:
    """Return an image of the store, kept from removal; None where it is not there, or damaged and removed.

    :param again: it can be fetched again: a damaged one may go
    :raises DozlabError: when it is damaged and cannot be replaced
    """
    fd = store.hold(digest)
    if fd is None:
        return None
    fault = store.check(digest)
    if not fault:
        try:
            ext4.check_size(os.pread(fd, ext4.HEAD, 0), os.fstat(fd).st_size)
        except DozlabError as error:
            fault = error.message
    if not fault:
        store.taken(digest)
        return Base(store.path(digest), digest, how, fd)
    os.close(fd)
    if not again:
        raise DozlabError(
            f"image {digest[:12]} in the store is damaged: {fault}",
            hint="remove it (dozlab image rm) and build or fetch it again",
        )
    log.warning("image %s in the store is damaged (%s): fetching it again", digest[:12], fault)
    store.discard(digest)
    return None


def _own(store: Store, path: Path) -> str | None:
    """Return the digest when a path is an image of this very store."""
    path = path.resolve()
    digest = path.parent.name
    return digest if path.name == IMAGE and path == store.path(digest).resolve() and path.exists() else None


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


@contextlib.contextmanager
def _alone(folder: Path, key: str) -> Iterator[None]:
    """Let one process of the node at a time fetch an image; a lock on one byte of one file: nothing piles up.

    In a read-only store nobody fetches, so nobody waits.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fd = os.open(folder / "fetch.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        if error.errno not in _READ_ONLY:
            raise Local(f"cannot write to {folder}: {error.strerror}") from error
        yield
        return
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
