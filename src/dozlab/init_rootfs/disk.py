"""The session disk: a sparse ext4 file that holds all a learner changes. Made in milliseconds whatever its size.

It is made blank: the guest's initramfs makes `upper/ work/ docker/ ...` itself, as its root. (mke2fs -d would keep the
builder's uid, and sshd and dockerd refuse foreign owners.) A disk a guest has written is never mounted or edited here;
only when IMAGE_SIZE has grown is it checked and resized, offline. The base lies beside it, so any size of base will do.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from dozlab.images import ext4
from dozlab.init_rootfs.identity import give
from dozlab.init_rootfs.settings import Settings
from dozlab.lib.errors import DozlabError
from dozlab.lib.files import allocated, read_json, sync_dir, write_json
from dozlab.lib.proc import need, run
from dozlab.lib.units import format_size

_BLOCK = 4096
_SLACK = 16 << 20  # bytes: mke2fs leaves out a last block group that is too small to be of use


@dataclass(frozen=True)
class Disk:
    """The session disk. `what` was done to it: made, kept or grown; sizes in bytes."""

    path: Path
    what: str
    size: int
    room: int
    """What its own file may come to have on the volume it lies on."""
    free: int = -1
    """What the learner's files may take; -1: a guest knows, nobody here."""

    def line(self) -> str:
        """Return such as `session disk made: 4.0 GiB, 3.8 GiB free for changes`."""
        told = f"session disk {self.what}: {format_size(self.size)}"
        if self.free >= 0:
            told += f", {format_size(self.free)} free for changes"
        if self.room < self.size:
            told += f" (its volume has room for only {format_size(self.room)} of it)"
        return told


def check_base(settings: Settings, digest: str) -> None:
    """Check that an existing session disk belongs to this base: an overlay over a changed lower is undefined.

    :raises DozlabError: naming both
    """
    folder = settings.vm_data / "disk"
    if not (folder / "session.ext4").exists():
        return
    try:
        known = read_json(folder / "base.json")
        before = str(known["digest"])
    except (ValueError, TypeError, KeyError):
        before = "an unknown base"
    if before != digest:
        raise DozlabError(
            f"the session disk was made over base {before[:19]}, not over {digest[:19]}",
            hint="start the session with its old image, or remove its disk and begin anew",
        )


def prepare(settings: Settings, digest: str) -> Disk:
    """Return the session disk, made, kept or grown.

    :raises DozlabError: when it would shrink, belongs to another base, or does not fit
    """
    path = settings.vm_data / "disk" / "session.ext4"
    size = settings.disk_size // _BLOCK * _BLOCK
    check_base(settings, digest)
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        # Both are firecracker-vm's: what a reset goes back to.
        clean, checkpoints = path.with_name(f"{path.name}.clean"), path.parent / "checkpoints"
        if path.exists():
            what = _keep(path, size)
            if what == "grown" and clean.exists():
                _make(clean, size, settings.owner_uid)
            return _look(path, what)
        clean.unlink(missing_ok=True)  # of a disk that somebody has removed
        shutil.rmtree(checkpoints, ignore_errors=True)
        write_json(path.parent / "base.json", {"digest": digest}, sync=True)  # first: a disk always has its base
        _make(path, size, settings.owner_uid)
        return _look(path, "made")
    except OSError as error:
        raise DozlabError(f"cannot make the session disk {path}: {error.strerror}") from error


def _look(path: Path, what: str) -> Disk:
    stat = os.statvfs(path)
    room = stat.f_bavail * stat.f_frsize + allocated(path)
    if what == "kept":
        return Disk(path, what, path.stat().st_size, room)
    with path.open("rb") as file:
        return Disk(path, what, path.stat().st_size, room, ext4.free_space(file.read(ext4.HEAD)))


def _make(path: Path, size: int, uid: int) -> None:
    mke2fs = need("mke2fs", "e2fsprogs")
    for left in path.parent.glob(".session.*.tmp"):  # of a run that was killed
        left.unlink(missing_ok=True)
    fd, name = tempfile.mkstemp(prefix=".session.", suffix=".tmp", dir=path.parent)
    temp = Path(name)
    try:
        os.ftruncate(fd, size)
        os.close(fd)
        extended = "lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0"
        run([mke2fs, "-q", "-F", "-t", "ext4", "-b", str(_BLOCK), "-m", "1", "-L", "session", "-E", extended, temp])
        give(temp, uid)
        os.rename(temp, path)
        sync_dir(path.parent)
    finally:
        temp.unlink(missing_ok=True)


def _keep(path: Path, size: int) -> str:
    now = path.stat().st_size
    if size < now:
        raise DozlabError(
            f"the session disk has {format_size(now)} and cannot shrink to {format_size(size)}",
            hint=f"set rootfs.diskSize to {format_size(now)} or more",
        )
    with path.open("rb") as file:
        inside = ext4.check_head(file.read(ext4.HEAD))
    if size == now and inside + _SLACK > size:
        return "kept"
    check = run([need("e2fsck", "e2fsprogs"), "-f", "-p", path], timeout=600, check=False)
    if check.code > 1:  # e2fsck(8): 0 clean, 1 corrected; more needs a person
        raise DozlabError(f"the session disk is damaged and cannot grow: {check.last_line()}")
    os.truncate(path, size)
    # If this fails, the next start finds a small file system in a big file and tries again.
    run([need("resize2fs", "e2fsprogs"), path], timeout=600)
    return "grown"
