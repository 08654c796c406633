"""The initramfs archive format, written by hand: SVR4 "newc" cpio with uid 0 and exact modes. Pure.

Source: the kernel's Documentation/driver-api/early-userspace/buffer-format.rst. Archives may follow one another in an
initramfs; each starts at a multiple of four bytes (`pad`).
"""

from __future__ import annotations

import stat
from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One member. `mode` holds type and permission bits; `rdev` is (major, minor) of a device node."""

    name: str
    mode: int
    data: bytes = b""
    rdev: tuple[int, int] = (0, 0)


def directory(name: str, mode: int = 0o755) -> Entry:
    """Return a folder."""
    return Entry(name, stat.S_IFDIR | mode)


def file(name: str, data: bytes, mode: int = 0o644) -> Entry:
    """Return a regular file."""
    return Entry(name, stat.S_IFREG | mode, data)


def link(name: str, target: str) -> Entry:
    """Return a symbolic link."""
    return Entry(name, stat.S_IFLNK | 0o777, target.encode())


def node(name: str, major: int, minor: int, mode: int = 0o600) -> Entry:
    """Return a character device."""
    return Entry(name, stat.S_IFCHR | mode, rdev=(major, minor))


def pack(entries: list[Entry]) -> bytes:
    """Return the archive, trailer included, a multiple of four bytes long."""
    out = bytearray()
    for number, entry in enumerate([*entries, Entry("TRAILER!!!", 0)], start=1):
        name = entry.name.encode() + b"\0"
        links = 2 if stat.S_ISDIR(entry.mode) else 1
        fields = (
            number, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, entry.rdev[0], entry.rdev[1], len(name), 0,
        )  # fmt: skip
        out += b"070701" + "".join(f"{value:08X}" for value in fields).encode() + name
        out += bytes(-len(out) % 4)
        out += entry.data
        out += bytes(-len(out) % 4)
    return bytes(out)


def pad(data: bytes, to: int = 4) -> bytes:
    """Return data followed by zeros up to a multiple of `to` bytes, so that an archive may follow."""
    return data + bytes(-len(data) % to)


def unpack(data: bytes) -> list[Entry]:
    """Return the members of one archive, trailer excluded; what follows the trailer is left.

    :raises ValueError: when it is no newc archive or ends too early
    """
    entries: list[Entry] = []
    at = 0
    while True:
        head = data[at : at + 110]
        if len(head) < 110 or head[:6] != b"070701":
            raise ValueError(f"no newc member at byte {at}")
        mode, size, major, minor, length = (int(head[6 + 8 * index :][:8], 16) for index in (1, 6, 9, 10, 11))
        name = data[at + 110 : at + 110 + length - 1].decode()
        start = at + 110 + length
        start += -start % 4
        if name == "TRAILER!!!":
            return entries
        content = data[start : start + size]
        if len(content) < size:
            raise ValueError(f"{name} is cut short")
        entries.append(Entry(name, mode, content, (major, minor)))
        at = start + size + -size % 4
