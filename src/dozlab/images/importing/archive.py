"""What lies in a folder or a file: an OCI layout, what `docker save` writes, or a root file system's tar.

Nothing is unpacked here but an archive that is compressed as a whole. Sources: OCI image-spec 1.1, image-layout.md;
Docker's image specification 1.2 and 1.3 (`manifest.json`).
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import stat
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dozlab.images import ext4
from dozlab.images.importing import documents
from dozlab.images.importing.documents import MAX_DOCUMENT, Blob
from dozlab.images.importing.streams import Part, Tap, compression, unpacked
from dozlab.lib.errors import BadUsage, DozlabError
from dozlab.lib.units import format_size

_ROOT = {"bin", "boot", "etc", "home", "lib", "opt", "root", "sbin", "srv", "usr", "var"}
"""Names at the top of a root file system, and of no archive of images."""
_DOCUMENTS = ("manifest.json", "index.json")
_HOPS = 5
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Layer:
    """One tar, `size` bytes from `offset` of a file on, perhaps compressed.

    `digest` is of these bytes, `diff_id` of the unpacked ones; empty where nobody has told it.
    """

    path: str
    offset: int
    size: int
    digest: str = ""
    diff_id: str = ""
    whiteouts: bool = True


@dataclass(frozen=True)
class Contents:
    """What is to be unpacked, lowest layer first. `kind` is for people; `environment`: NAME=VALUE each."""

    kind: str
    layers: tuple[Layer, ...]
    environment: tuple[str, ...] = ()


@dataclass(frozen=True)
class _File:
    path: str
    offset: int
    size: int


Find = Callable[[str], _File | None]


def read(source: Path, spool: Path, most: int) -> Contents:
    """Return what a source holds.

    :param spool: where a compressed archive is unpacked, at most `most` bytes
    :raises BadUsage: when it is nothing of the kind
    :raises DozlabError: when it is damaged, or not for a machine
    """
    if source.is_dir():
        return _of(_folder(source), str(source)) or _no_archive(source, "has neither index.json nor manifest.json")
    try:
        with source.open("rb") as file:
            head = file.read(ext4.HEAD)
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise BadUsage(f"cannot read {source}: {error.strerror}") from error
    if head[ext4.MAGIC_AT : ext4.MAGIC_AT + 2] == ext4.MAGIC:
        raise BadUsage(f"{source} is a base image already; take it with: dozlab image pull {source} --name NAME")
    path = source
    if compression(head):
        size, path = _unpack(source, size, spool, most), spool
    index = _index(path, source)
    if index is None:
        return Contents("root file system", (Layer(str(path), 0, size, whiteouts=False),))
    return _of(index.get, str(source)) or _no_archive(source, "holds neither a container image nor a system")


def _unpack(source: Path, size: int, spool: Path, most: int) -> int:
    with source.open("rb") as file, spool.open("wb") as out:
        stream = Tap(unpacked(Part(file, 0, size)), hashed=False, most=most)
        while block := stream.read(_BLOCK):
            out.write(block)
    return stream.size


def _index(path: Path, source: Path) -> dict[str, _File] | None:
    """Return where each file of an archive lies; None when it is a root file system's tar."""
    found: dict[str, _File] = {}
    links: dict[str, str] = {}
    try:
        with tarfile.open(path, "r:", encoding="utf-8", errors="surrogateescape") as tar:
            for member in tar:
                name = posixpath.normpath(member.name)
                if name.lstrip("/").split("/")[0] in _ROOT:
                    return None
                if member.isreg():
                    found[name] = _File(str(path), member.offset_data, member.size)
                elif member.issym():
                    links[name] = posixpath.normpath(posixpath.join(posixpath.dirname(name), member.linkname))
                elif member.islnk():
                    links[name] = posixpath.normpath(member.linkname)
    except (tarfile.TarError, ValueError, OSError) as error:
        raise BadUsage(f"{source} is no tar archive ({error})") from error
    for name, target in links.items():
        for _ in range(_HOPS):
            target = links.get(target, target)
        if target in found:
            found.setdefault(name, found[target])
    if not any(each in found for each in _DOCUMENTS):
        raise BadUsage(
            f"{source} is neither a container image's archive nor a root file system's"
            f" (it begins with {next(iter(found), 'no file')!r})"
        )
    return found


