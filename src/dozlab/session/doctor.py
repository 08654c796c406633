"""Everything this machine lacks for sessions, each with the command that fixes it, and why which VMM is chosen."""

from __future__ import annotations

import os
import pwd
import shutil
from dataclasses import dataclass
from pathlib import Path

from dozlab.lib import paths
from dozlab.lib.errors import DozlabError
from dozlab.lib.proc import need
from dozlab.lib.units import GIB, MIB, format_size
from dozlab.session import preflight

BUILD_PROGRAMS = {
    "mmdebstrap": "mmdebstrap",
    "cpio": "cpio",
    "zstd": "zstd",
    "xz": "xz-utils",
    "depmod": "kmod",
    "/bin/busybox": "busybox-static",
}
DISK, MEMORY = 8 * GIB, 2560 * MIB
"""Room for one image, the editor and a few session disks; a default VM and what runs beside it."""


@dataclass(frozen=True)
class Check:
    """One thing looked at. `needed` ones make a session impossible when they are not ok."""

    name: str
    ok: bool
    detail: str
    fix: str = ""
    needed: bool = True


def checks() -> list[Check]:
    """Look at everything; changes nothing but the remembered probe of KVM."""
    found = [_program(name, package) for name, package in (preflight.PROGRAMS | preflight.EDITOR_PROGRAMS).items()]
    found += [_program(name, package, needed=False) for name, package in BUILD_PROGRAMS.items()]
    found += [_tun(), _user_namespaces(), _subuid(), _disk(), _memory(), _images(), *_vmm()]
    return found


def _program(name: str, package: str, *, needed: bool = True) -> Check:
    short = Path(name).name
    try:
        return Check(short, True, need(name, package), needed=needed)
    except DozlabError as error:
        why = "" if needed else " (only to build images)"
        return Check(short, False, error.message + why, error.hint.removeprefix("run: "), needed)


def _tun() -> Check:
    try:
        preflight.check_tun()
    except DozlabError as error:
        return Check("tun", False, error.message, error.hint.removeprefix("run: "))
    return Check("tun", True, str(preflight.TUN))


def _user_namespaces() -> Check:
    if os.getuid() == 0:
        return Check("user namespaces", True, "needed by the editor's sandbox and allowed", needed=True)
    for path in ("/proc/sys/kernel/unprivileged_userns_clone", "/proc/sys/user/max_user_namespaces"):
        file = Path(path)
        if file.exists() and file.read_text().strip() == "0":
            name = path.removeprefix("/proc/sys/").replace("/", ".")
            value = "1" if name.endswith("clone") else "15000"
            return Check("user namespaces", False, f"{name} is 0", f"sudo sysctl -w {name}={value}")
    return Check("user namespaces", True, "allowed")


def _subuid() -> Check:
    if os.getuid() == 0:
        return Check("subuids", True, "not needed as root", needed=False)
    name = pwd.getpwuid(os.getuid()).pw_name
    try:
        rows = [line.split(":") for line in Path("/etc/subuid").read_text().splitlines()]
    except OSError:
        rows = []
    if any(row[0] in (name, str(os.getuid())) for row in rows) and shutil.which("newuidmap"):
        return Check("subuids", True, f"/etc/subuid has {name}", needed=False)
    fix = f"sudo apt-get install uidmap && sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}"
    return Check("subuids", False, "none (only to build images)", fix, needed=False)


def _disk() -> Check:
    folder = paths.cache()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    fix = "" if free >= DISK else f"free some space below {folder}, or set XDG_CACHE_HOME and XDG_STATE_HOME"
    return Check("disk", free >= DISK, f"{format_size(free)} free, {format_size(DISK)} wanted", fix, needed=False)


def _memory() -> Check:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
            fix = "" if free >= MEMORY else "use a smaller machine: --set vm.memory=512"
            return Check("memory", free >= MEMORY, f"{format_size(free)} available", fix, needed=False)
    return Check("memory", True, "unknown", needed=False)


def _images() -> Check:
    from dozlab.images.store import Store
    from dozlab.session.image_choice import DEFAULT_IMAGE

    there = Store(paths.cache() / "store").resolve(DEFAULT_IMAGE) is not None
    fix = "" if there else f"dozlab image build {DEFAULT_IMAGE}"
    return Check("image", there, f"{DEFAULT_IMAGE} {'is' if there else 'is not'} in the store", fix, needed=False)


def _vmm() -> list[Check]:
    from dozlab.images import kit
    from dozlab.session import vmm_choice

    found = kit.find(paths.cache() / "kit")
    if found is None:
        return [
            Check(
                "boot kit",
                False,
                "not built yet (KVM is tried with its kernel)",
                "dozlab image build kit",
                needed=False,
            )
        ]
    try:
        decision = vmm_choice.decide(found)
    except DozlabError as error:
        return [Check("vmm", False, error.message, error.hint.removeprefix("run: "))]
    return [Check("vmm", True, f"{decision.vmm} with {decision.accel}: {decision.reason}")]
