"""What a snapshot needs of this machine and session, and the session disk's way into one and out of one.

A session disk is replaced by a snapshot's only while no guest has ever mounted it, and the blank one is kept beside it
until the guest is adopted: a crash in between, or a snapshot that does not work, loses nothing.
"""

from __future__ import annotations

import hashlib
import os
import struct
from pathlib import Path

from dozlab.firecracker_vm.machine import Accel, Spec
from dozlab.firecracker_vm.probe import Decision
from dozlab.images.snapshots import Needs, Snapshot, Unfit
from dozlab.lib.files import copy_sparse, read_json, sync_dir

_SUPERBLOCK = 1024
_MOUNTED = _SUPERBLOCK + 0x2C  # s_mtime: time of the last mount, 0 for a new file system
_MAGIC = _SUPERBLOCK + 0x38


def needs(decision: Decision, spec: Spec, *, base: str, kit: Path, told_kernel: bool) -> Needs:
    """Return all that must be the same for a snapshot to be of use.

    :param base: digest of the base image
    :param spec: with a command line as a guest has that is booted to be saved
    :raises Unfit: where no snapshot can be of use
    """
    if told_kernel:
        raise Unfit("KERNEL_PATH is set: snapshots are for the kit's own kernel")
    told = read_json(kit / "manifest.json")
    binary = os.stat(decision.binary)
    # Firecracker opens the disks by the names that were saved.
    places = {"paths": " ".join(str(drive.path) for drive in spec.drives)} if decision.vmm == "firecracker" else {}
    return {
        **places,
        "base": base,
        "kit": str(told["id"]) if isinstance(told, dict) else "",
        "vmm": decision.vmm,
        "binary": f"{binary.st_size} {int(binary.st_mtime)}",
        "accel": decision.accel,
        "cpu": cpu(decision.accel, Path("/proc/cpuinfo").read_text(), os.uname().release),
        "cpus": spec.cpus,
        "memory": spec.memory,
        "disk": spec.drives[-1].path.stat().st_size,
        "cmdline": spec.cmdline,
    }


def cpu(accel: Accel, cpuinfo: str, kernel: str) -> str:
    """Return what a guest sees of the processor. Pure.

    Emulated it is QEMU's own, whatever the host has. With KVM it is the host's: model, microcode, flags and the kernel
    that filters them.
    """
    if accel == "tcg":
        return "max"
    wanted = ("vendor_id", "cpu family", "model", "stepping", "microcode", "flags")
    first = cpuinfo.partition("\n\n")[0].splitlines()
    lines = [line for line in first if line.partition(":")[0].strip() in wanted]
    return hashlib.sha256("\n".join([kernel, *lines]).encode()).hexdigest()[:16]


class SessionDisk:
    """The disk of one session, from a snapshot's point of view."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.blank = path.with_name(f"{path.name}.blank")
        self.clean = path.with_name(f"{path.name}.clean")
        self._temp = path.with_name(f".{path.name}.snapshot")

    @property
    def fresh(self) -> bool:
        """Tell whether no guest has ever mounted it (ext4's own word, Documentation/filesystems/ext4/super.rst)."""
        with self.path.open("rb") as file:
            head = file.read(2048)
        (mounted,) = struct.unpack_from("<I", head, _MOUNTED)
        return head[_MAGIC : _MAGIC + 2] == b"\x53\xef" and mounted == 0

    def keep_clean(self) -> None:
        """Keep a copy of the blank disk for a reset: some hundred KiB, made before the first guest mounts it.

        :raises OSError: nothing has changed then
        """
        if self.clean.exists() or not self.fresh:
            return
        self.stage(self.path)
        self._temp.rename(self.clean)

    def stage(self, source: Path) -> None:
        """Copy another disk beside this one, for `swap`.

        :raises OSError: nothing has changed then
        """
        self._temp.unlink(missing_ok=True)
        copy_sparse(source, self._temp)

    def swap(self) -> None:
        """Put what `stage` has copied in this disk's place; no guest runs from it now."""
        self._temp.rename(self.path)
        sync_dir(self.path.parent)

    def recover(self) -> None:
        """Put a blank disk back that a restore without adoption has left."""
        self._temp.unlink(missing_ok=True)
        if self.blank.exists():
            self.blank.rename(self.path)
            self.blank.unlink(missing_ok=True)  # rename(2) leaves it where both are names of one file
            sync_dir(self.path.parent)

    def lay(self, snapshot: Snapshot) -> None:
        """Put a copy of the snapshot's disk in place; the blank one stays beside it.

        :raises OSError: nothing has changed then
        """
        self.stage(snapshot.disk)
        os.link(self.path, self.blank)
        self._temp.rename(self.path)

    def confirm(self) -> None:
        """The guest is the session's: what is on the disk now is the learner's. `sync` has it outlive a power cut."""
        self.blank.unlink(missing_ok=True)

    def sync(self) -> None:
        """Wait until the host's disk knows which of the files are there (fsync(2))."""
        sync_dir(self.path.parent)
