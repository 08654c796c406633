"""Snapshots that do not fit, are damaged or find no room: the session boots, and its log says why in one line."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dozlab.images.snapshots import key
from dozlab.lib.files import copy_sparse
from tests.snapshots.conftest import (
    QUICK,
    clock_difference,
    describe,
    folder_of,
    is_itself,
    same_files,
    snapshots_of,
    stages,
    told,
)
from tests.snapshots.guest import YEAR
from tests.snapshots.world import NAME, Placed, World
from tests.support import until

pytestmark = pytest.mark.usefixtures("clean")
UP = ["--image", "quick", "--no-docker-wait", *QUICK]


@pytest.fixture
def snapshot(quick: Placed) -> Iterator[Path]:
    """The one snapshot of the quick guest, to be spoilt; it is as it was afterwards."""
    (folder,) = (
        each for each in snapshots_of(quick, "quick") if '"memory": 256' in (each / "snapshot.json").read_text()
    )
    kept = folder.with_name(".kept")
    subprocess.run(["cp", "-al", str(folder), str(kept)], check=True)
    yield folder
    for each in folder.parent.iterdir():
        if (each != kept and each.is_dir() and (each / "mine").exists()) or each == folder:
            subprocess.run(["rm", "-r", str(each)], check=True)
    kept.rename(folder)


def own_copy(path: Path) -> Path:
    """Make a file another one than that which is kept."""
    copy = path.with_name("copy")
    copy_sparse(path, copy)
    copy.chmod(0o644)
    copy.rename(path)
    return path


def begins_to_boot(command: Placed, session: str, why: str) -> None:
    """Start a session and check that it boots, and why it says it does."""
    command.run("up", session, "--no-wait", *UP)
    try:
        log = folder_of(command, session) / "logs/firecracker-vm.log"
        until(lambda: log.exists() and why in log.read_text(), what=f"{why} in the log", seconds=180)
        assert log.read_text().count(why) == 1
        until(lambda: "vmm" in stages(command, session), what="a boot", seconds=180)
        detail = stages(command, session)["vmm"]["detail"]
        assert "restored" not in detail
        assert ("; booted: the prepared snapshot " in detail) == ("no snapshot of this image" not in why), detail
    finally:
        command.run("down", session)


def boots(command: Placed, session: str, why: str) -> None:
    """Start a session and check that it boots to its end as a session of its own, and why it says it does."""
    command.run("up", session, *UP, timeout=200)
    try:
        detail = stages(command, session)["vmm"]["detail"]
        assert ", restored" not in detail and "; booted: " in detail
        assert told(command, session).count(why) == 1, told(command, session)
        is_itself(command, session)
    finally:
        command.run("down", session)


@pytest.mark.parametrize(
    ("need", "value", "why"),
    [
        ("cpu", "a5f3", "for another CPU (a5f3, not max)"),
        ("binary", "1234 5678", "for another build of the VMM (1234 5678, not "),
        ("vmm", "firecracker", "for another VMM (firecracker, not qemu)"),
        ("kit", "0" * 64, "for another boot kit"),
        ("memory", 512, "for another memory in MiB (512, not 256)"),
        ("base", "0" * 64, "no snapshot of this image has been prepared"),
    ],
    ids=["CPU", "build of the VMM", "VMM", "boot kit", "memory", "image"],
)
def test_a_snapshot_for_something_else(quick: Placed, snapshot: Path, need: str, value: str | int, why: str) -> None:
    """As it would be there after the node, its QEMU, the kit or the image has changed."""
    own_copy(snapshot / "snapshot.json")
    describe(snapshot, {"needs": {need: value}})
    other = snapshot.with_name(key(json.loads((snapshot / "snapshot.json").read_text())["needs"]))
    (snapshot / "mine").touch()
    snapshot.rename(other)
    begins_to_boot(quick, "misfit", f"booting: {'the prepared snapshot is ' if 'for another' in why else ''}{why}")


def cut(path: Path, size: int) -> None:
    with own_copy(path).open("r+b") as file:
        file.truncate(size)


def flip(path: Path, at: int) -> None:
    with own_copy(path).open("r+b") as file:
        file.seek(at)
        (old,) = file.read(1)
        file.seek(at)
        file.write(bytes([old ^ 0xFF]))


def lose_token(folder: Path) -> None:
    (folder / "token").unlink()


def forge_needs(folder: Path) -> None:
    own_copy(folder / "snapshot.json")
    describe(folder, {"needs": {"cpu": "a5f3"}})


def garble(folder: Path) -> None:
    own_copy(folder / "snapshot.json").write_text("{")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: cut(folder / "state", 1 << 20),
        lambda folder: cut(folder / "disk.ext4", 1 << 20),
        lose_token,
        forge_needs,
        garble,
    ],
    ids=["state cut short", "disk cut short", "token lost", "needs of another key", "description garbled"],
)
def test_a_damaged_snapshot_is_seen_before_it_is_loaded(
    quick: Placed, snapshot: Path, spoil: Callable[[Path], Any]
) -> None:
    spoil(snapshot)
    begins_to_boot(quick, "damaged", f"booting: the prepared snapshot {snapshot.name} is damaged")


@pytest.mark.parametrize("where", ["the head", "the end"])
def test_a_state_the_vmm_refuses(quick: Placed, snapshot: Path, where: str) -> None:
    """Its length is right: a flipped byte of the head, or an end that never reached the disk."""
    state = snapshot / "state"
    if where == "the head":
        flip(state, 0)
    else:
        size = state.stat().st_size
        cut(state, size * 3 // 4)
        describe_length(snapshot, "state", size * 3 // 4)
    boots(quick, "refused", "not restored, so it boots: ")


def describe_length(folder: Path, name: str, size: int) -> None:
    own_copy(folder / "snapshot.json")
    describe(folder, {"files": {name: size}})


def test_a_token_that_is_not_the_machine_s(quick: Placed, snapshot: Path) -> None:
    own_copy(snapshot / "token").write_text("0" * 64 + "\n")
    boots(quick, "stranger", "not restored, so it boots: the guest refused adopt: not the key of this machine")


@pytest.fixture
def small(quick: Placed, world: World, tmp_path: Path) -> Iterator[Callable[[Path, int], None]]:
    """What makes a folder a file system of some MiB in memory, on the host of these tests."""
    mounted: list[Path] = []

    def mount(folder: Path, size: int) -> None:
        folder.mkdir(exist_ok=True)
        subprocess.run([*world.prefix, "mount", "-t", "tmpfs", "-o", f"size={size}m", "tmpfs", str(folder)], check=True)
        mounted.append(folder)

    yield mount
    for folder in mounted:
        subprocess.run([*world.prefix, "umount", str(folder)], check=True)


Small = Callable[[Path, int], None]


def test_no_room_for_a_snapshot(quick: Placed, small: Small) -> None:
    """The store's disk is full when the machine is saved; the snapshot that is there stays."""
    store = Path(quick.env["XDG_CACHE_HOME"]) / "dozlab/store"
    before = [same_files(each) for each in snapshots_of(quick, "quick")]
    small(store / "tmp", 16)
    done = quick.run("image", "prepare", "quick", *QUICK, "--again", check=False, timeout=200)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 1 and len(errors) == 1, done.stderr
    assert errors[0].startswith("error: the image could not be prepared: "), errors
    assert "no snapshot was made: " in errors[0] and "No space left on device" in errors[0], errors
    assert [same_files(each) for each in snapshots_of(quick, "quick")] == before
    assert [name for name in quick.sessions() if name.startswith("prepare-")] == []


