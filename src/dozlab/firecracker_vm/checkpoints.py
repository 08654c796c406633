"""The checkpoints of one session: its machine, saved whole under a name, to go back to. Files only.

A checkpoint (memory, devices, disk) is a folder as `images.snapshots` describes it. It appears by one rename; the one
it replaces goes away afterwards, so that a crash at any moment leaves the old or the new.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from dozlab.images import snapshots
from dozlab.images.snapshots import Snapshot
from dozlab.lib.errors import DozlabError
from dozlab.lib.names import SESSION_ID
from dozlab.lib.units import format_size

DEFAULT = "checkpoint"
"""Name of one that was given none."""
SAVE_LIMIT = 330.0
"""Seconds a verb of the machine may take: more than its VMM is given to save it."""
_NEW = ".new."


def check_name(name: object) -> str:
    """Return a checkpoint's name.

    :raises DozlabError: when it is none: lower case letters, digits and dashes, at most 40 characters
    """
    if not isinstance(name, str) or not SESSION_ID.match(name):
        raise DozlabError(f"{name!r} is no name of a checkpoint", hint="use lower case letters, digits and dashes")
    return name


class Checkpoints:
    """All checkpoints below one folder, which only this session's firecracker-vm writes."""

    def __init__(self, folder: Path, limit: int) -> None:
        """:param limit: most bytes they may take together; 0: what is free"""
        self.folder = folder
        self._limit = limit

    def recover(self) -> None:
        """Clear what a killed firecracker-vm left: a half-made one goes, one without its successor comes back."""
        if not self.folder.is_dir():
            return
        for path in self.folder.glob(f"{_NEW}*"):
            shutil.rmtree(path, ignore_errors=True)
        snapshots.recover(self.folder)

    def ls(self) -> list[Snapshot]:
        """Return the whole ones, the newest first; a checkpoint's name is its folder's."""
        return snapshots.whole(self.folder)

    def find(self, name: str) -> Snapshot:
        """Return one by its name.

        :raises DozlabError: when there is none, or it is damaged
        """
        found = snapshots.load(self.folder / check_name(name))
        if found is None:
            damaged = (self.folder / name).is_dir()
            names = ", ".join(each.folder.name for each in self.ls()) or "none"
            what = f"checkpoint {name} is damaged" if damaged else f"no checkpoint {name}"
            raise DozlabError(f"{what}; there are: {names}")
        return found

    def begin(self, name: str, size: int) -> Path:
        """Return an empty folder to save into.

        :param size: bytes the checkpoint may take at most
        :raises DozlabError: when there is no room for it
        :raises OSError: the folder cannot be made
        """
        self.folder.mkdir(mode=0o700, exist_ok=True)
        self.recover()
        taken = sum(each.size for each in self.ls() if each.folder.name != name)
        room = shutil.disk_usage(self.folder).free
        if self._limit:
            room = min(room, self._limit - taken)
        if size > room:
            larger = "raise volumes.vmData.sizeLimit" if self._limit else "free some space"
            raise DozlabError(
                f"no room for the checkpoint: it may take {format_size(size)} of {format_size(max(room, 0))}",
                hint=f"remove another checkpoint, or {larger}",
            )
        made = self.folder / f"{_NEW}{name}"
        made.mkdir(mode=0o700)
        return made

    def finish(self, name: str) -> Snapshot:
        """Let what was saved into `begin`'s folder take the name.

        :raises DozlabError: when it is not whole
        """
        made, target = self.folder / f"{_NEW}{name}", self.folder / name
        if snapshots.load(made) is None:
            raise DozlabError(f"checkpoint {name} is not whole")
        snapshots.take_place(made, target)
        return self.find(name)

    def abandon(self, name: str) -> None:
        """Remove `begin`'s folder."""
        shutil.rmtree(self.folder / f"{_NEW}{name}", ignore_errors=True)

    def rm(self, name: str) -> None:
        """Remove one, damaged or not.

        :raises DozlabError: when there is none of this name
        """
        if not (self.folder / check_name(name)).is_dir():
            self.find(name)
        snapshots.discard(self.folder / name)


def shown(found: Sequence[Snapshot]) -> list[dict[str, object]]:
    """Return what the `status` verb tells of checkpoints. Pure."""
    return [{"name": each.folder.name, "created": each.created, "size": each.size} for each in found]
