"""Which base image a session uses: a name of the store, a URL or a file becomes (URL, digest)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dozlab import values
from dozlab.images.store import Store
from dozlab.lib.errors import DozlabError

DEFAULT_IMAGE = "dozlab-vm"


def choose(reference: str, sha256: str, store_dir: Path) -> tuple[str, str]:
    """Return (URL, sha256 or empty) for an image reference; an image of the store counts as used from now on.

    :param reference: URL, path of a file, name or digest of an image in the store; empty: the default image
    :raises DozlabError: when there is no such image, with the command that makes one
    """
    if "://" in reference:
        return reference, sha256
    path = Path(reference)
    if reference.startswith((".", "/", "~")) or os.path.isfile(reference):
        path = path.expanduser().resolve()
        if not path.is_file():
            raise DozlabError(f"no such image file: {path}")
        return path.as_uri(), sha256
    name = reference or DEFAULT_IMAGE
    entry = Store(store_dir).take(name)
    if entry is None:
        raise DozlabError(f"no image {name!r} in the store", hint=f"build it: dozlab image build {name}")
    return Store(store_dir).path(entry.digest).as_uri(), entry.digest


def with_defaults(raw: dict[str, Any], sha256: str, store_dir: Path) -> dict[str, Any]:
    """Return values with what the image is best given, where nobody has said otherwise.

    :param raw: values with the chart's names
    :param sha256: of the image; nothing is known of one that the store lacks
    """
    found = Store(store_dir).get(sha256)
    if found is None:
        return raw
    best = {name: value for name, value in (("cpuCount", found.cpus), ("memory", found.memory)) if value}
    return values.merge({"vm": best}, raw)
