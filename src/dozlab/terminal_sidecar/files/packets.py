"""SFTP version 3 on the wire (draft-ietf-secsh-filexfer-02): packets in, packets out. Pure; the server is hostile.

Written here, since asyncssh's client reads a packet of whatever length the server names (4 GiB) into memory.
"""

from __future__ import annotations

import stat
import struct
from dataclasses import dataclass

MOST_PACKET = 256 << 10
"""Bytes of the longest packet taken; OpenSSH's own limit for both sides (sftp-common.h)."""
MOST_DATA = 32 << 10
"""Bytes of one read or write: what every server takes."""

INIT, VERSION = 1, 2
OPEN, CLOSE, READ, WRITE, LSTAT, FSTAT, SETSTAT, OPENDIR, READDIR, REMOVE, MKDIR = 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14
REALPATH, STAT, RENAME, EXTENDED = 16, 17, 18, 200
STATUS, HANDLE, DATA, NAME, ATTRS, EXTENDED_REPLY = 101, 102, 103, 104, 105, 201
OK, EOF, NO_SUCH_FILE, PERMISSION_DENIED, FAILURE, BAD_MESSAGE = 0, 1, 2, 3, 4, 5
READ_FLAG, WRITE_FLAG, CREATE_FLAG, EXCLUSIVE_FLAG = 0x01, 0x02, 0x08, 0x20
_SIZE, _OWNER, _MODE, _TIMES, _EXTENDED = 0x01, 0x02, 0x04, 0x08, 0x80000000


class BadPacket(Exception):
    """The server sent what is no packet of the protocol."""


class Reader:
    """Takes a packet apart."""

    def __init__(self, packet: bytes) -> None:
        self._packet, self._at = packet, 0

    def take(self, count: int) -> bytes:
        """Return the next bytes.

        :raises BadPacket: when there are not so many
        """
        end = self._at + count
        if end > len(self._packet):
            raise BadPacket("a packet ends too early")
        found, self._at = self._packet[self._at : end], end
        return found

    def byte(self) -> int:
        """Return an unsigned 8-bit number."""
        return self.take(1)[0]

    def number(self) -> int:
        """Return an unsigned 32-bit number."""
        return int.from_bytes(self.take(4))

    def long(self) -> int:
        """Return an unsigned 64-bit number."""
        return int.from_bytes(self.take(8))

    def string(self) -> bytes:
        """Return a string with its length before it."""
        return self.take(self.number())

    @property
    def more(self) -> bool:
        """Tell whether bytes are left."""
        return self._at < len(self._packet)


def number(value: int) -> bytes:
    """Return an unsigned 32-bit number."""
    return value.to_bytes(4)


def long(value: int) -> bytes:
    """Return an unsigned 64-bit number."""
    return value.to_bytes(8)


def string(value: bytes) -> bytes:
    """Return a string with its length before it."""
    return number(len(value)) + value


def packet(kind: int, body: bytes) -> bytes:
    """Return a whole packet."""
    return number(1 + len(body)) + bytes([kind]) + body


@dataclass(frozen=True)
class Attributes:
    """What is known of a file; what the server does not say is 0."""

    size: int = 0
    mode: int = 0
    """Type and permission bits, as in stat(2)."""
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    """Seconds since the epoch."""

    @property
    def folder(self) -> bool:
        """Tell whether it is a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def file(self) -> bool:
        """Tell whether it is a regular file."""
        return stat.S_ISREG(self.mode)

    @property
    def link(self) -> bool:
        """Tell whether it is a symbolic link."""
        return stat.S_ISLNK(self.mode)


def attributes(reader: Reader) -> Attributes:
    """Read file attributes.

    :raises BadPacket: when they are none
    """
    flags = reader.number()
    size = reader.long() if flags & _SIZE else 0
    uid, gid = (reader.number(), reader.number()) if flags & _OWNER else (0, 0)
    mode = reader.number() if flags & _MODE else 0
    mtime = struct.unpack(">II", reader.take(8))[1] if flags & _TIMES else 0
    if flags & _EXTENDED:
        for _ in range(reader.number()):
            reader.string()
            reader.string()
    return Attributes(size, mode, uid, gid, mtime)


def mode(bits: int) -> bytes:
    """Return attributes that set permissions alone."""
    return number(_MODE) + number(bits)


def owner(uid: int, gid: int) -> bytes:
    """Return attributes that set the owner alone."""
    return number(_OWNER) + number(uid) + number(gid)


NOTHING = number(0)
"""Attributes that set nothing."""


def names(reader: Reader) -> list[tuple[bytes, Attributes]]:
    """Read the names of a NAME packet (READDIR, REALPATH).

    :raises BadPacket: when it holds none
    """
    found = []
    for _ in range(reader.number()):
        name = reader.string()
        reader.string()  # as `ls -l` would show it
        found.append((name, attributes(reader)))
    return found


def extensions(reader: Reader) -> frozenset[bytes]:
    """Read the names of the extensions behind a VERSION packet's number."""
    found = set()
    while reader.more:
        found.add(reader.string())
        reader.string()
    return frozenset(found)


def free_bytes(reader: Reader) -> int:
    """Read a reply to statvfs@openssh.com (OpenSSH PROTOCOL, 4.4): what is free to an ordinary user."""
    _, fragment, _, _, available = (reader.long() for _ in range(5))
    return fragment * available
