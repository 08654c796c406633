"""Prepared snapshots of one node: booted guests, saved once, read by every session that fits (ARCHITECTURE.md, Store).

An entry is a folder that appears by one rename; `snapshot.json` in it tells what it needs of a session and a machine. A
snapshot whose needs differ in anything is no snapshot: guests would crash in ways nobody could explain.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from dozlab.lib.errors import DozlabError
from dozlab.lib.files import allocated, locked, read_json, sync_dir, write_json
from dozlab.lib.units import GIB

STATE = "state"
MEMORY = "memory"
"""The guest's memory, where the VMM keeps it in a file of its own (Firecracker maps it)."""
DISK = "disk.ext4"
TOKEN = "token"  # noqa: S105  (a file's name)
DESCRIPTION = "snapshot.json"
_OLD, _GONE = ".old.", ".gone."
"""Before the name of one that is being replaced, or removed."""
SIZE_LIMIT = 8 * GIB
"""Most that all snapshots of a store take together, unless told: some twenty of dozlab-vm, 0.3 to 0.4 GiB each."""
_MOST = 1 << 20
"""Bytes a description may have; it has some hundred."""
FORMAT = 1
"""Raise it when an older snapshot could no longer be adopted."""

Needs = dict[str, str | int]

WORDS = {
    "base": "image",
    "kit": "boot kit",
    "vmm": "VMM",
    "binary": "build of the VMM",
    "accel": "accelerator",
    "cpu": "CPU",
    "cpus": "number of vCPUs",
    "memory": "memory in MiB",
    "disk": "size of the session disk",
    "cmdline": "network settings",
    "paths": "place of the disks",
}
"""Need -> what people call it."""


class Unfit(DozlabError):
    """No snapshot can be used; the message says why."""


class Unprepared(Unfit):
    """Nobody has prepared this image: nothing is wrong."""


@dataclass(frozen=True)
class Snapshot:
    """One prepared snapshot. `size`: bytes on disk; `created`: seconds since the epoch."""

    folder: Path
    needs: Needs
    created: float
    size: int

    @property
    def state(self) -> Path:
        """Return the VMM's state, memory included."""
        return self.folder / STATE

    @property
    def disk(self) -> Path:
        """Return the session disk of that moment."""
        return self.folder / DISK

    @property
    def token(self) -> str:
        """Return the one-time key of adoption."""
        return (self.folder / TOKEN).read_text().strip()


def key(needs: Needs) -> str:
    """Return the name of a snapshot: a digest over all it needs. Pure."""
    return hashlib.sha256(json.dumps({**needs, "format": FORMAT}, sort_keys=True).encode()).hexdigest()[:32]


def difference(needs: Needs, others: list[Needs], *, what: str = "prepared snapshot") -> str:
    """Return in one line why none of the others fits: the nearest one and what is different about it. Pure."""
    same_base = [other for other in others if other.get("base") == needs.get("base")]
    if not same_base:
        return "no snapshot of this image has been prepared"

    def faults(other: Needs) -> list[str]:
        return [name for name in sorted({*needs, *other}) if needs.get(name) != other.get(name)]

    nearest = min(same_base, key=lambda other: len(faults(other)))
    name, *more = faults(nearest) or ["format"]
    words = f"the {what} is for another {WORDS.get(name, name)}"
    values = [str(each.get(name, "none")) for each in (nearest, needs)]
    if all(len(value) <= 40 for value in values):
        words += f" ({values[0]}, not {values[1]})"
    return words + (f" and differs in {len(more)} more" if more else "")


