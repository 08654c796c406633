"""The image store of one node: base images by sha256, written once, read by every session (ARCHITECTURE.md, Store).

Every entry appears by one rename, so a reader sees it whole or not at all, and a crash leaves only files in `tmp/`,
which the next writer clears. Nothing here knows where images come from.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from dozlab.lib.errors import DozlabError
from dozlab.lib.files import Busy, locked, read_json, sync_dir, write_json

IMAGE = "image.ext4"
MANIFEST = "manifest.json"

_DIGEST = re.compile(r"^[0-9a-f]{64}$")
_PREFIX = re.compile(r"^[0-9a-f]{8,64}$")
_NAME = re.compile(r"^[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?$")
_SEGMENT = 1 << 20


@dataclass(frozen=True)
class Manifest:
    """What the store knows of an image. `size` in bytes, holes included; `created` in seconds since the epoch."""

    digest: str
    size: int
    name: str = ""
    created: float = 0.0
    packages: dict[str, str] = field(default_factory=dict)
    recipe: str = ""
    """Digest of the recipe it was built from; empty for a fetched image."""


@dataclass(frozen=True)
class UrlRecord:
    """What a URL gave the last time (RFC 9110 validators; `length` of the transfer, bytes, -1 unknown)."""

    url: str
    digest: str
    etag: str = ""
    last_modified: str = ""
    length: int = -1


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
        return _manifest(read_json(self.root / "sha256" / digest / MANIFEST))

    def by_name(self, name: str) -> Manifest | None:
        """Return the manifest that a name stands for now."""
        if not _NAME.match(name):
            return None
        raw = read_json(self.root / "names" / f"{name}.json")
        return self.get(str(raw.get("digest", ""))) if isinstance(raw, dict) else None

    def resolve(self, ref: str) -> Manifest | None:
        """Return the manifest for a name, a digest (with or without `sha256:`) or eight or more of its first digits."""
        if found := self.by_name(ref):
            return found
        prefix = ref.removeprefix("sha256:")
        if not _PREFIX.match(prefix):
            return None
        matches = [entry for entry in self.ls() if entry.digest.startswith(prefix)]
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
        entries = (self.get(path.parent.name) for path in self._folder("sha256").glob(f"*/{MANIFEST}"))
        return sorted((entry for entry in entries if entry), key=lambda entry: (-entry.created, entry.digest))

    # -- writing

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
        self, temp: Path, digest: str, *, name: str = "", packages: dict[str, str] | None = None, recipe: str = ""
    ) -> Manifest:
        """Move a finished file from `begin()` into the store; an image already there is kept and only (re)named.

        The caller has checked the digest (it saw every byte once already).

        :raises DozlabError: for a bad digest or name
        """
        if not _DIGEST.match(digest):
            raise DozlabError(f"not a sha256: {digest!r}")
        _check_name(name)
        manifest = Manifest(digest, temp.stat().st_size, name, round(time.time(), 3), packages or {}, recipe)
        with self._lock():
            known = self.get(digest)
            if known is None:
                _fsync(temp)
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
                manifest = replace(known, recipe=recipe or known.recipe)
                write_json(self.root / "sha256" / digest / MANIFEST, asdict(manifest), sync=True)
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
        _check_name(name)
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
        with self._lock():
            if user := in_use(found.digest):
                raise DozlabError(f"image {ref} is in use by {user}", hint="stop and remove that session first")
            for folder in ("names", "urls"):
                for path in self._folder(folder).glob("*.json"):
                    raw = read_json(path)
                    if isinstance(raw, dict) and raw.get("digest") == found.digest:
                        path.unlink(missing_ok=True)
            grave = Path(tempfile.mkdtemp(prefix="entry.", dir=self._writable("tmp")))
            os.rename(self.root / "sha256" / found.digest, grave / "gone")
            shutil.rmtree(grave)
        return found

    # -- what URLs gave

    def remember_url(self, record: UrlRecord) -> None:
        """Remember which image a URL gave, with its validators."""
        write_json(self._writable("urls") / f"{_url_key(record.url)}.json", asdict(record))

    def lookup_url(self, url: str) -> UrlRecord | None:
        """Return what a URL gave the last time, None when unknown or when that image is gone."""
        try:
            raw = read_json(self._folder("urls") / f"{_url_key(url)}.json")
            record = UrlRecord(**raw) if isinstance(raw, dict) else None
        except (ValueError, TypeError):
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
        with locked(self.root / "lock"):
            yield

    def _name(self, name: str, digest: str) -> None:
        write_json(self._writable("names") / f"{name}.json", {"digest": digest}, sync=True)

    def _sweep(self, folder: Path) -> None:
        """Remove what crashed writers left: unlocked files, and entries being moved while nobody holds the lock."""
        for path in folder.glob("image.*"):
            with contextlib.suppress(Busy, FileNotFoundError), locked(path, wait=False):
                if time.time() - path.stat().st_mtime > 60:
                    path.unlink()
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


def _manifest(raw: Any) -> Manifest | None:
    try:
        return Manifest(
            str(raw["digest"]), int(raw["size"]), str(raw.get("name", "")), float(raw.get("created", 0.0)),
            {str(k): str(v) for k, v in raw.get("packages", {}).items()}, str(raw.get("recipe", "")),
        )  # fmt: skip
    except (TypeError, KeyError, ValueError, AttributeError, json.JSONDecodeError):
        return None


def _check_name(name: str) -> None:
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