def test_no_room_for_a_snapshot_s_disk(quick: Placed, small: Small, tmp_path: Path) -> None:
    """There is room for a session that boots: so it does."""
    small(tmp_path, 40)
    command = Placed(tmp_path, env=quick.env, prefix=quick.prefix)
    command.run("up", "cramped", *UP, timeout=200)
    try:
        log = told(command, "cramped")
        assert log.count("not restored, so it boots: ") == 1 and "No space left on device" in log, log
        assert command.ssh("cramped", "hostname") == "cramped\n"
    finally:
        command.run("down", "cramped")


def test_a_snapshot_of_a_year_ago(quick: Placed, world: World) -> None:
    """The guest's clock was a year behind when it was saved; nothing of that is left when somebody gets in."""
    quick.run("up", "late", *UP)
    try:
        assert "restored" in stages(quick, "late")["vmm"]["detail"]
        off, blur = clock_difference(quick, "late")
        assert abs(off) <= 0.05 + blur and blur < 0.05, (off, blur)
        booted = int(quick.ssh("late", "stat -c %Y /root/ballast"))
        assert booted < int(quick.ssh("late", "date +%s")) - YEAR + 86400
        said = quick.ssh(
            "late", f"cat > /tmp/ca <<'END'\n{world.authority}END\ncurl -sS --cacert /tmp/ca https://{NAME}/"
        )
        assert said == "hello\n"
    finally:
        quick.run("down", "late")


def test_a_restored_machine_reboots_as_itself(quick: Placed) -> None:
    """The next boot is a cold one, on the disk that came from the snapshot."""
    quick.run("up", "again", *UP)
    try:
        assert "restored" in stages(quick, "again")["vmm"]["detail"]
        quick.ssh("again", "echo kept > /root/file; sync")
        quick.ssh("again", "kill -INT 1", check=False)
        until(lambda: quick.json("status", "again")["vm"].get("boots") == 2, what="the second boot", seconds=180)
        until(lambda: quick.json("status", "again")["vm"].get("ssh"), what="SSH after the reboot", seconds=240)
        is_itself(quick, "again")
        assert quick.ssh("again", "cat /root/file") == "kept\n"
    finally:
        quick.run("down", "again")
