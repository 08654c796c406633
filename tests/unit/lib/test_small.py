"""units, env, files, timeline, errors, paths: pure or nearly so."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dozlab.lib import files, paths
from dozlab.lib.env import Env
from dozlab.lib.errors import BadUsage, DozlabError, NoSuchSession
from dozlab.lib.timeline import Timeline
from dozlab.lib.units import format_seconds, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4G", 4 << 30),
        ("4Gi", 4 << 30),
        ("4GiB", 4 << 30),
        ("512m", 512 << 20),
        ("1.5k", 1536),
        ("7", 7),
        (7, 7),
        ("0", 0),
    ],
)
def test_sizes(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1", "4X", "1 2", "0x10", "1e3", -1])
def test_what_is_no_size(text: str | int) -> None:
    with pytest.raises(ValueError, match="size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), (90, 90), ("90s", 90), ("30m", 1800), (" 2h ", 7200), ("1d", 86400), ("0", 0)]
)
def test_durations(text: str | int, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "-1", "1.5h", "1h30m", "5 m", "1w", "9" * 10, -1])
def test_what_is_no_duration(text: str | int) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@given(st.integers(0, 1 << 60))
def test_shown_sizes_keep_their_magnitude(size: int) -> None:
    number, unit = format_size(size).split()
    back = float(number) * {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}[unit]
    assert abs(back - size) <= max(1, size * 0.06)


def test_shown_durations() -> None:
    assert [format_seconds(s) for s in (0.44, 9.94, 35.2, 125)] == ["0.4 s", "9.9 s", "35 s", "2 min 5 s"]


def test_env_reports_every_fault_at_once() -> None:
    env = Env({"N": "x", "S": "lots", "IP": "1.2.3", "F": "perhaps", "P_FILE": "/nonexistent/p"})
    env.integer("N")
    env.size("S", 1)
    env.ipv4("IP", "10.0.0.1")
    env.flag("F")
    env.text("MISSING")
    env.secret("P")
    with pytest.raises(BadUsage) as caught:
        env.check()
    lines = str(caught.value).splitlines()
    assert len(lines) == 6
    assert lines[4] == "MISSING is not set (text)"
    assert lines[5] == "P_FILE='/nonexistent/p': No such file or directory"


def test_env_reads_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "p").write_text("secret\n")
    env = Env({"N": "3", "S": "1K", "F": "Yes", "W": "a, b c", "P_FILE": str(tmp_path / "p"), "EMPTY": ""})
    assert (env.integer("N"), env.size("S"), env.flag("F"), env.words("W")) == (3, 1024, True, ["a", "b", "c"])
    assert env.secret("P") == "secret"
    assert env.text("EMPTY", "default") == "default"
    env.check()


def test_env_bounds() -> None:
    env = Env({"N": "40"})
    env.integer("N", low=1, high=32)
    with pytest.raises(BadUsage, match="N='40': must be 1 to 32"):
        env.check()


def test_atomic_write_has_exact_mode_and_leaves_nothing_beside(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        files.write_atomic(tmp_path / "f", "x", mode=0o644, sync=True)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o644
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_a_failed_atomic_write_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "f"
    target.mkdir()
    with pytest.raises(IsADirectoryError):
        files.write_atomic(target, "x")
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_a_lock_is_exclusive_and_ends_with_its_holder(tmp_path: Path) -> None:
    with files.locked(tmp_path / "l"), pytest.raises(files.Busy), files.locked(tmp_path / "l", wait=False):
        pass
    with files.locked(tmp_path / "l", wait=False):
        pass


def test_timeline_passes_over_what_it_does_not_know(tmp_path: Path) -> None:
    timeline = Timeline(tmp_path)
    assert timeline.read() == []
    timeline.add("rootfs", "start")
    with timeline.path.open("a") as file:
        file.write('{"t": 1, "stage": "future", "event": "done"}\n{"half')
    timeline2 = Timeline(tmp_path)
    assert [(entry.stage, entry.event) for entry in timeline2.read()] == [("rootfs", "start")]


def test_errors_say_what_to_do_and_carry_their_exit_code() -> None:
    assert str(DozlabError("x is missing", hint="run: y")) == "x is missing; run: y"
    assert [kind("m").exit_code for kind in (DozlabError, BadUsage, NoSuchSession)] == [1, 2, 3]


def test_paths_follow_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative is to be ignored")
    monkeypatch.setenv("HOME", "/home/x")
    assert paths.cache() == Path("/home/x/.cache/dozlab")
    monkeypatch.setenv("XDG_STATE_HOME", "/s")
    assert paths.state() == Path("/s/dozlab")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert paths.runtime() == tmp_path / "dozlab"


def test_a_sparse_copy_is_the_same_and_as_small(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    with source.open("wb") as file:
        file.truncate(64 << 20)
        for place in (0, 5 << 20, (64 << 20) - 4096):
            file.seek(place)
            file.write(b"data" * 1024)
    files.copy_sparse(source, target)
    assert target.read_bytes() == source.read_bytes()
    assert target.stat().st_blocks <= 2048
    assert target.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        files.copy_sparse(source, target)


def test_a_sparse_copy_to_another_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Since Linux 5.19 the kernel does not copy between two file systems (copy_file_range(2), EXDEV)."""
    source, target = tmp_path / "source", tmp_path / "target"
    with source.open("wb") as file:
        file.truncate(64 << 20)
        file.seek(5 << 20)
        file.write(os.urandom((3 << 20) + 17))

    def refuse(*_args: object) -> int:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr("os.copy_file_range", refuse)
    files.copy_sparse(source, target)
    assert target.read_bytes() == source.read_bytes()
    assert target.stat().st_blocks <= (4 << 20) // 512


def test_a_sparse_copy_of_nothing_and_of_holes_alone(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    files.copy_sparse(tmp_path / "empty", tmp_path / "a")
    assert (tmp_path / "a").stat().st_size == 0
    with (tmp_path / "hole").open("wb") as file:
        file.truncate(1 << 20)
    files.copy_sparse(tmp_path / "hole", tmp_path / "b")
    assert (tmp_path / "b").stat().st_size == 1 << 20


def test_a_sparse_copy_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "source").write_bytes(b"x" * 8192)

    def full(*_args: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.copy_file_range", full)
    with pytest.raises(OSError, match="No space"):
        files.copy_sparse(tmp_path / "source", tmp_path / "target")
    assert not (tmp_path / "target").exists()
