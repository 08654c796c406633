"""Which VMM: KVM is believed only after a probe boot (design.md D7). The reason is one sentence, for `doctor` too.

`/dev/kvm` may open and VMs may be created where no guest ever starts. So our kernel and an initramfs that prints one
line are booted under the VMM in question; the answer is remembered per boot of this machine, VMM and kernel.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from dozlab.firecracker_vm.console import Console
from dozlab.firecracker_vm.inputs import find_kernel, readable
from dozlab.firecracker_vm.machine import Accel, Spec, Vmm, VmmName
from dozlab.firecracker_vm.markers import Marker
from dozlab.firecracker_vm.settings import Settings
from dozlab.firecracker_vm.vmm.firecracker import Firecracker, find_binary
from dozlab.firecracker_vm.vmm.qemu import BINARY, PACKAGE, Qemu, QemuOptions
from dozlab.images.cmdline import probe_cmdline
from dozlab.lib import proc, tasks
from dozlab.lib.errors import DozlabError
from dozlab.lib.files import write_json

log = logging.getLogger(__name__)

_KVM = Path("/dev/kvm")
_KVM_GET_API_VERSION = 0xAE00
_MEMORY = 128


@dataclass(frozen=True)
class Decision:
    """Which VMM runs the guest, how, and why, in one sentence."""

    vmm: VmmName
    accel: Accel
    binary: str
    reason: str


@dataclass(frozen=True)
class Probe:
    """What a probe boot found. `silent`: not one byte came, so the fault is KVM's, whatever the VMM."""

    works: bool
    reason: str
    silent: bool = False


def kvm_opens() -> str:
    """Return why /dev/kvm cannot be used, empty when it opens and speaks API version 12."""
    try:
        fd = os.open(_KVM, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return (
            "there is no /dev/kvm (no virtualization, or the module is not loaded: sudo modprobe kvm_intel or kvm_amd)"
        )
    except OSError as error:
        return f"/dev/kvm does not open: {error.strerror} (run: sudo usermod -aG kvm USER, and log in again)"
    try:
        version = fcntl.ioctl(fd, _KVM_GET_API_VERSION)
    except OSError as error:
        return f"/dev/kvm is no KVM: {error.strerror}"
    finally:
        os.close(fd)
    return "" if version == 12 else f"/dev/kvm has API version {version}, not 12"


async def decide(settings: Settings) -> Decision:
    """Choose the VMM after the settings and what really works.

    :raises DozlabError: when what is required is missing or does not work
    """
    firecracker = None if settings.vmm == "qemu" else _find_firecracker(settings)
    if settings.vmm == "firecracker" and firecracker is None:
        raise DozlabError(
            "firecracker is not installed", hint="run: python -m dozlab.firecracker_vm.install (or set FIRECRACKER_BIN)"
        )
    why = kvm_opens()
    if not why and firecracker:
        probe = await _probe(settings, "firecracker", str(firecracker))
        if probe.works:
            return Decision("firecracker", "kvm", str(firecracker), probe.reason)
        why = probe.reason
        if settings.vmm == "auto" and not probe.silent:  # Firecracker's own trouble: KVM itself may still be fine
            log.warning("%s", why)
            return await _with_qemu(settings, "", why)
    if settings.vmm == "firecracker":
        raise DozlabError(f"VMM=firecracker needs KVM: {why}", hint="set VMM=auto to emulate with QEMU")
    note = "" if settings.vmm == "qemu" or firecracker else "firecracker is not installed"
    return await _with_qemu(settings, why, note)


async def _with_qemu(settings: Settings, no_kvm: str, note: str) -> Decision:
    binary = settings.qemu_bin or proc.need(BINARY, PACKAGE)
    if not no_kvm:
        probe = await _probe(settings, "qemu", binary)
        if probe.works:
            return Decision("qemu", "kvm", binary, "; ".join(filter(None, [note, probe.reason])))
        no_kvm = probe.reason
    if settings.require_kvm:
        raise DozlabError(f"REQUIRE_KVM is set, and KVM does not work: {no_kvm}")
    return Decision("qemu", "tcg", binary, f"{no_kvm.rstrip('.')}; so the processor is emulated, 10 to 30 times slower")


def _find_firecracker(settings: Settings) -> Path | None:
    return find_binary({**os.environ, "FIRECRACKER_BIN": settings.firecracker_bin})


async def _probe(settings: Settings, vmm: VmmName, binary: str) -> Probe:
    image = settings.kit / "probe.img"
    readable(image, "probe initramfs", "run: dozlab image build kit (or set KIT_DIR)")
    kernel = find_kernel(settings.kit, None, vmm)
    key = _key(settings.kit, binary)
    remembered = _recall(settings.probe_cache).get(key)
    if remembered is not None:
        return Probe(bool(remembered.get("works")), str(remembered.get("reason")), bool(remembered.get("silent")))
    log.info("probing KVM with %s (at most %.0f s)", vmm, settings.probe_deadline)
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="dozlab-probe-"))
    try:
        machine: Vmm
        if vmm == "firecracker":
            machine = Firecracker(Path(binary), folder / "fc.sock", "probe")
        else:
            machine = Qemu(QemuOptions(binary, "kvm", "probe"))
        probe = await boot_probe(machine, kernel, image, settings.probe_deadline)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    _remember(settings.probe_cache, key, probe)
    return probe


