"""How full the workspace is, and what the guest may still do there: the cap that keeps it from filling the disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from dozlab.lib.units import MIB

Room = Literal["free", "full", "over"]

ENTRY_COST = 4096
"""Bytes each name is charged at least, so that empty files count too (a directory block, an inode)."""
SLACK = 16 * MIB
"""How far a full workspace may still grow before even deletion is refused: see `room`."""

_DENIED: dict[Room, list[str]] = {
    "free": [],
    # Opening with truncation and deleting still work, so the guest itself can make room.
    "full": ["-P", "write,mkdir,symlink,hardlink,copy-data,setstat,fsetstat"],
    "over": ["-R"],
}


def measure(workspace: Path) -> int:
    """Return the bytes used below a folder: blocks really allocated (st_blocks), and at least `ENTRY_COST` a name.

    Links are not followed; hard links count once per name. What vanishes or may not be read while we look is skipped.
    """
    total = 0
    pending = [os.fspath(workspace)]
    while pending:
        try:
            entries = os.scandir(pending.pop())
        except OSError:
            continue
        with entries:
            for entry in entries:
                try:
                    total += max(entry.stat(follow_symlinks=False).st_blocks * 512, ENTRY_COST)
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                except OSError:
                    continue
    return total


def room(used: int, limit: int, full_at: int = 0) -> Room:
    """Return what a guest may do. Pure.

    :param used: bytes in use
    :param full_at: bytes in use when the workspace became full; 0 while it is not. Opening files cannot be denied
        without denying reading, so a guest that goes on making (empty) ones may only read once it is SLACK above that
    :returns: `free` below the limit (once full: a sixteenth below, or it would flap), `full`: only making room is
        allowed, `over`: only reading is
    """
    if used < (limit - limit // 16 if full_at else limit):
        return "free"
    return "over" if full_at and used > full_at + SLACK else "full"


def sftp_options(state: Room) -> list[str]:
    """Return the options of sftp-server(8) that enforce it. Pure."""
    return _DENIED[state]
