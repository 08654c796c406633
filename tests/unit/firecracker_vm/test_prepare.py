"""Preparing for a whole node: when it is done, what is told, what a killed attempt leaves. No VM is started."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from dozlab.firecracker_vm import inputs, prepare
from dozlab.firecracker_vm.probe import Decision
from dozlab.firecracker_vm.settings import Settings
from dozlab.images import snapshots
from dozlab.images.snapshots import Snapshots
from dozlab.lib.errors import DozlabError
from dozlab.lib.files import locked

Pod = Callable[[str], Settings]


class Machine:
    """Stands for the supervisor: a guest that is saved at once, unless `harm` does something else first."""

    runs = 0
    ended = 0

    @staticmethod
    async def harm(_out: Path) -> None:
        pass

    def __init__(self, settings: Settings, decision: Decision) -> None:
        self.settings, self.decision = settings, decision
        self.life = SimpleNamespace(reason="the guest ended before it was saved")

    async def run(self) -> int:
        Machine.runs += 1
        out = self.settings.snapshot_out
        assert out
        assert (self.settings.workspace_port, self.settings.idle_pause) == (0, 0)
        try:
            (out / snapshots.STATE).write_bytes(b"memory")
            await Machine.harm(out)
            (out / snapshots.DISK).write_bytes(b"disk")
            (out / snapshots.TOKEN).write_text("key\n")
            (out / snapshots.TOKEN).chmod(0o600)
            found = inputs.collect(self.settings, self.decision.vmm)
            snapshots.describe(out, prepare._needs(self.settings, self.decision, found))
        finally:
            Machine.ended += 1
        return 0


@pytest.fixture
def pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pod:
    """Return a function that gives each Pod of one node its settings, as init-rootfs leaves them."""
    kit, kernels = tmp_path / "kit", tmp_path / "kernels"
    kit.mkdir()
    kernels.mkdir()
    (kit / "vmlinuz").write_bytes(b"\0" * 0x202 + b"HdrS" + b"\0" * 64)
    for name in ("initramfs.img", "kit.ext4"):
        (kit / name).write_bytes(b"x")
    (kit / "manifest.json").write_text('{"id": "kit"}')
    (kernels / "base.ext4").write_bytes(b"base")

    async def decide(_settings: Settings) -> Decision:
        return Decision("qemu", "tcg", "/bin/sh", "there is no KVM")

    async def no_harm(_out: Path) -> None:
        pass

    monkeypatch.setattr(prepare, "decide", decide)
    monkeypatch.setattr(prepare, "Supervisor", Machine)
    monkeypatch.setattr(Machine, "harm", staticmethod(no_harm))
    monkeypatch.setattr(Machine, "runs", 0)
    monkeypatch.setattr(Machine, "ended", 0)

    def make(name: str) -> Settings:
        folder = tmp_path / name
        (folder / "disk").mkdir(parents=True)
        (folder / "shared").mkdir()
        subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", str(folder / "disk/session.ext4"), "16M"], check=True)
        (folder / "shared/identity.cpio").write_bytes(b"x")
        (folder / "shared/rootfs.json").write_text(
            '{"base": "base.ext4", "digest": "0123", "disk": "disk/session.ext4"}'
        )
        return Settings.from_env({
            "SESSION_ID": name, "KERNELS_DIR": str(kernels), "VM_DATA": str(folder), "SHARED_DIR": f"{folder}/shared",
            "KIT_DIR": str(kit), "TAP_DEVICE_NAME": "lo", "SNAPSHOTS_DIR": str(kernels / "snapshots"),
            "MEMORY": "64", "IDLE_PAUSE": "60",
        })  # fmt: skip

    return make


def harm(monkeypatch: pytest.MonkeyPatch, what: Callable[[Path], object]) -> None:
    async def do(out: Path) -> None:
        what(out)

    monkeypatch.setattr(Machine, "harm", staticmethod(do))


def left(settings: Settings) -> set[str]:
    """Return what lies in the node's folder beside its base image and its snapshots."""
    names = {path.name for path in settings.kernels.iterdir()} - {"base.ext4", "snapshots"}
    return names | {path.name for path in (settings.kernels / "snapshots").glob(".*")} - {".lock", ".prepare.lock"}


def test_the_first_session_of_a_node_prepares_and_the_next_finds_it(pod: Pod) -> None:
    first, second = pod("first"), pod("second")
    assert asyncio.run(prepare.make(first)).startswith("prepared: ")
    assert not (first.vm_data / "disk/session.ext4").exists()
    assert "is there" in asyncio.run(prepare.make(second))
    assert Machine.runs == 1
    (found,) = Snapshots(first.kernels / "snapshots").ls()
    assert {path.stat().st_mode & 0o777 for path in found.folder.iterdir()} == {0o644}
    assert found.folder.stat().st_mode & 0o777 == 0o755
    assert left(first) == set()


def test_another_machine_is_prepared_beside_it(pod: Pod) -> None:
    asyncio.run(prepare.make(pod("first")))
    asyncio.run(prepare.make(replace(pod("second"), memory=65)))
    assert len(Snapshots(pod("third").kernels / "snapshots").ls()) == 2


