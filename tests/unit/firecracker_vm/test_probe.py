"""The decision: what is remembered, what it means, and the sentences people read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dozlab.firecracker_vm import probe
from dozlab.firecracker_vm.machine import VmmName
from dozlab.firecracker_vm.probe import Probe, decide
from dozlab.firecracker_vm.settings import Settings
from dozlab.lib.errors import DozlabError

WORKS = Probe(True, "KVM works: a probe guest ran under {vmm} in 0.4 s")
SILENT = Probe(False, "/dev/kvm opens but a probe guest under {vmm} printed nothing in 8 s", silent=True)
REFUSED = Probe(False, "{vmm} cannot run a guest with /dev/kvm: no")


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a kit that is enough to decide with, on a machine whose /dev/kvm opens and that has no firecracker."""
    folder = tmp_path / "kit"
    folder.mkdir()
    (folder / "vmlinux").write_bytes(b"\x7fELF" + b"\0" * 1024)
    (folder / "vmlinuz").write_bytes(b"\0" * 0x202 + b"HdrS" + b"\0" * 1024)
    (folder / "probe.img").write_bytes(b"p")
    (folder / "manifest.json").write_text('{"id": "unit"}')
    for name in ("firecracker", "qemu"):
        (tmp_path / name).write_text("#!/bin/false\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(probe, "kvm_opens", lambda: "")
    return folder


def settings(kit: Path, **environ: str) -> Settings:
    return Settings.from_env(
        {"SESSION_ID": "unit", "SHARED_DIR": str(kit.parent), "KIT_DIR": str(kit), "QEMU_BIN": str(kit.parent / "qemu"),
         "FIRECRACKER_BIN": str(kit.parent / "firecracker"), **environ}
    )  # fmt: skip


def remember(kit: Path, **answers: Probe) -> None:
    for vmm, answer in answers.items():
        named = Probe(answer.works, answer.reason.format(vmm=vmm), answer.silent)
        probe._remember(kit.parent / "probe.json", probe._key(kit, str(kit.parent / vmm)), named)


@pytest.mark.parametrize(
    ("wanted", "firecracker", "qemu", "vmm", "accel", "words"),
    [
        ("auto", WORKS, WORKS, "firecracker", "kvm", "ran under firecracker"),
        ("auto", SILENT, WORKS, "qemu", "tcg", "printed nothing"),  # silence is KVM's: no second probe
        ("auto", REFUSED, WORKS, "qemu", "kvm", "firecracker cannot run a guest"),
        ("auto", REFUSED, SILENT, "qemu", "tcg", "emulated"),
        ("qemu", WORKS, WORKS, "qemu", "kvm", "ran under qemu"),
        ("qemu", WORKS, SILENT, "qemu", "tcg", "emulated"),
        ("firecracker", WORKS, SILENT, "firecracker", "kvm", "ran under firecracker"),
    ],
)
async def test_what_is_chosen(
    kit: Path, wanted: str, firecracker: Probe, qemu: Probe, vmm: VmmName, accel: str, words: str
) -> None:
    remember(kit, firecracker=firecracker, qemu=qemu)
    decision = await decide(settings(kit, VMM=wanted))
    assert (decision.vmm, decision.accel) == (vmm, accel)
    assert decision.binary == str(kit.parent / vmm)
    assert words in decision.reason
    assert "\n" not in decision.reason


async def test_kvm_that_is_required_and_does_not_work(kit: Path) -> None:
    remember(kit, firecracker=SILENT, qemu=SILENT)
    with pytest.raises(DozlabError, match="REQUIRE_KVM is set, and KVM does not work: /dev/kvm opens but"):
        await decide(settings(kit, REQUIRE_KVM="true"))
    with pytest.raises(DozlabError, match=r"VMM=firecracker needs KVM: .*; set VMM=auto"):
        await decide(settings(kit, VMM="firecracker"))


async def test_without_dev_kvm_nothing_is_probed(kit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "kvm_opens", lambda: "there is no /dev/kvm")
    (kit / "probe.img").unlink()
    decision = await decide(settings(kit))
    assert (decision.vmm, decision.accel) == ("qemu", "tcg")
    assert "there is no /dev/kvm" in decision.reason


async def test_what_is_missing_is_named(kit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(kit))
    with pytest.raises(DozlabError, match="firecracker is not installed; run: python -m"):
        await decide(settings(kit, VMM="firecracker", FIRECRACKER_BIN=""))
    monkeypatch.setattr("dozlab.lib.proc.need", lambda program, package: (_ for _ in ()).throw(DozlabError(package)))
    with pytest.raises(DozlabError, match="qemu-system-x86"):
        await decide(settings(kit, VMM="qemu", QEMU_BIN=""))
    (kit / "probe.img").unlink()
    with pytest.raises(DozlabError, match=r"probe initramfs .*probe\.img is missing"):
        await decide(settings(kit))


async def test_a_vmm_that_does_not_start_is_probed_once(kit: Path) -> None:
    decision = await decide(settings(kit, VMM="qemu"))
    assert decision.accel == "tcg"
    assert "qemu cannot run a guest with /dev/kvm: qemu ended with status 1" in decision.reason
    (kit.parent / "qemu").rename(kit.parent / "moved")
    (kit.parent / "moved").rename(kit.parent / "qemu")  # the same file: still the same answer
    remembered = json.loads((kit.parent / "probe.json").read_text())
    assert len(remembered) == 1
    assert (await decide(settings(kit, VMM="qemu"))).reason == decision.reason


async def test_a_damaged_memory_is_forgotten(kit: Path) -> None:
    (kit.parent / "probe.json").write_text("[1, {")
    remember(kit, firecracker=WORKS)
    assert (await decide(settings(kit))).vmm == "firecracker"
