"""What the documents of a container image say: index, manifest, configuration (OCI image-spec 1.1, Docker). Pure."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from dozlab.lib.errors import DozlabError

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
ACCEPT = ", ".join((OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST))
MAX_DOCUMENT = 4 << 20
"""Bytes (distribution-spec 1.1: registries should take manifests up to 4 MiB)."""

_DIGEST = re.compile(r"^sha256:[0-9a-f]{64}$")
_LAYER = re.compile(
    r"^application/vnd\.(oci\.image\.layer\.v1\.tar(\+gzip|\+zstd)?|docker\.image\.rootfs\.diff\.tar(\.gzip|\.zstd)?)$"
)
PLATFORM = "linux/amd64"


@dataclass(frozen=True)
class Blob:
    """A descriptor: `digest` as `sha256:...`, `size` in bytes."""

    digest: str
    size: int


@dataclass(frozen=True)
class Image:
    """What a manifest lists."""

    config: Blob
    layers: tuple[Blob, ...]


@dataclass(frozen=True)
class Config:
    """What of an image's configuration matters here. `diff_ids`: digests of the unpacked layers."""

    diff_ids: tuple[str, ...]
    environment: tuple[str, ...]


def document(text: bytes, where: str) -> dict[str, Any]:
    """Return a JSON object.

    :raises DozlabError: when it is none
    """
    try:
        told = json.loads(text)
    except ValueError as error:
        raise _not_understood(where) from error
    if not isinstance(told, dict):
        raise _not_understood(where)
    return told


def chosen(told: dict[str, Any], where: str) -> Blob | None:
    """Return which manifest of an index is the one for a machine; None when this is no index, but a manifest.

    :raises DozlabError: when it has none for linux/amd64, or several
    """
    if "manifests" not in told:
        return None
    try:
        found = [(_platform(each), _blob(each)) for each in told["manifests"]]
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise _not_understood(where) from error
    ours = sorted(platform for platform, _ in found if platform == PLATFORM or platform.startswith(f"{PLATFORM}/"))
    wanted = ours[0] if ours else ""  # the one without a variant, or the lowest of them
    fitting = [blob for platform, blob in found if platform == wanted]
    if not fitting:
        there = ", ".join(sorted({platform for platform, _ in found if platform != "unknown/unknown"}))
        raise DozlabError(f"{where} has nothing for {PLATFORM}, only for {there or 'no platform'}")
    if len(set(fitting)) > 1:
        raise DozlabError(f"{where} holds {len(fitting)} images", hint="make an archive of one of them")
    return fitting[0]


def image(told: dict[str, Any], where: str) -> Image:
    """Return what a manifest lists.

    :raises DozlabError: when it is not a container image's
    """
    try:
        kind = str(told.get("artifactType") or told["config"]["mediaType"])
        if kind not in (OCI_CONFIG, DOCKER_CONFIG):
            raise DozlabError(f"{where} is no container image, but {kind}")
        for layer in told["layers"]:
            if not _LAYER.match(str(layer["mediaType"])):
                raise DozlabError(f"{where} has a layer that cannot be unpacked: {layer['mediaType']}")
        return Image(_blob(told["config"]), tuple(_blob(each) for each in told["layers"]))
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise _not_understood(where) from error


def config(text: bytes, where: str) -> Config:
    """Return what an image's configuration says.

    :raises DozlabError: when it is for another platform
    """
    told = document(text, where)
    try:
        platform = f"{told.get('os') or 'linux'}/{told['architecture']}"
        if platform != PLATFORM:
            raise DozlabError(f"{where} is for {platform}; a machine is {PLATFORM}")
        environment = (told.get("config") or {}).get("Env") or []
        return Config(tuple(map(str, told["rootfs"]["diff_ids"])), tuple(map(str, environment)))
    except (TypeError, KeyError, AttributeError) as error:
        raise _not_understood(where) from error


def _platform(descriptor: dict[str, Any]) -> str:
    told = descriptor.get("platform")
    if not told:
        return ""
    variant = told.get("variant")
    return f"{told['os']}/{told['architecture']}" + (f"/{variant}" if variant else "")


def _blob(descriptor: dict[str, Any]) -> Blob:
    found = Blob(str(descriptor["digest"]), int(descriptor["size"]))
    if not _DIGEST.match(found.digest) or found.size < 0:
        raise ValueError(found.digest)
    return found


def _not_understood(where: str) -> DozlabError:
    return DozlabError(f"{where} has a document that is not understood", hint="make it anew with docker save")
