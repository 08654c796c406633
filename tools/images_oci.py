"""OCI layouts and archives: one tar that containerd, skopeo, podman and Docker read under exactly the name we gave.

Format: opencontainers/image-spec, image-layout.md; `io.containerd.image.name` is the name containerd imports it under.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from dozlab.lib.errors import DozlabError

REF_NAME = "org.opencontainers.image.ref.name"
CONTAINERD_NAME = "io.containerd.image.name"
WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"


@dataclass(frozen=True)
class Layer:
    """One layer: its blob, the compressed size, what made it."""

    digest: str
    size: int
    media_type: str
    made_by: str


def name_in_index(index: dict[str, Any], reference: str) -> dict[str, Any]:
    """Return an index whose one image bears the reference, as every tool reads it. Pure.

    :raises DozlabError: when it holds more or fewer than one image
    """
    if len(index.get("manifests", [])) != 1:
        raise DozlabError(f"{reference}: the layout holds {len(index.get('manifests', []))} images, not one")
    (entry,) = index["manifests"]
    named = {**entry, "annotations": {REF_NAME: reference, CONTAINERD_NAME: reference}}
    return {**index, "manifests": [named]}


def pack(layout: Path, archive: Path, reference: str) -> None:
    """Make an archive from a layout, named by `reference`: whole or absent."""
    index = name_in_index(json.loads((layout / "index.json").read_text()), reference)
    archive.parent.mkdir(parents=True, exist_ok=True)
    fd, name = tempfile.mkstemp(prefix=f".{archive.name}.", dir=archive.parent)
    try:
        with os.fdopen(fd, "wb") as out, tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
            _add(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
            _add(tar, "index.json", json.dumps(index).encode())
            for blob in sorted((layout / "blobs/sha256").iterdir()):
                info = tarfile.TarInfo(f"blobs/sha256/{blob.name}")
                info.size, info.mode = blob.stat().st_size, 0o644
                with blob.open("rb") as file:
                    tar.addfile(info, file)
        os.chmod(name, 0o644)
        os.rename(name, archive)
    except BaseException:
        os.unlink(name)
        raise


class Archive:
    """A packed image, for reading. Use as a context manager."""

    def __init__(self, path: Path) -> None:
        self._tar = tarfile.open(path)  # noqa: SIM115  (closed by __exit__)
        entry = self.json("index.json")["manifests"][0]
        self.reference = str(entry["annotations"][CONTAINERD_NAME])
        self.digest = str(entry["digest"])
        self.manifest = self._blob_json(self.digest)
        self.config = self._blob_json(self.manifest["config"]["digest"])

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._tar.close()

    @property
    def size(self) -> int:
        """Return what a node downloads: bytes of the compressed layers."""
        return sum(layer.size for layer in self.layers())

    def layers(self) -> list[Layer]:
        """Return the layers, lowest first."""
        made = [str(step.get("created_by", "")) for step in self.config["history"] if not step.get("empty_layer")]
        return [
            Layer(str(each["digest"]), int(each["size"]), str(each["mediaType"]), how)
            for each, how in zip(self.manifest["layers"], made, strict=True)
        ]

    @contextlib.contextmanager
    def open(self, layer: Layer) -> Iterator[IO[bytes]]:
        """Yield the layer's tar stream, decompressed."""
        raw = self._file(layer.digest)
        if layer.media_type.endswith("gzip"):
            with gzip.open(raw) as stream:
                yield stream  # type: ignore[misc]
        elif layer.media_type.endswith("zstd"):
            import zstandard

            with zstandard.ZstdDecompressor().stream_reader(raw) as stream:
                yield stream
        else:
            yield raw

    def unpack(self, target: Path) -> None:
        """Lay the image's files out below `target`, owners and modes as they are (so: as root)."""
        target.mkdir(parents=True, exist_ok=True)
        for layer in self.layers():
            with self.open(layer) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
                for member in tar:
                    path = target / member.name
                    if path.name == OPAQUE:
                        _empty(path.parent)
                    elif path.name.startswith(WHITEOUT):
                        _remove(path.parent / path.name.removeprefix(WHITEOUT))
                    else:
                        if path.is_symlink() or not (member.isdir() and path.is_dir()):
                            _remove(path)
                        tar.extract(member, target, numeric_owner=True)

    def json(self, name: str) -> Any:
        """Return a JSON file of the archive."""
        file = self._tar.extractfile(name)
        assert file
        return json.load(file)

    def texts(self) -> bytes:
        """Return index, manifest and configuration: what the image says beside its layers."""
        return json.dumps([self.json("index.json"), self.manifest, self.config]).encode()

    def _blob_json(self, digest: str) -> Any:
        return json.load(self._file(digest))

    def _file(self, digest: str) -> IO[bytes]:
        file = self._tar.extractfile(f"blobs/{digest.replace(':', '/')}")
        assert file
        return file


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    tar.addfile(info, io.BytesIO(data))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _empty(folder: Path) -> None:
    for path in folder.iterdir() if folder.is_dir() else ():
        _remove(path)
