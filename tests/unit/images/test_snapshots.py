"""Snapshots in the store: found only where everything fits, whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from dozlab.images import snapshots
from dozlab.images.snapshots import Needs, Snapshots, Unfit
from dozlab.lib.errors import DozlabError

NEEDS: Needs = {"base": "b" * 64, "kit": "k", "vmm": "qemu", "accel": "tcg", "cpu": "max", "cpus": 2, "memory": 1024}


def made(folder: Path, needs: Needs = NEEDS, size: int = 4096, memory: int = 0) -> Path:
    folder.mkdir(parents=True)
    (folder / snapshots.STATE).write_bytes(b"s" * size)
    if memory:  # as Firecracker has it
        (folder / snapshots.MEMORY).write_bytes(b"m" * memory)
    (folder / snapshots.DISK).write_bytes(b"d" * 4096)
    (folder / snapshots.TOKEN).write_text("secret\n")
    snapshots.describe(folder, needs)
    return folder


def test_what_was_added_is_found(tmp_path: Path) -> None:
    store = Snapshots(tmp_path / "snapshots")
    added = store.add(made(tmp_path / "new"))
    found = store.find(NEEDS)
    assert found == added
    assert found.token == "secret"
    assert found.state.read_bytes() == b"s" * 4096
    assert found.disk.exists()
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"memory": 2048}, "another memory in MiB (1024, not 2048)"),
        ({"cpus": 1}, "another number of vCPUs (2, not 1)"),
        ({"cpu": "host"}, "another CPU (max, not host)"),
        ({"kit": "k2", "vmm": "firecracker"}, "another boot kit (k, not k2) and differs in 1 more"),
        ({"base": "c" * 64}, "no snapshot of this image has been prepared"),
        ({"new": 1}, "another new (none, not 1)"),
    ],
)
def test_another_machine_is_told_why(tmp_path: Path, change: dict[str, str | int], words: str) -> None:
    store = Snapshots(tmp_path / "snapshots")
    store.add(made(tmp_path / "new"))
    with pytest.raises(Unfit) as caught:
        store.find(NEEDS | change)
    assert words in str(caught.value)


def test_an_empty_store_says_so(tmp_path: Path) -> None:
    with pytest.raises(Unfit, match="no snapshot of this image"):
        Snapshots(tmp_path / "none").find(NEEDS)


PARTS = [snapshots.STATE, snapshots.MEMORY, snapshots.DISK, snapshots.TOKEN, snapshots.DESCRIPTION]


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("how", ["truncated", "missing"])
def test_a_damaged_one_is_none(tmp_path: Path, name: str, how: str) -> None:
    store = Snapshots(tmp_path / "snapshots")
    folder = store.add(made(tmp_path / "new", memory=8192)).folder
    if how == "missing":
        (folder / name).unlink()
    else:
        os.truncate(folder / name, 3)
    with pytest.raises(Unfit, match="damaged"):
        store.find(NEEDS)
    assert store.ls() == []
    # Nobody would count it: it goes when the limit is looked at, whatever that is.
    store.add(made(tmp_path / "other", NEEDS | {"memory": 2048}))
    store.limit(1 << 40)
    assert not folder.exists()
    assert [each.needs["memory"] for each in store.ls()] == [2048]


@pytest.mark.parametrize("how", ["a pipe", "a link to a device", "far too long"])
def test_nobody_waits_for_a_description_that_is_none(tmp_path: Path, how: str) -> None:
    """Checkpoints lie where a VMM that was taken over can write, and `dozlab ls` reads them."""
    store = Snapshots(tmp_path / "snapshots")
    path = store.add(made(tmp_path / "new")).folder / snapshots.DESCRIPTION
    if how == "far too long":
        path.write_text(path.read_text() + " " * (1 << 20))
    else:
        path.unlink()
        if how == "a pipe":
            os.mkfifo(path)
        else:
            path.symlink_to("/dev/zero")
    assert store.ls() == []


def test_what_is_swept_is_counted_and_the_rest_stays(tmp_path: Path) -> None:
    store = Snapshots(tmp_path / "snapshots")
    assert store.sweep() == 0  # there is no folder yet
    kept = store.add(made(tmp_path / "kept"))
    old = store.add(made(tmp_path / "old", NEEDS | {"memory": 2048}, size=1 << 20)).folder
    description = json.loads((old / snapshots.DESCRIPTION).read_text())
    (old / snapshots.DESCRIPTION).write_text(json.dumps({**description, "format": 0}))
    assert store.sweep() >= 1 << 20
    assert store.ls() == [kept] and not old.exists()
    assert store.sweep() == 0


def test_one_may_be_removed_twice_and_after_a_kill(tmp_path: Path) -> None:
    store = Snapshots(tmp_path / "snapshots")
    added = store.add(made(tmp_path / "new"))
    made(store.folder / f".gone.{added.folder.name}")  # an older one of the name, half removed
    for _ in range(2):  # two commands have seen it
        store.rm(added)
    assert [path.name for path in store.folder.iterdir()] == [".lock"]


def test_one_that_is_not_whole_is_not_added(tmp_path: Path) -> None:
    folder = made(tmp_path / "new")
    (folder / snapshots.DISK).unlink()
    with pytest.raises(DozlabError, match="no whole snapshot"):
        Snapshots(tmp_path / "snapshots").add(folder)
    assert folder.exists()


def test_a_new_one_replaces_the_old(tmp_path: Path) -> None:
    store = Snapshots(tmp_path / "snapshots")
    store.add(made(tmp_path / "one", size=4096))
    store.add(made(tmp_path / "two", size=8192))
    (left,) = store.ls()
    assert left.state.stat().st_size == 8192
    assert [path.name for path in store.folder.iterdir() if path.name != ".lock"] == [left.folder.name]


def test_a_limit_takes_the_oldest_and_never_the_newest(tmp_path: Path) -> None:
    store = Snapshots(tmp_path / "snapshots")
    for memory in (512, 1024, 2048):
        store.add(made(tmp_path / "new", NEEDS | {"memory": memory}, size=1 << 20))
    gone = store.limit(int(2.5 * (1 << 20)))
    assert [each.needs["memory"] for each in gone] == [512]
    assert [each.needs["memory"] for each in store.limit(1)] == [1024]
    assert [each.needs["memory"] for each in store.ls()] == [2048]


@pytest.mark.parametrize("moment", ["the old one is away", "both are there", "one is half removed"])
def test_a_kill_leaves_the_old_one_or_the_new(tmp_path: Path, moment: str) -> None:
    """And what comes next removes neither."""
    store = Snapshots(tmp_path / "snapshots")
    place = store.add(made(tmp_path / "old")).folder
    if moment == "one is half removed":
        place.rename(store.folder / f".gone.{place.name}")
    else:
        place.rename(store.folder / f".old.{place.name}")
    if moment == "both are there":
        made(tmp_path / "new", size=8192).rename(place)
    if moment == "one is half removed":
        with pytest.raises(Unfit):
            store.find(NEEDS)
    else:  # it is of use before anybody has mended anything
        assert store.find(NEEDS).state.stat().st_size == (8192 if moment == "both are there" else 4096)
    store.recover()
    assert [path.name for path in store.folder.iterdir() if path.name != ".lock"] == (
        [] if moment == "one is half removed" else [place.name]
    )
    if moment != "one is half removed":
        assert store.find(NEEDS).state.stat().st_size == (8192 if moment == "both are there" else 4096)