def test_the_oldest_has_to_go_when_they_take_too_much(pod: Pod) -> None:
    asyncio.run(prepare.make(pod("first")))
    said = asyncio.run(prepare.make(replace(pod("second"), memory=65, snapshots_limit=1)))
    assert "1 older had to go" in said
    (kept,) = Snapshots(pod("third").kernels / "snapshots").ls()
    assert kept.needs["memory"] == 65


def test_a_session_that_boots_from_a_disk_of_its_own_prepares_nothing(pod: Pod) -> None:
    settings = pod("first")
    (settings.shared / "rootfs.json").unlink()  # init-rootfs has not made a second machine
    assert "nothing to prepare" in asyncio.run(prepare.make(settings))
    assert Machine.runs == 0


def test_nobody_waits_for_another_attempt(pod: Pod) -> None:
    settings = pod("first")
    (settings.kernels / "snapshots").mkdir()
    with locked(settings.kernels / "snapshots/.prepare.lock"):
        assert "another session" in asyncio.run(prepare.make(settings))
    assert Machine.runs == 0


def no_disk(settings: Settings) -> None:
    (settings.vm_data / "disk/session.ext4").unlink()


def no_identity(settings: Settings) -> None:
    (settings.shared / "identity.cpio").unlink()


def a_used_disk(settings: Settings) -> None:
    with (settings.vm_data / "disk/session.ext4").open("r+b") as file:
        file.seek(1024 + 0x2C)
        file.write(b"\1\2\3\4")


def no_store(settings: Settings) -> None:
    (settings.kernels / "snapshots").write_text("")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (no_disk, "session disk .* is missing"), (no_identity, "run init-rootfs first"),
        (a_used_disk, "of no use any more"), (no_store, "File exists|Not a directory"),
    ],
)  # fmt: skip
def test_whatever_is_wrong_is_one_line_and_no_failure(
    pod: Pod, spoil: Callable[[Settings], None], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = pod("first")
    spoil(settings)
    with caplog.at_level(logging.WARNING):
        assert asyncio.run(prepare.run(settings)) == 0
    (line,) = caplog.messages
    assert re.search(f"^the session boots: .*({words})", line)
    assert Machine.runs == 0


def test_a_full_disk_is_told_before_the_boot(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = pod("first")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=100 << 20))
    with pytest.raises(DozlabError, match="has 100 MiB free, and 576 MiB are needed"):
        asyncio.run(prepare.make(settings))
    assert Machine.runs == 0


def test_an_image_that_cannot_be_prepared_is_tried_again_after_an_hour(
    pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(out: Path) -> None:
        raise DozlabError("the guest refused prepare: no python3")

    first, second, third = pod("first"), pod("second"), pod("third")
    harm(monkeypatch, fail)
    for settings, words in ((first, "no python3"), (second, "the last attempt failed: .*no python3")):
        with pytest.raises(DozlabError, match=words):
            asyncio.run(prepare.make(settings))
    assert Machine.runs == 1
    harm(monkeypatch, lambda out: None)
    (failed,) = (first.kernels / "snapshots").glob(".failed.*")
    os.utime(failed, (0, 0))
    assert asyncio.run(prepare.make(third)).startswith("prepared: ")
    assert left(first) == set()


def test_a_guest_that_ends_too_early_is_told(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(_self: Machine) -> int:
        return 1

    monkeypatch.setattr(Machine, "run", run)
    settings = pod("first")
    with pytest.raises(DozlabError, match="the guest ended before it was saved"):
        asyncio.run(prepare.make(settings))


def test_the_time_limit_ends_the_machine(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(_out: Path) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Machine, "harm", staticmethod(hang))
    settings = replace(pod("first"), prepare_timeout=0.05)
    with pytest.raises(DozlabError, match=r"snapshot\.prepareTimeout"):
        asyncio.run(prepare.make(settings))
    assert Machine.ended == 1
    assert {name.partition(".")[2].partition(".")[0] for name in left(settings)} == {"failed"}


def test_sigterm_ends_the_machine_and_leaves_nothing(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(_out: Path) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()

    monkeypatch.setattr(Machine, "harm", staticmethod(hang))
    settings = pod("first")
    assert asyncio.run(prepare.run(settings)) == 0
    assert Machine.ended == 1
    assert left(settings) == set()
    assert Snapshots(settings.kernels / "snapshots").ls() == []


def die(*_args: object, **_words: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


KILLED_AT: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "its first file": lambda patch: harm(patch, die),
    "its description": lambda patch: patch.setattr(snapshots, "describe", die),
    "taking it over": lambda patch: patch.setattr(Path, "chmod", lambda path, mode: die() if mode == 0o644 else None),
    "adding it": lambda patch: patch.setattr(Snapshots, "add", die),
    "its rename": lambda patch: patch.setattr(snapshots, "sync_dir", die),
    "the size limit": lambda patch: patch.setattr(Snapshots, "limit", die),
}


@pytest.mark.parametrize("moment", KILLED_AT)
def test_a_killed_attempt_leaves_what_the_next_one_sweeps(
    pod: Pod, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    first, second = pod("first"), pod("second")
    pid = os.fork()
    if not pid:
        KILLED_AT[moment](monkeypatch)
        asyncio.run(prepare.make(first))
        os._exit(1)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    assert len(Snapshots(first.kernels / "snapshots").ls()) == (moment in ("its rename", "the size limit"))
    asyncio.run(prepare.make(replace(second, memory=65)))
    assert left(first) == set()