class Snapshots:
    """All snapshots below one folder. Reading needs no lock and no write access."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, needs: Needs) -> Snapshot:
        """Return the snapshot for exactly these needs.

        :raises Unfit: when there is none, or it is damaged
        """
        name = key(needs)
        # While one takes the place of another, or was killed at it, the old one is there under this name.
        folder = next((each for each in (self.folder / name, self.folder / f"{_OLD}{name}") if each.is_dir()), None)
        if folder is None:
            others = [each.needs for each in self.ls()]
            known = any(other.get("base") == needs.get("base") for other in others)
            raise (Unfit if known else Unprepared)(difference(needs, others))
        found = load(folder)
        if found is None or found.needs != needs:
            raise Unfit(f"the prepared snapshot {folder.name} is damaged")
        return found

    def ls(self) -> list[Snapshot]:
        """Return every whole snapshot, the newest first."""
        return whole(self.folder)

    def add(self, made: Path) -> Snapshot:
        """Take over a folder that `describe` has finished, on the same file system; it replaces one of the same needs.

        :raises DozlabError: when it is not whole
        """
        found = load(made)
        if found is None:
            raise DozlabError(f"{made} holds no whole snapshot")
        self.folder.mkdir(parents=True, exist_ok=True)
        target = self.folder / key(found.needs)
        with locked(self.folder / ".lock"):
            recover(self.folder)
            take_place(made, target)
        return Snapshot(target, found.needs, found.created, found.size)

    def recover(self) -> None:
        """Mend what a killed `add` or `rm` has left."""
        if self.folder.is_dir():
            with locked(self.folder / ".lock"):
                recover(self.folder)

    def rm(self, snapshot: Snapshot) -> None:
        """Remove one; sessions that run from it are not disturbed."""
        with locked(self.folder / ".lock"):
            discard(snapshot.folder)

    def sweep(self) -> int:
        """Remove what is no whole snapshot any more, or of an older form; return its bytes."""
        if not self.folder.is_dir():
            return 0
        freed = 0
        with locked(self.folder / ".lock"):
            recover(self.folder)
            for path in _entries(self.folder):
                if load(path) is None:
                    freed += sum(allocated(each) for each in path.rglob("*") if each.is_file())
                    discard(path)
        return freed

    def limit(self, size: int) -> list[Snapshot]:
        """Remove the oldest until the rest has at most `size` bytes, but never the newest; return what went.

        What is damaged goes as well: nobody would count it.
        """
        self.sweep()
        gone, total = [], 0
        for number, each in enumerate(self.ls()):
            total += each.size
            if number and total > size:
                self.rm(each)
                gone.append(each)
        return gone


def whole(folder: Path) -> list[Snapshot]:
    """Return every whole snapshot below a folder, the newest first; names that begin with a point are none."""
    if not folder.is_dir():
        return []
    found = [load(path) for path in _entries(folder)]
    return sorted((each for each in found if each), key=lambda each: (-each.created, each.folder.name))


def _entries(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]


def take_place(made: Path, target: Path) -> None:
    """Let a finished folder take a name on the same file system; a kill at any moment leaves the old one or the new."""
    for path in made.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    if target.exists():
        target.rename(target.with_name(f"{_OLD}{target.name}"))
    made.rename(target)
    sync_dir(target.parent)
    recover(target.parent)


def discard(folder: Path) -> None:
    """Remove a snapshot: its name first."""
    gone = folder.with_name(f"{_GONE}{folder.name}")
    shutil.rmtree(gone, ignore_errors=True)  # left by one that was killed here
    with contextlib.suppress(FileNotFoundError):  # somebody else was at it
        folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def recover(folder: Path) -> None:
    """Clear what killed writers have left: one that was replaced comes back where its successor never came."""
    for path in folder.glob(f"{_GONE}*"):
        shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob(f"{_OLD}*"):
        target = folder / path.name.removeprefix(_OLD)
        if target.exists():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.rename(target)


def describe(folder: Path, needs: Needs) -> None:
    """Finish a snapshot's folder: what it needs, and what its files must look like."""
    names = [STATE, DISK, TOKEN, *([MEMORY] if (folder / MEMORY).exists() else [])]
    files = {name: (folder / name).stat().st_size for name in names}
    value = {"needs": needs, "files": files, "created": round(time.time(), 3), "format": FORMAT}
    write_json(folder / DESCRIPTION, value, sync=True)


def load(folder: Path) -> Snapshot | None:
    """Return the snapshot in a folder; None where it is not whole (a file is missing or of another length)."""
    try:
        facts = (folder / DESCRIPTION).lstat()  # a session's VMM can write there what it likes
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > _MOST:
            return None
        told = read_json(folder / DESCRIPTION)
        if told["format"] != FORMAT:
            return None
        if not {STATE, DISK, TOKEN} <= told["files"].keys() <= {STATE, DISK, TOKEN, MEMORY}:
            return None
        size = 0
        for name in told["files"]:
            facts = (folder / name).stat()
            if facts.st_size != told["files"][name]:
                return None
            size += facts.st_blocks * 512
        return Snapshot(folder, dict(told["needs"]), float(told["created"]), size)
    except (OSError, ValueError, TypeError, KeyError):
        return None
