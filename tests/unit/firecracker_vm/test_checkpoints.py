"""The files of checkpoints: one rename makes one, a crash at any moment keeps the old one, bad names do no harm."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest

from dozlab.firecracker_vm.checkpoints import Checkpoints, check_name, shown
from dozlab.images import snapshots
from dozlab.lib.errors import DozlabError


def fill(folder: Path, memory: bytes = b"memory") -> None:
    """Write what a VMM and firecracker-vm put into a checkpoint."""
    (folder / snapshots.STATE).write_bytes(memory)
    (folder / snapshots.DISK).write_bytes(b"disk")
    (folder / snapshots.TOKEN).write_text("key\n")
    snapshots.describe(folder, {"base": "digest"})


def make(checkpoints: Checkpoints, name: str, memory: bytes = b"memory") -> None:
    fill(checkpoints.begin(name, 100), memory)
    checkpoints.finish(name)


@pytest.fixture
def checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkpoints:
    moments = itertools.count(1.0)  # each a second after the one before, however quickly they are made
    monkeypatch.setattr(snapshots, "time", SimpleNamespace(time=lambda: next(moments)))
    return Checkpoints(tmp_path / "checkpoints", 0)


def names(checkpoints: Checkpoints) -> list[str]:
    return sorted(path.name for path in checkpoints.folder.iterdir())


def test_one_is_made_found_listed_and_removed(checkpoints: Checkpoints) -> None:
    assert checkpoints.ls() == []
    make(checkpoints, "one")
    make(checkpoints, "two")
    assert checkpoints.find("one").token == "key"
    assert [each["name"] for each in shown(checkpoints.ls())] == ["two", "one"]
    checkpoints.rm("one")
    assert names(checkpoints) == ["two"]
    with pytest.raises(DozlabError, match="no checkpoint one; there are: two"):
        checkpoints.find("one")
    with pytest.raises(DozlabError, match="no checkpoint one"):
        checkpoints.rm("one")


def test_a_newer_one_takes_the_name(checkpoints: Checkpoints) -> None:
    make(checkpoints, "one", b"old")
    make(checkpoints, "one", b"new")
    assert checkpoints.find("one").state.read_bytes() == b"new"
    assert names(checkpoints) == ["one"]


def test_a_failed_one_leaves_the_old(checkpoints: Checkpoints) -> None:
    make(checkpoints, "one", b"old")
    (checkpoints.begin("one", 100) / snapshots.STATE).write_bytes(b"half")
    with pytest.raises(DozlabError, match="checkpoint one is not whole"):
        checkpoints.finish("one")
    checkpoints.abandon("one")
    assert checkpoints.find("one").state.read_bytes() == b"old"
    assert names(checkpoints) == ["one"]


@pytest.mark.parametrize("moment", ["saving", "old moved away", "both there"])
def test_a_crash_keeps_the_old_or_the_new(checkpoints: Checkpoints, moment: str) -> None:
    make(checkpoints, "one", b"old")
    fill(checkpoints.begin("one", 100), b"new")
    folder = checkpoints.folder
    if moment != "saving":
        (folder / "one").rename(folder / ".old.one")
    if moment == "both there":
        (folder / ".new.one").rename(folder / "one")
    again = Checkpoints(folder, 0)  # a new process
    again.recover()
    assert again.find("one").state.read_bytes() == (b"new" if moment == "both there" else b"old")
    assert names(again) == ["one"]


def test_a_damaged_one_is_told_and_can_be_removed(checkpoints: Checkpoints) -> None:
    make(checkpoints, "one")
    (checkpoints.folder / "one" / snapshots.STATE).write_bytes(b"short")
    assert checkpoints.ls() == []
    with pytest.raises(DozlabError, match="checkpoint one is damaged"):
        checkpoints.find("one")
    checkpoints.rm("one")
    assert names(checkpoints) == []


def test_there_must_be_room(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints", 64 << 10)
    make(checkpoints, "one")  # some blocks of 4 KiB
    with pytest.raises(DozlabError, match=r"no room for the checkpoint: it may take 60\.0 KiB of"):
        checkpoints.begin("two", 60 << 10)
    checkpoints.begin("one", 60 << 10)  # its own place is free again then
    with pytest.raises(DozlabError, match="no room"):
        Checkpoints(tmp_path / "checkpoints", 0).begin("two", 1 << 60)


@pytest.mark.parametrize("name", ["", "..", "a/b", "A", "-a", "a" * 41, ".new.one", "one\n", None, 7])
def test_bad_names(checkpoints: Checkpoints, name: object) -> None:
    with pytest.raises(DozlabError, match="is no name of a checkpoint"):
        check_name(name)
