"""When a session disk may be replaced by a snapshot's, and how a half-done restore is undone."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from dozlab.firecracker_vm.machine import Drive, Spec
from dozlab.firecracker_vm.prepared import Prepared
from dozlab.firecracker_vm.probe import Decision
from dozlab.firecracker_vm.settings import Settings
from dozlab.firecracker_vm.snapshot import SessionDisk, cpu, needs
from dozlab.images import snapshots
from dozlab.images.snapshots import Snapshot, Snapshots, Unfit

CPUINFO = """processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 143
model name\t: Some CPU
microcode\t: 0x1
flags\t\t: fpu sse
cpu MHz\t\t: 2000.1

processor\t: 1
cpu MHz\t\t: 3000.1
"""


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk/session.ext4"
    path.parent.mkdir()
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", str(path), "16M"], check=True)
    return path


@pytest.fixture
def snapshot(tmp_path: Path) -> Snapshot:
    folder = tmp_path / "snapshot"
    folder.mkdir()
    with (folder / "disk.ext4").open("wb") as file:
        file.truncate(16 << 20)
        file.seek(5 << 20)
        file.write(b"of the snapshot")
    return Snapshot(folder, {}, 0.0, 0)


def mounted(disk: Path) -> None:
    """Make the file system look as after a mount."""
    with disk.open("r+b") as file:
        file.seek(1024 + 0x2C)
        file.write(b"\x01\x02\x03\x04")


def test_a_new_disk_is_fresh_until_it_is_mounted(disk: Path) -> None:
    assert SessionDisk(disk).fresh
    mounted(disk)
    assert not SessionDisk(disk).fresh


def test_what_is_no_file_system_is_not_fresh(tmp_path: Path) -> None:
    (tmp_path / "zeros").write_bytes(bytes(4096))
    assert not SessionDisk(tmp_path / "zeros").fresh


def test_the_snapshots_disk_takes_its_place(disk: Path, snapshot: Snapshot) -> None:
    session = SessionDisk(disk)
    session.lay(snapshot)
    assert disk.read_bytes() == snapshot.disk.read_bytes()
    assert disk.stat().st_blocks < 2048  # holes stay holes
    session.confirm()
    assert [path.name for path in disk.parent.iterdir()] == ["session.ext4"]


def test_without_adoption_the_blank_disk_comes_back(disk: Path, snapshot: Snapshot) -> None:
    before = disk.read_bytes()
    SessionDisk(disk).lay(snapshot)
    mounted(disk)
    again = SessionDisk(disk)  # a new process, after a crash
    again.recover()
    assert disk.read_bytes() == before
    assert again.fresh
    assert [path.name for path in disk.parent.iterdir()] == ["session.ext4"]


def test_a_crash_before_the_snapshots_disk_is_in_place(disk: Path, snapshot: Snapshot) -> None:
    """Both names are the blank disk's then: one that stayed would come back over what the learner has by then."""
    before = disk.read_bytes()
    os.link(disk, disk.with_name("session.ext4.blank"))
    session = SessionDisk(disk)
    session.recover()
    assert [path.name for path in disk.parent.iterdir()] == ["session.ext4"]
    assert disk.read_bytes() == before
    session.lay(snapshot)
    assert disk.read_bytes() == snapshot.disk.read_bytes()


def test_a_copy_that_fails_changes_nothing(disk: Path, snapshot: Snapshot) -> None:
    before = disk.read_bytes()
    snapshot.disk.unlink()
    with pytest.raises(OSError, match=r"disk\.ext4"):
        SessionDisk(disk).lay(snapshot)
    assert disk.read_bytes() == before
    assert [path.name for path in disk.parent.iterdir()] == ["session.ext4"]


def test_a_crash_in_the_copy_is_cleaned_up(disk: Path, snapshot: Snapshot) -> None:
    (disk.parent / ".session.ext4.snapshot").write_bytes(b"half")
    session = SessionDisk(disk)
    session.recover()
    assert [path.name for path in disk.parent.iterdir()] == ["session.ext4"]