def _folder(source: Path) -> Find:
    def find(name: str) -> _File | None:
        path = source / name
        try:
            told = path.lstat()
        except OSError:
            return None
        return _File(str(path), 0, told.st_size) if stat.S_ISREG(told.st_mode) else None

    return find


def _of(find: Find, where: str) -> Contents | None:
    index = find("index.json")
    if index and find("oci-layout"):
        return _oci(find, documents.document(_text(index, where), where), where)
    saved = find("manifest.json")
    return _docker(find, _text(saved, where), where) if saved else None


def _oci(find: Find, told: dict[str, object], where: str) -> Contents:
    for _ in range(_HOPS):
        chosen = documents.chosen(told, where)
        if chosen is None:
            break
        told = documents.document(_blob_text(find, chosen, where), where)
    image = documents.image(told, where)
    config = documents.config(_blob_text(find, image.config, where), where)
    if len(config.diff_ids) != len(image.layers):
        raise DozlabError(f"{where} does not match its own configuration", hint="make it anew")
    layers = []
    for blob, diff_id in zip(image.layers, config.diff_ids, strict=True):
        file = _blob_file(find, blob, where)
        layers.append(Layer(file.path, file.offset, file.size, blob.digest, diff_id))
    return Contents("container image", tuple(layers), config.environment)


def _docker(find: Find, text: bytes, where: str) -> Contents:
    told = documents.document(b'{"images":' + text + b"}", where)["images"]
    try:
        if len(told) != 1:
            raise DozlabError(f"{where} holds {len(told)} images", hint="save one of them: docker save NAME -o FILE")
        config_name, layer_names = str(told[0]["Config"]), [str(each) for each in told[0]["Layers"]]
    except (TypeError, KeyError) as error:
        raise DozlabError(f"{where} is not understood", hint="make it with docker save") from error
    config = documents.config(_text(_named(find, config_name, where), where), where)
    files = [_named(find, name, where) for name in layer_names]
    if len(config.diff_ids) != len(files):
        raise DozlabError(f"{where} does not match its own configuration", hint="make it anew")
    layers = [
        Layer(file.path, file.offset, file.size, "", diff_id)
        for file, diff_id in zip(files, config.diff_ids, strict=True)
    ]
    return Contents("container image", tuple(layers), config.environment)


def _named(find: Find, name: str, where: str) -> _File:
    parts = name.split("/")
    file = None if name.startswith("/") or ".." in parts else find(posixpath.normpath(name))
    if file is None:
        raise DozlabError(f"{where} lacks {name}", hint="save or copy it again")
    return file


def _blob_file(find: Find, blob: Blob, where: str) -> _File:
    file = _named(find, f"blobs/{blob.digest.replace(':', '/')}", where)
    if file.size != blob.size:
        raise DozlabError(
            f"{where}: {blob.digest[:19]} has {format_size(file.size)} instead of {format_size(blob.size)}",
            hint="save or copy it again",
        )
    return file


def _blob_text(find: Find, blob: Blob, where: str) -> bytes:
    text = _text(_blob_file(find, blob, where), where)
    if f"sha256:{hashlib.sha256(text).hexdigest()}" != blob.digest:
        raise DozlabError(f"{where}: {blob.digest[:19]} has another digest", hint="save or copy it again")
    return text


def _text(file: _File, where: str) -> bytes:
    if file.size > MAX_DOCUMENT:
        raise DozlabError(f"{where} has a document of {format_size(file.size)}")
    with open(file.path, "rb") as opened:
        opened.seek(file.offset)
        return opened.read(file.size)


def _no_archive(source: Path, why: str) -> Contents:
    raise BadUsage(
        f"{source} {why}; give an OCI layout, an archive of docker save or docker export, or --dockerfile {source}"
    )
