"""The files one boot needs: found, checked, each fault one line; and initrd.img, made of kit and identity."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dozlab.firecracker_vm import network
from dozlab.firecracker_vm.machine import Accel, Drive, VmmName
from dozlab.firecracker_vm.settings import Settings
from dozlab.images.cmdline import cmdline
from dozlab.lib.errors import DozlabError
from dozlab.lib.files import hold, read_json, write_atomic

_BZIMAGE = slice(0x202, 0x206)  # "HdrS": Linux Documentation/arch/x86/boot.rst
_KIT_HINT = "run: dozlab image build kit (or set KIT_DIR)"


@dataclass(frozen=True)
class Inputs:
    """Checked files."""

    kernel: Path
    initrd: Path
    drives: tuple[Drive, ...]


def collect(settings: Settings, vmm: VmmName, *, extra: bytes = b"") -> Inputs:
    """Check everything a boot reads, and write initrd.img.

    :param extra: one more archive for the initramfs
    :raises DozlabError: for the first thing that is missing, unreadable or of the wrong kind
    """
    kernel = find_kernel(settings.kit, settings.kernel, vmm)
    base, disk = _rootfs(settings)
    kit = settings.kit / "kit.ext4"
    readable(kit, "kit disk", _KIT_HINT)
    readable(base, "base image", "run init-rootfs first")
    readable(disk, "session disk", "run init-rootfs first", write=True)
    initrd = make_initrd(settings, extra)
    drives = (Drive("vda", base, True), Drive("vdb", kit, True), Drive("vdc", disk, False))
    return Inputs(kernel, initrd, drives)


def hold_base(files: Inputs) -> int:
    """Keep the base image in its store; return the descriptor that does so until it is closed.

    :raises DozlabError: when somebody has removed it just now
    """
    base = files.drives[0].path
    fd = hold(base)
    if fd is None:
        raise DozlabError(f"base image {base} is missing", hint="run init-rootfs first")
    return fd


def words(settings: Settings, vmm: VmmName, accel: Accel, *, workspace_port: int) -> str:
    """Return the guest's kernel command line; a tap whose MTU is Ethernet's own is not worth a word."""
    mtu = network.mtu(settings.tap)
    return cmdline(
        vmm=vmm, accel=accel, vm_ip=str(settings.vm_ip), gateway_ip=str(settings.gateway_ip),
        mtu=None if mtu == network.ETHERNET_MTU else mtu, workspace_port=workspace_port,
    )  # fmt: skip


def find_kernel(kit: Path, told: Path | None, vmm: VmmName) -> Path:
    """Return the kernel for a VMM: KERNEL_PATH, else the kit's ELF image for Firecracker and bzImage for QEMU.

    :raises DozlabError: when it is missing or is no x86 kernel at all
    """
    path = told or kit / ("vmlinux" if vmm == "firecracker" else "vmlinuz")
    readable(path, "kernel", "check KERNEL_PATH" if told else _KIT_HINT)
    with path.open("rb") as file:
        head = file.read(0x206)
    if head[:4] != b"\x7fELF" and head[_BZIMAGE] != b"HdrS":
        raise DozlabError(f"kernel {path} is not an x86 kernel (neither an ELF vmlinux nor a bzImage)")
    return path


def readable(path: Path, what: str, hint: str, *, write: bool = False) -> None:
    """Check that a file (or block device) is there, is not empty, and may be read (and written).

    :raises DozlabError: saying which of these it is not
    """
    if not path.exists():
        raise DozlabError(f"{what} {path} is missing", hint=hint)
    if not path.is_block_device() and (not path.is_file() or path.stat().st_size == 0):
        raise DozlabError(f"{what} {path} is empty or not a file", hint=hint)
    if not os.access(path, os.R_OK):
        raise DozlabError(f"{what} {path} is not readable by uid {os.getuid()}")
    if write and not os.access(path, os.W_OK):
        raise DozlabError(f"{what} {path} is not writable by uid {os.getuid()}")


def read_object(path: Path, hint: str) -> dict[str, Any]:
    """Return a JSON object of SHARED_DIR.

    :raises DozlabError: when it is missing or damaged
    """
    try:
        value = read_json(path)
    except ValueError as error:
        raise DozlabError(f"{path} is damaged: {error}", hint=hint) from error
    if value is None:
        raise DozlabError(f"{path} is missing", hint=hint)
    if not isinstance(value, dict):
        raise DozlabError(f"{path} is damaged: not an object", hint=hint)
    return value


def _rootfs(settings: Settings) -> tuple[Path, Path]:
    told = settings.shared / "rootfs.json"
    value = read_object(told, "run init-rootfs first")
    try:
        return settings.kernels / str(value["base"]), settings.vm_data / str(value["disk"])
    except KeyError as error:
        raise DozlabError(f"{told} lacks {error}", hint="run init-rootfs again") from error


def make_initrd(settings: Settings, extra: bytes = b"") -> Path:
    """Write SHARED_DIR/initrd.img (0600): the kit's initramfs, padded to 4 bytes, then identity.cpio, then `extra`.

    The kernel unpacks concatenated archives, each starting at a multiple of 4, zeros between them skipped
    (Documentation/driver-api/early-userspace/buffer-format.rst).

    :raises DozlabError: when a part is missing or the folder is full
    """
    boot, identity = settings.kit / "initramfs.img", settings.shared / "identity.cpio"
    readable(boot, "boot initramfs", _KIT_HINT)
    readable(identity, "identity", "run init-rootfs first")
    path = settings.shared / "initrd.img"
    try:
        write_atomic(path, join_archives(boot.read_bytes(), identity.read_bytes(), extra), mode=0o600)
    except OSError as error:
        raise DozlabError(f"cannot write {path}: {error.strerror}", hint="give sharedConfig more room") from error
    return path


def join_archives(*archives: bytes) -> bytes:
    """Return the archives one after another, each padded with zeros to a multiple of 4."""
    return b"".join(archive + b"\0" * (-len(archive) % 4) for archive in archives)