def test_the_clean_disk_is_kept_and_comes_back(disk: Path) -> None:
    before = disk.read_bytes()
    session = SessionDisk(disk)
    session.keep_clean()
    assert session.clean.stat().st_blocks <= disk.stat().st_blocks  # holes stay holes
    mounted(disk)
    session.keep_clean()  # a second start of the session
    assert session.clean.read_bytes() == before
    session.stage(session.clean)
    assert disk.read_bytes() != before  # nothing is lost until the swap
    session.swap()
    assert disk.read_bytes() == before
    assert sorted(path.name for path in disk.parent.iterdir()) == ["session.ext4", "session.ext4.clean"]


def test_a_used_disk_is_not_kept_as_clean(disk: Path) -> None:
    mounted(disk)
    SessionDisk(disk).keep_clean()
    assert [path.name for path in disk.parent.iterdir()] == ["session.ext4"]


def test_needs_tell_all_that_must_fit(disk: Path, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"id": "kit"}')
    spec = Spec(tmp_path / "k", tmp_path / "i", "words", (Drive("vdc", disk, False),), 2, 1024)
    decision = Decision("qemu", "tcg", "/bin/sh", "because")
    found = needs(decision, spec, base="digest", kit=tmp_path, told_kernel=False)
    facts = os.stat("/bin/sh")
    assert found == {
        "base": "digest", "kit": "kit", "vmm": "qemu", "binary": f"{facts.st_size} {int(facts.st_mtime)}",
        "accel": "tcg", "cpu": "max", "cpus": 2, "memory": 1024, "disk": 16 << 20, "cmdline": "words",
    }  # fmt: skip
    with pytest.raises(Unfit, match="KERNEL_PATH"):
        needs(decision, spec, base="digest", kit=tmp_path, told_kernel=True)


def test_the_processor_counts_with_kvm_alone() -> None:
    assert cpu("tcg", CPUINFO, "6.1") == cpu("tcg", "", "6.2") == "max"
    one = cpu("kvm", CPUINFO, "6.1")
    assert one == cpu("kvm", CPUINFO.replace("2000.1", "2400.7"), "6.1")
    for old, new in (("sse", "sse2"), ("0x1", "0x2"), ("143", "85")):
        assert cpu("kvm", CPUINFO.replace(old, new), "6.1") != one
    assert cpu("kvm", CPUINFO, "6.2") != one


def test_a_boot_in_place_of_a_snapshot_has_its_reason(disk: Path, tmp_path: Path) -> None:
    """It is shown with the boot; where nobody has prepared the image, or once the disk was used, there is none."""
    (tmp_path / "manifest.json").write_text('{"id": "kit"}')
    (tmp_path / "rootfs.json").write_text('{"digest": "base"}')
    store = tmp_path / "snapshots"
    settings = Settings.from_env({
        "SESSION_ID": "lab", "SHARED_DIR": str(tmp_path), "KIT_DIR": str(tmp_path), "VM_DATA": str(tmp_path),
        "SNAPSHOTS_DIR": str(store), "TAP_DEVICE_NAME": "lo",
    })  # fmt: skip
    prepared = Prepared(settings, Decision("qemu", "tcg", "/bin/sh", ""))
    spec = Spec(disk, disk, "", (Drive("vdc", disk, False),), 2, 256)

    def reason() -> str:
        prepared.begin(spec)
        assert prepared.find(spec) is None
        return prepared.booted

    assert reason() == ""
    made = tmp_path / "made"
    made.mkdir()
    for name in (snapshots.STATE, snapshots.DISK, snapshots.TOKEN):
        (made / name).write_bytes(b"x" * 4096)
    snapshots.describe(made, {**prepared.prepared_needs(spec), "memory": 512})
    added = Snapshots(store).add(made)
    assert reason() == "the prepared snapshot is for another memory in MiB (512, not 256)"
    added.folder.rename(store / snapshots.key(prepared.prepared_needs(spec)))  # forged, or half written
    assert reason().endswith(" is damaged")
    mounted(disk)
    assert reason() == ""
