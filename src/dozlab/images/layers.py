"""A packed base image and its manifest as the two layers of a container image, which a kubelet can mount. Pure.

Each layer is an uncompressed tar of one file (POSIX.1-1988 ustar; GNU's size field from 8 GiB on, as Go and libarchive
read it). The file begins at byte 512, so that its frames can be had alone from the layer in a registry.
"""

from __future__ import annotations

import io
import tarfile

from dozlab.lib.errors import DozlabError

FILE = "image.ext4.zst"
"""The packed image, as it is called where the image is mounted."""
MANIFEST = "image.json"
"""Its manifest (`manifest.name_for(FILE)`)."""
START = tarfile.BLOCKSIZE
"""Where a layer's file begins."""


def head(name: str, size: int) -> bytes:
    """Return what stands before a file of `size` bytes in its layer. Same arguments, same bytes."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info.tobuf(tarfile.GNU_FORMAT)


def tail(size: int) -> bytes:
    """Return what stands behind it: the last block filled up, and the two empty ones that end a tar."""
    return bytes(-size % tarfile.BLOCKSIZE + 2 * tarfile.BLOCKSIZE)


def length(size: int) -> int:
    """Return the bytes of the layer that holds a file of `size` bytes."""
    return START + size + len(tail(size))


def layer(name: str, data: bytes) -> bytes:
    """Return the whole layer of a small file."""
    return head(name, len(data)) + data + tail(len(data))


def read(tar: bytes, name: str, *, where: str) -> bytes:
    """Return the file in a layer.

    :param where: how the message calls the image
    :raises DozlabError: when it holds no such file
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(tar), mode="r:") as opened:
            file = opened.extractfile(name)
            if file:
                return file.read()
    except (tarfile.TarError, KeyError) as error:
        raise DozlabError(f"{where} holds no {name}", hint="push it again") from error
    raise DozlabError(f"{where} holds no {name}", hint="push it again")
