"""The image store of one node: base images by sha256, written once, read by every session (ARCHITECTURE.md, Store).

Every entry appears by one rename and goes by one, so a reader sees it whole or not at all, and a crash leaves only
files in `tmp/`, which the next writer clears. Who uses an image holds flock(2) on it, shared; who removes it needs it
alone. Nothing here knows where images come from.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from dozlab.images import entry
from dozlab.images import partial as partials
from dozlab.images.entry import Manifest as Manifest
from dozlab.images.entry import UrlRecord as UrlRecord
from dozlab.lib.errors import DozlabError
from dozlab.lib.files import Busy, allocated, hold, locked, read_json, sync_dir, write_json

IMAGE = "image.ext4"
MANIFEST = "manifest.json"
USED = "used"
"""A file whose time says when a session last took the image."""

_DIGEST = re.compile(r"^[0-9a-f]{64}$")
_PREFIX = re.compile(r"^[0-9a-f]{8,64}$")
_NAME = re.compile(r"^[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?$")
_SEGMENT = 1 << 20


class Store:
    """A store in one folder, made when missing. Reading needs no lock and no write access."""

    def __init__(self, root: Path) -> None:
        self.root = root

    # -- reading

    def path(self, digest: str) -> Path:
        """Return where the image of that digest lies or would lie."""
        return self.root / "sha256" / digest / IMAGE

    def get(self, digest: str) -> Manifest | None:
        """Return the manifest of that digest, None where the store lacks it."""
        if not _DIGEST.match(digest) or not self.path(digest).exists():
            return None
        return entry.read(_json(self.root / "sha256" / digest / MANIFEST))

    def by_name(self, name: str) -> Manifest | None:
        """Return the manifest that a name stands for now."""
        if not _NAME.match(name):
            return None
        raw = _json(self.root / "names" / f"{name}.json")
        return self.get(str(raw.get("digest", ""))) if isinstance(raw, dict) else None

    def resolve(self, ref: str) -> Manifest | None:
        """Return the manifest for a name, a digest (with or without `sha256:`) or eight or more of its first digits."""
        if found := self.by_name(ref):
            return found
        prefix = ref.removeprefix("sha256:")
        if not _PREFIX.match(prefix):
            return None
        matches = [each for each in self.ls() if each.digest.startswith(prefix)]
        return matches[0] if len(matches) == 1 else None

    def inspect(self, ref: str) -> Manifest:
        """Return the manifest for a name or digest.

        :raises DozlabError: when there is none, naming what there is
        """
        found = self.resolve(ref)
        if found is None:
            names = ", ".join(sorted(self.names())) or "no named image yet"
            raise DozlabError(f"no image {ref} in the store ({names})", hint="run: dozlab image ls")
        return found

    def names(self) -> dict[str, str]:
        """Return name -> digest of every name whose image is there."""
        found = {}
        for path in sorted(self._folder("names").glob("*.json")):
            if manifest := self.by_name(path.stem):
                found[path.stem] = manifest.digest
        return found

    def ls(self) -> list[Manifest]:
        """Return every image, newest first."""
        found = (self.get(path.parent.name) for path in self._folder("sha256").glob(f"*/{MANIFEST}"))
        return sorted((each for each in found if each), key=lambda each: (-each.created, each.digest))

    def hold(self, digest: str) -> int | None:
        """Keep an image from being removed; return a descriptor that does so until it is closed, None where it is gone.

        Works in a read-only store as well.
        """
        if not _DIGEST.match(digest):
            return None
        return hold(self.path(digest))

    def check(self, digest: str, *, full: bool = False) -> str:
        """Return what is wrong with an image in a few words, empty when nothing is.

        The cheap check compares length, time and blocks with those of the finished file, and reads all of it only
        when they differ: nothing may write to it. What the disk itself has lost is found by `full` alone.
        """
        found = self.get(digest)
        if found is None:
            return "it has no image or no manifest"
        try:
            stat = self.path(digest).stat()
            if stat.st_size != found.size:
                return f"it has {stat.st_size} bytes instead of {found.size}"
            touched = found.mtime_ns not in (0, stat.st_mtime_ns) or stat.st_blocks < found.blocks
            if not (full or touched):
                return ""
            if (now := sha256_file(self.path(digest))) != digest:
                return f"its sha256 is {now[:12]} instead of {digest[:12]}"
        except OSError as error:
            return f"it cannot be read: {error.strerror}"
        if touched:
            with contextlib.suppress(OSError, DozlabError), self._lock():
                told = replace(found, mtime_ns=stat.st_mtime_ns, blocks=stat.st_blocks)
                write_json(self.root / "sha256" / digest / MANIFEST, asdict(told), sync=True)
        return ""

    def used(self, digest: str) -> float:
        """Return when a session last took an image, in seconds since the epoch; when it came where none has."""
        with contextlib.suppress(FileNotFoundError):
            return (self.root / "sha256" / digest / USED).stat().st_mtime
        found = self.get(digest)
        return found.created if found else 0.0

    def taken(self, digest: str) -> None:
        """Note that a session takes an image now; nothing happens in a read-only store."""
        with contextlib.suppress(OSError):
            (self.root / "sha256" / digest / USED).touch(mode=0o644)

    def take(self, ref: str) -> Manifest | None:
        """Return what `resolve` does, noted as used: from then on `gc` spares it for a while (`gc.GRACE`)."""
        while found := self.resolve(ref):
            fd = self.hold(found.digest)
            if fd is not None:
                self.taken(found.digest)
                os.close(fd)
                return found
        return None

    # -- writing

    @contextlib.contextmanager
    def partial(self, key: str) -> Iterator[partials.Partial]:
        """Yield the partial download of that key (`partials.opened`)."""
        folder = self._writable("tmp")
        self._sweep(folder)
        with partials.opened(folder, key) as found:
            yield found

    def drop_partial(self, key: str) -> None:
        """Remove the partial download of that key: nobody needs to go on with it."""
        partials.drop(self._folder("tmp"), key)

    @contextlib.contextmanager
    def begin(self) -> Iterator[Path]:
        """Yield the path of a new, empty file in the store's own file system; it is gone afterwards unless committed.

        The file is locked (flock) meanwhile, so that a crash leaves it recognizable as nobody's.
        """
        folder = self._writable("tmp")
        self._sweep(folder)
        fd, name = tempfile.mkstemp(prefix="image.", dir=folder)
        os.close(fd)
        path = Path(name)
        try:
            with locked(path):
                yield path
        finally:
            path.unlink(missing_ok=True)

    def commit(
        self,
        temp: Path,
        digest: str,
        *,
        name: str = "",
        packages: dict[str, str] | None = None,
        recipe: str = "",
        kernel: tuple[str, ...] = (),
        cpus: int = 0,
        memory: int = 0,
        parts: tuple[entry.Part, ...] = (),
    ) -> Manifest:
        """Move a finished file from `begin()` into the store; an image already there is kept and only (re)named.

        The caller has checked the digest (it saw every byte once already). The rest is as in `Manifest`.

        :raises DozlabError: for a bad digest or name
        """
        if not _DIGEST.match(digest):
            raise DozlabError(f"not a sha256: {digest!r}")
        check_name(name)
        with self._lock():
            known = self.get(digest)
            if known is None:
                _fsync(temp)
                stat = temp.stat()
                manifest = Manifest(
                    digest, stat.st_size, name, round(time.time(), 3), packages or {}, recipe, kernel, cpus, memory,
                    stat.st_mtime_ns, stat.st_blocks, parts,
                )  # fmt: skip
                stage = Path(tempfile.mkdtemp(prefix="entry.", dir=self._writable("tmp")))
                try:
                    os.chmod(stage, 0o755)  # noqa: S103  (readable by every session)
                    os.chmod(temp, 0o444)
                    os.rename(temp, stage / IMAGE)
                    write_json(stage / MANIFEST, asdict(manifest), sync=True)
                    target = self._writable("sha256") / digest
                    shutil.rmtree(target, ignore_errors=True)  # an entry without image or manifest is no entry
                    os.rename(stage, target)
                    sync_dir(target.parent)
                finally:
                    shutil.rmtree(stage, ignore_errors=True)
            else:
                manifest = replace(
                    known, recipe=recipe or known.recipe, packages=packages or known.packages,
                    kernel=kernel or known.kernel, cpus=cpus or known.cpus, memory=memory or known.memory,
                    parts=parts or known.parts,
                )  # fmt: skip
                write_json(self.root / "sha256" / digest / MANIFEST, asdict(manifest), sync=True)
                self.taken(digest)
            if name:
                self._name(name, digest)
        return manifest

    def add_file(self, source: Path, *, name: str = "", packages: dict[str, str] | None = None) -> Manifest:
        """Copy a file into the store, hashing on the way; holes stay holes.

        :raises DozlabError: when it cannot be read or the disk is full
        """
        with self.begin() as temp:
            try:
                digest = copy_sparse(source, temp)
            except OSError as error:
                raise DozlabError(f"cannot copy {source} into {self.root}: {error.strerror}") from error
            return self.commit(temp, digest, name=name, packages=packages)

    def name(self, name: str, digest: str) -> None:
        """Let `name` stand for an image that is there.

        :raises DozlabError: for a bad name or an unknown digest
        """
        check_name(name)
        if self.get(digest) is None:
            raise DozlabError(f"no image {digest} in the store")
        with self._lock():
            self._name(name, digest)

    def rm(self, ref: str, *, in_use: Callable[[str], str] = lambda digest: "") -> Manifest:
        """Remove an image with its names and URL records.

        :param in_use: asked with the digest; returns who needs it, or an empty text
        :raises DozlabError: when it is not there or somebody needs it
        """
        found = self.inspect(ref)
        if user := self.remove(found.digest, in_use):
            raise DozlabError(f"image {ref} is in use by {user}", hint="stop and remove that session first")
        return found

    def remove(self, digest: str, in_use: Callable[[str], str]) -> str:
        """Remove an image with its names and URL records unless somebody needs it; return who does.

        The image goes first, by one rename: a name or a URL whose image is gone stands for nothing.
        """
        with self._lock():
            if user := in_use(digest):
                return user
            with contextlib.ExitStack() as stack:
                try:
                    fd = os.open(self.path(digest), os.O_RDONLY | os.O_CLOEXEC)
                    stack.callback(os.close, fd)
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return "a session that has it open"
                except OSError as error:
                    if error.errno not in (errno.ENOENT, errno.ENOLCK, errno.EOPNOTSUPP):
                        raise
                grave = self._bury(digest)
            for folder in ("names", "urls"):
                for path in self._folder(folder).glob("*.json"):
                    raw = _json(path)
                    if isinstance(raw, dict) and raw.get("digest") == digest:
                        path.unlink(missing_ok=True)
            shutil.rmtree(grave, ignore_errors=True)
        return ""

    def discard(self, digest: str) -> None:
        """Remove a damaged image, whoever uses it: what has it open keeps it, and its names wait for it to come back.

        :raises DozlabError: in a read-only store
        """
        with self._lock():
            shutil.rmtree(self._bury(digest), ignore_errors=True)

    def sweep(self, *, older: float = partials.KEEP) -> int:
        """Remove what killed writers have left, and partial downloads not touched for so many seconds; return bytes."""
        folder = self._folder("tmp")
        if not folder.is_dir():
            return 0
        self._sweep(folder)
        return partials.sweep(folder, older=older)

    def size(self, digest: str) -> int:
        """Return the bytes an image takes on its disk."""
        return allocated(self.path(digest))

    # -- what URLs gave

    def remember_url(self, record: UrlRecord) -> None:
        """Remember which image a URL gave, with its validators."""
        write_json(self._writable("urls") / f"{_url_key(record.url)}.json", asdict(record))

    def lookup_url(self, url: str) -> UrlRecord | None:
        """Return what a URL gave the last time, None when unknown or when that image is gone."""
        try:
            raw = _json(self._folder("urls") / f"{_url_key(url)}.json")
            record = UrlRecord(**raw) if isinstance(raw, dict) else None
        except TypeError:
            return None
        return record if record and record.url == url and self.get(record.digest) else None

    # -- inside

    def _folder(self, name: str) -> Path:
        return self.root / name

    def _writable(self, name: str) -> Path:
        folder = self.root / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DozlabError(f"cannot make {folder}: {error.strerror}") from error
        return folder

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        self._writable("tmp")
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(self.root / "lock"))
            except OSError as error:
                raise DozlabError(f"cannot write to {self.root}: {error.strerror}") from error
            yield

    def _bury(self, digest: str) -> Path:
        """Take an entry out of the store, and return the folder that remains to be deleted."""
        grave = Path(tempfile.mkdtemp(prefix="entry.", dir=self._writable("tmp")))
        with contextlib.suppress(FileNotFoundError):
            os.rename(self.root / "sha256" / digest, grave / "gone")
            sync_dir(self.root / "sha256")
        return grave

    def _name(self, name: str, digest: str) -> None:
        write_json(self._writable("names") / f"{name}.json", {"digest": digest}, sync=True)

    def _sweep(self, folder: Path) -> None:
        """Remove what crashed writers left: unlocked files, and entries being moved while nobody holds the lock."""
        for path in folder.glob("image.*"):
            with contextlib.suppress(Busy, FileNotFoundError), locked(path, wait=False):
                if time.time() - path.stat().st_mtime > 60:
                    path.unlink()
        partials.sweep(folder)
        with contextlib.suppress(Busy), locked(self.root / "lock", wait=False):
            for path in folder.glob("entry.*"):
                shutil.rmtree(path, ignore_errors=True)


def copy_sparse(source: Path, target: Path) -> str:
    """Copy a file leaving holes for blocks of zeros; return the sha256 of its content.

    :raises OSError: as read(2) and write(2) do
    """
    digest = hashlib.sha256()
    zeros = bytes(_SEGMENT)
    with source.open("rb") as reader, target.open("r+b") as writer:
        size = 0
        while block := reader.read(_SEGMENT):
            digest.update(block)
            if block == zeros[: len(block)]:
                writer.seek(len(block), os.SEEK_CUR)
            else:
                writer.write(block)
            size += len(block)
        writer.truncate(size)
    return digest.hexdigest()


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file's content in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _json(path: Path) -> Any:
    """Return the parsed file, None where there is none or it is damaged: then it says nothing."""
    with contextlib.suppress(ValueError):
        return read_json(path)
    return None


def check_name(name: str) -> None:
    if name and (not _NAME.match(name) or _PREFIX.match(name)):
        raise DozlabError(f"not a name for an image: {name!r}", hint="use a-z, 0-9, - and ., not a digest")


def _url_key(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
