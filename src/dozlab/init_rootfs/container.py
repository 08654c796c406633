"""A container image in a registry, pulled as an OCI layout in a folder, which is what `images/importing` takes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dozlab.images.importing import documents
from dozlab.images.importing.documents import Blob
from dozlab.init_rootfs import oci
from dozlab.init_rootfs.auth import Credentials
from dozlab.init_rootfs.client import Client
from dozlab.init_rootfs.oci import Reference, Registry
from dozlab.init_rootfs.source import HttpSource, Meta
from dozlab.init_rootfs.urls import shown
from dozlab.lib.errors import DozlabError
from dozlab.lib.units import format_size

_INDEXES = 3  # an index may name another one

HUB = "docker.io"
_HUB_HOST, _HUB_LOGIN = "registry-1.docker.io", "index.docker.io"

Progress = Callable[[str], None]


def reference(url: str) -> Reference:
    """Return what an address names; Docker Hub's are written as everywhere, `oci://docker.io/debian:13`. Pure.

    :raises BadUsage: when it is none
    """
    found = oci.parse(url)
    if found.host not in (HUB, _HUB_LOGIN):
        return found
    repository = found.repository if "/" in found.repository else f"library/{found.repository}"
    return Reference(_HUB_HOST, repository, found.tag, found.digest)


def credentials(told: Credentials) -> Credentials:
    """Return the credentials with those that `docker login` keeps for Docker Hub at its registry's host. Pure."""
    if _HUB_LOGIN not in told.basic or _HUB_HOST in told.basic:
        return told
    return Credentials({**told.basic, _HUB_HOST: told.basic[_HUB_LOGIN]}, told.bearer, told.bearer_hosts)


def pull(client: Client, url: str, folder: Path, *, most: int, progress: Progress) -> None:
    """Pull the image for linux/amd64 into an empty folder; every byte is checked against its digest.

    :param most: bytes of all layers together, packed
    :param progress: called with one line per layer
    :raises DozlabError: when there is none, or it is larger
    """
    wanted = reference(url)
    registry = Registry(client, wanted)
    name = f"{wanted.host}/{wanted.repository}:{wanted.wanted}"
    text = registry.document(
        registry.manifest_url(wanted.wanted), wanted.digest, documents.MAX_DOCUMENT, documents.ACCEPT
    )
    told = documents.document(text, name)
    for _ in range(_INDEXES):
        chosen = documents.chosen(told, name)
        if chosen is None:
            break
        text = registry.document(
            registry.manifest_url(chosen.digest), chosen.digest, documents.MAX_DOCUMENT, documents.ACCEPT
        )
        told = documents.document(text, name)
    if oci.MARK in (told.get("annotations") or {}):
        raise DozlabError(f"{name} is a base image already", hint=f"take it with: dozlab image pull {shown(url)}")
    image = documents.image(told, name)
    size = sum(layer.size for layer in image.layers)
    if size > most:
        raise DozlabError(f"{name} has {format_size(size)} of layers", hint="raise --size-limit if it is right")
    blobs = folder / "blobs/sha256"
    blobs.mkdir(parents=True)
    config = registry.document(registry.blob_url(image.config.digest), image.config.digest, documents.MAX_DOCUMENT)
    documents.config(config, name)
    _write(blobs, config)
    progress(f"{name}: {len(image.layers)} layers, {format_size(size)}")
    for number, layer in enumerate(image.layers, 1):
        if not (blobs / layer.digest.removeprefix("sha256:")).exists():
            _fetch(client, registry, layer, blobs)
            progress(f"pulled layer {number} of {len(image.layers)} ({format_size(layer.size)})")
    manifest: dict[str, Any] = {
        "mediaType": documents.OCI_MANIFEST, "digest": _write(blobs, text), "size": len(text),
    }  # fmt: skip
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))


def _fetch(client: Client, registry: Registry, layer: Blob, blobs: Path) -> None:
    """Fetch one layer; a connection that is cut goes on where it broke."""
    url, digest, size = registry.blob_url(layer.digest), hashlib.sha256(), 0
    fixed = Meta(layer.digest, "", layer.size)
    path = blobs / layer.digest.removeprefix("sha256:")
    source = HttpSource(client, url, auth=registry.login, fixed=fixed)
    with source, path.open("wb") as out:
        source.begin(None)
        source.meta = fixed  # the manifest knows better than the server
        for block in source.blocks():
            digest.update(block)
            size += len(block)
            if size > layer.size:
                break
            out.write(block)
    if size != layer.size or f"sha256:{digest.hexdigest()}" != layer.digest:
        raise DozlabError(f"the registry gives another layer than {layer.digest[:19]}", hint="push the image again")


def _write(blobs: Path, text: bytes) -> str:
    digest = hashlib.sha256(text).hexdigest()
    (blobs / digest).write_bytes(text)
    return f"sha256:{digest}"