async def boot_probe(vmm: Vmm, kernel: Path, image: Path, deadline: float) -> Probe:
    """Boot the probe initramfs and say whether its line came within `deadline` seconds."""
    seen = asyncio.Event()

    def on_marker(marker: Marker) -> None:
        if marker == Marker("probe", "ok"):
            seen.set()

    console = Console(None, on_marker)
    read, write = os.pipe()
    reader = tasks.start(console.read(read), name="probe-console")
    loop = asyncio.get_running_loop()
    start = loop.time()
    try:
        await vmm.start(Spec(kernel, image, probe_cmdline(vmm=vmm.name), (), 1, _MEMORY), write)
        os.close(write)
        write = -1
        ended = tasks.start(vmm.wait(), name="probe-vmm")
        marked = tasks.start(seen.wait(), name="probe-marker")
        await asyncio.wait({reader, marked}, timeout=deadline, return_when=asyncio.FIRST_COMPLETED)
        took = loop.time() - start
        if seen.is_set():
            return Probe(True, f"KVM works: a probe guest ran under {vmm.name} in {took:.1f} s")
        if reader.done():
            await asyncio.wait({ended}, timeout=2)
            return Probe(False, f"a probe guest under {vmm.name} ended without its line: {console.summary(2)}")
        if not console.bytes:
            return Probe(
                False, f"/dev/kvm opens but a probe guest under {vmm.name} printed nothing in {took:.0f} s", silent=True
            )
        return Probe(False, f"a probe guest under {vmm.name} was not up in {took:.0f} s: {console.summary(2)}")
    except DozlabError as error:
        return Probe(False, f"{vmm.name} cannot run a guest with /dev/kvm: {error.message}")
    finally:
        await vmm.end()
        if write >= 0:
            os.close(write)
        await tasks.stop([reader])


def _key(kit: Path, binary: str) -> str:
    """Name of a probe's answer: this boot of the machine, the VMM's file, the kit."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    stat = os.stat(binary)
    identity = ""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        identity = str(json.loads((kit / "manifest.json").read_text()).get("id", ""))
    text = f"{boot} {Path(binary).name} {stat.st_size} {stat.st_mtime_ns} {identity}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _recall(path: Path) -> dict[str, dict[str, object]]:
    with contextlib.suppress(OSError, ValueError):
        value = json.loads(path.read_text())
        if isinstance(value, dict):
            return {key: entry for key, entry in value.items() if isinstance(entry, dict)}
    return {}


def _remember(path: Path, key: str, probe: Probe) -> None:
    entries = _recall(path)
    entries[key] = {"works": probe.works, "reason": probe.reason, "silent": probe.silent}
    try:
        write_json(path, dict(list(entries.items())[-16:]))
    except OSError as error:
        log.warning("the probe's answer cannot be remembered in %s: %s", path, error.strerror)
