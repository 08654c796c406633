"""Which base image a session uses: a name of the store, a URL or a file becomes (URL, digest)."""

from __future__ import annotations

import os
from pathlib import Path

from dozlab.images.store import Store
from dozlab.lib.errors import DozlabError

DEFAULT_IMAGE = "dozlab-vm"


def choose(reference: str, sha256: str, store_dir: Path) -> tuple[str, str]:
    """Return (URL, sha256 or empty) for an image reference.

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
    entry = Store(store_dir).resolve(name)
    if entry is None:
        raise DozlabError(f"no image {name!r} in the store", hint=f"build it: dozlab image build {name}")
    return Store(store_dir).path(entry.digest).as_uri(), entry.digest
