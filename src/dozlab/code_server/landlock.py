"""Landlock: a process gives up all files but those below a few paths, for itself and what it starts.

Used where bubblewrap may not make namespaces (a Pod). Source: landlock(7), Linux's include/uapi/linux/landlock.h.
What Landlock does not stop is stat, chmod, chown and utime of files elsewhere: contents stay unread and
unwritten, but a container that mounts the workspace alone is better.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable
from pathlib import Path

from dozlab.lib.errors import DozlabError

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same numbers on every architecture
_RULE_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
REMOVE_DIR, REMOVE_FILE, MAKE_DIR, MAKE_REG, MAKE_SYM = 1 << 4, 1 << 5, 1 << 7, 1 << 8, 1 << 12
REFER, TRUNCATE = 1 << 13, 1 << 14
READ = READ_FILE
RUN = READ_FILE | EXECUTE
FOLDER = (
    READ_FILE | WRITE_FILE | READ_DIR | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | MAKE_SYM | REFER | TRUNCATE
)
"""All that a plain file store needs: no sockets, no FIFOs, no devices, no execution."""

_libc = ctypes.CDLL(None, use_errno=True)


def abi() -> int:
    """Return the kernel's Landlock ABI version; 0 where it has none or it is switched off."""
    return max(int(_libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(1))), 0)


def ruleset(version: int) -> tuple[int, int, int]:
    """Return (file system, TCP, scope) rights to take away for an ABI version. Pure."""
    files = (1 << 13) - 1  # ABI 1
    files |= REFER if version >= 2 else 0
    files |= TRUNCATE if version >= 3 else 0
    files |= 1 << 15 if version >= 5 else 0  # ioctl on devices
    return files, 0b11 if version >= 4 else 0, 0b11 if version >= 6 else 0


def restrict(rules: Iterable[tuple[Path, int]]) -> None:
    """Take every right away from this process but those given, for ever.

    :param rules: path and the rights below it; a missing path is an error, since it is a hole in what was meant
    :raises DozlabError: when the kernel has no Landlock, or too old a one to control truncation (ABI 3, Linux 6.2)
    """
    version = abi()
    if version < 3:
        raise DozlabError(
            f"this kernel's Landlock cannot confine the workspace (ABI {version}, 3 is needed)",
            hint="run the bridge in a container of its own that mounts only the workspace",
        )
    files, net, scope = ruleset(version)
    attr = struct.pack("QQQ", files, net, scope)[: 8 if version < 4 else 16 if version < 6 else 24]
    handle = _call(_CREATE_RULESET, ctypes.c_char_p(attr), ctypes.c_size_t(len(attr)), ctypes.c_uint32(0))
    try:
        for path, rights in rules:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
            try:
                beneath = struct.pack("=Qi", rights & files, fd)
                _call(_ADD_RULE, handle, _RULE_PATH_BENEATH, ctypes.c_char_p(beneath), ctypes.c_uint32(0))
            finally:
                os.close(fd)
        _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        _call(_RESTRICT_SELF, handle, ctypes.c_uint32(0))
    finally:
        os.close(handle)


def _call(number: int, *arguments: object) -> int:
    result = int(_libc.syscall(number, *arguments))
    if result < 0:
        raise DozlabError(f"Landlock: {os.strerror(ctypes.get_errno())} (system call {number})")
    return result
