"""A base image that is still being fetched: a file, and beside it what a later try needs to go on.

A folder `tmp/part.KEY` of the store: `image`, `state.json`, and perhaps `spool` (packed bytes that cannot be unpacked
from their middle). One process at a time has it (flock on `lock`). What was written before this boot is not believed:
after a power cut nobody knows which of it reached the disk.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dozlab.lib.errors import DozlabError, TransientError
from dozlab.lib.files import Busy, locked, read_json, write_json

PREFIX = "part."
KEEP = 24 * 3600.0
"""Seconds after its last write that a left partial download is kept for."""

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Partial:
    """One partial download. `state` is the fetcher's own, empty at first; `resumable`: worth keeping when we fail."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.image, self.spool = folder / "image", folder / "spool"
        self._file = folder / "state.json"
        self.resumable = False
        self.state: dict[str, Any] = {}

    def load(self, about: dict[str, Any]) -> bool:
        """Take up what an earlier try has left, if it was about the same and of this boot; else begin empty.

        :param about: what identifies the content
        """
        try:
            told = read_json(self._file)
        except ValueError:
            told = None
        if (
            isinstance(told, dict)
            and told.get("about") == about
            and told.get("boot") == _boot()
            and self.image.exists()
        ):
            self.state = told["state"]
            return True
        self.clear()
        return False

    def save(self, about: dict[str, Any], state: dict[str, Any]) -> None:
        """Write down how far it is. What `state` speaks of has been written before."""
        self.state = state
        write_json(self._file, {"about": about, "boot": _boot(), "state": state})

    def clear(self) -> None:
        """Begin anew with an empty file."""
        self.state = {}
        self._file.unlink(missing_ok=True)
        self.spool.unlink(missing_ok=True)
        self.image.unlink(missing_ok=True)
        self.image.touch(mode=0o644)


@contextlib.contextmanager
def opened(tmp: Path, key: str) -> Iterator[Partial]:
    """Yield the partial download of that key, alone; it is gone afterwards unless a failure left something to resume.

    :param tmp: the store's folder for what is being written
    """
    folder = tmp / f"{PREFIX}{key}"
    with _alone(folder):
        partial = Partial(folder)
        try:
            yield partial
        except BaseException as error:
            lasting = isinstance(error, (OSError, DozlabError)) and not isinstance(error, TransientError)
            if lasting or not partial.resumable:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)


def drop(tmp: Path, key: str) -> None:
    """Remove the partial download of that key, unless somebody works on it."""
    folder = tmp / f"{PREFIX}{key}"
    with contextlib.suppress(Busy, FileNotFoundError, PermissionError), locked(folder / "lock", wait=False):
        shutil.rmtree(folder, ignore_errors=True)


def sweep(tmp: Path, *, older: float = KEEP) -> int:
    """Remove partial downloads that nobody works on or has touched for `older` seconds; return the bytes they took."""
    freed = 0
    for folder in tmp.glob(f"{PREFIX}*"):
        with contextlib.suppress(Busy, FileNotFoundError, PermissionError):
            newest = max((path.stat().st_mtime for path in folder.iterdir()), default=0.0)
            if time.time() - newest < older:
                continue
            with locked(folder / "lock", wait=False):
                freed += sum(path.stat().st_blocks * 512 for path in folder.iterdir())
                shutil.rmtree(folder, ignore_errors=True)
    return freed


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock. Another one may remove the folder just before: then begin with a new one."""
    while True:
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        lock = folder / "lock"
        with contextlib.ExitStack() as stack:
            try:
                fd = stack.enter_context(locked(lock))
                if os.fstat(fd).st_ino != lock.stat().st_ino:
                    continue
            except FileNotFoundError:
                continue
            yield
            return


def _boot() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:  # no such file: nothing is believed
        return os.urandom(8).hex()
