"""What an ext4 superblock says (kernel documentation, filesystems/ext4/globals). Pure; reads nothing else of a disk."""

from __future__ import annotations

import struct

from dozlab.lib.errors import DozlabError
from dozlab.lib.units import format_size

SUPERBLOCK, MAGIC_AT, MAGIC = 1024, 0x438, b"\x53\xef"
HEAD = 2048
"""Bytes from the start that hold the superblock."""

_INCOMPAT_64BIT = 0x80


def check_head(head: bytes) -> int:
    """Return the size of the file system in bytes.

    :param head: the first `HEAD` bytes
    :raises DozlabError: when this is no ext4 file system, saying what it looks like instead
    """
    if len(head) < HEAD or head[MAGIC_AT : MAGIC_AT + 2] != MAGIC:
        raise DozlabError(f"not an ext4 image: {_looks_like(head)}", hint="the base image is one ext4 file system")
    blocks, log_size = (struct.unpack_from("<I", head, SUPERBLOCK + at)[0] for at in (0x04, 0x18))
    if struct.unpack_from("<I", head, SUPERBLOCK + 0x60)[0] & _INCOMPAT_64BIT:
        blocks |= struct.unpack_from("<I", head, SUPERBLOCK + 0x150)[0] << 32
    if log_size > 6:
        raise DozlabError("not an ext4 image: its superblock is damaged")
    return int(blocks << (10 + log_size))


def free_space(head: bytes) -> int:
    """Return the bytes that files may still take, root's reserve left out, as of the last clean unmount.

    :param head: the first `HEAD` bytes of an ext4 file system
    """
    wide = struct.unpack_from("<I", head, SUPERBLOCK + 0x60)[0] & _INCOMPAT_64BIT
    counts = []
    for low, high in ((0x0C, 0x158), (0x08, 0x154)):  # free blocks, reserved blocks
        count = struct.unpack_from("<I", head, SUPERBLOCK + low)[0]
        counts.append(count | (struct.unpack_from("<I", head, SUPERBLOCK + high)[0] << 32 if wide else 0))
    log_size = struct.unpack_from("<I", head, SUPERBLOCK + 0x18)[0]
    return max(0, int(counts[0] - counts[1]) << (10 + int(log_size)))


def check_size(head: bytes, size: int) -> None:
    """Check that all of the file system is there.

    :raises DozlabError: when the file has fewer bytes than the file system
    """
    wanted = check_head(head)
    if size < wanted:
        raise DozlabError(
            f"the image is cut off: its file system has {format_size(wanted)}, the file {format_size(size)}",
            hint="download or build it again",
        )


def _looks_like(head: bytes) -> str:
    start = head[:64].lstrip().lower()
    if not head:
        return "it is empty"
    if start.startswith((b"<!doctype", b"<html")):
        return "it is a web page"
    if head[510:512] == b"\x55\xaa":
        return "it has a partition table"
    if head.startswith(b"QFI\xfb"):
        return "it is a qcow2 disk"
    if head.startswith(b"hsqs"):
        return "it is a squashfs"
    if head[257:262] == b"ustar":
        return "it is a tar archive"
    return "no ext4 superblock in it"
