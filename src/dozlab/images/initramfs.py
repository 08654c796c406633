"""The boot initramfs and the probe: busybox, our `/init`, the modules a root disk needs, loaded in order. Pure.

Names of modules come from modules.dep (modules.dep.bin's text form, depmod(8)).
"""

from __future__ import annotations

import lzma
import posixpath
from collections.abc import Callable
from importlib import resources
from importlib.resources.abc import Traversable

from dozlab.images import cpio
from dozlab.lib.errors import DozlabError

MODULES = ("virtio_mmio", "virtio_pci", "virtio_blk", "virtio_net", "virtio-rng", "overlay")
"""What reaches disks, network and randomness on both VMMs; those built into the kernel are passed over."""

_APPLETS = (
    "cat", "chmod", "chroot", "cp", "grep", "insmod", "ip", "mkdir", "mount", "mv", "poweroff", "reboot", "rm", "rmdir",
    "sh", "sleep", "switch_root", "sync", "umount",
)  # fmt: skip


def kitfiles() -> Traversable:
    """Return the package's folder of files for the kit."""
    return resources.files("dozlab.images") / "kitfiles"


def boot(busybox: bytes, modules: list[tuple[str, bytes]]) -> bytes:
    """Return the boot initramfs.

    :param modules: (file name, unpacked content) in the order of loading
    """
    entries = _base(busybox, "init")
    entries += [cpio.directory(name) for name in ("base", "kit", "disk", "modules", "dozlab")]
    entries += [cpio.file(f"modules/{number:02d}-{name}", data) for number, (name, data) in enumerate(modules)]
    return cpio.pad(cpio.pack(entries), 512)


def probe(busybox: bytes) -> bytes:
    """Return the probe's initramfs: prints `dozlab: probe=ok` and powers off."""
    return cpio.pad(cpio.pack(_base(busybox, "probe-init")), 512)


def _base(busybox: bytes, init: str) -> list[cpio.Entry]:
    entries = [cpio.directory(name) for name in ("bin", "dev", "proc", "sys", "run")]
    entries.append(cpio.directory("root", 0o700))
    entries += [cpio.node("dev/console", 5, 1), cpio.node("dev/kmsg", 1, 11)]
    entries.append(cpio.file("bin/busybox", busybox, 0o755))
    entries += [cpio.link(f"bin/{name}", "busybox") for name in _APPLETS]
    entries.append(cpio.file("init", (kitfiles() / init).read_bytes(), 0o755))
    return entries


def load_order(modules_dep: str, builtin: str, wanted: tuple[str, ...] = MODULES) -> list[str]:
    """Return paths of the wanted modules and what they need, each after its needs.

    :param modules_dep: text of modules.dep: `path: needed-path needed-path`, the last needed is loaded first
    :param builtin: text of modules.builtin: a path a line
    :raises DozlabError: when the kernel has a module neither as a file nor built in
    """
    needs: dict[str, list[str]] = {}
    by_name: dict[str, str] = {}
    for line in modules_dep.splitlines():
        path, _, rest = line.partition(":")
        needs[path] = rest.split()
        by_name[_module(path)] = path
    inside = {_module(line) for line in builtin.splitlines()}
    order: list[str] = []
    for name in wanted:
        key = name.replace("-", "_")
        if key in by_name:
            path = by_name[key]
            order += [each for each in [*reversed(needs[path]), path] if each not in order]
        elif key not in inside:
            raise DozlabError(f"the kernel has no module {name}")
    return order


def unpacked(paths: list[str], read: Callable[[str], bytes]) -> list[tuple[str, bytes]]:
    """Return (file name without .xz, unpacked content) for module paths, in their order."""
    out = []
    for path in paths:
        data = read(path)
        name = posixpath.basename(path)
        if name.endswith(".xz"):
            data, name = lzma.decompress(data), name.removesuffix(".xz")
        out.append((name, data))
    return out


def _module(path: str) -> str:
    return posixpath.basename(path).partition(".ko")[0].replace("-", "_")


__all__ = ["MODULES", "boot", "kitfiles", "load_order", "probe", "unpacked"]
