"""Files on a real disk: whole whatever happens, cut at their limit, the oldest removed first."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dozlab.terminal_sidecar.recording.asciicast import MARKER, OUTPUT, RESIZE, Event
from dozlab.terminal_sidecar.recording.lane import END, Lane
from dozlab.terminal_sidecar.recording.store import MOST_FILES, Store, name_of, parse_name

from .casts import Cast, parse

START = 1_764_279_000.0


def lane_in(store: Store, shell: str = "main", file_limit: int = 1 << 20) -> Lane:
    def room(lane: Lane, more: int) -> None:
        assert store.make_room(lane.name, more)

    return Lane(shell, store, file_limit=file_limit, room=room, wall=lambda at: START + at)


def casts(store: Store) -> list[Cast]:
    """Return all files, the oldest first."""
    return [parse(store.path(item.id).read_bytes()) for item in reversed(store.list())]


@contextmanager
def files_at_most(size: int) -> Iterator[None]:
    """Make the kernel refuse longer files, as a full disk would (setrlimit(2), RLIMIT_FSIZE)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@given(st.from_regex(r"[a-z0-9][a-z0-9-]{0,31}", fullmatch=True), st.integers(0, 4_000_000_000_000))
def test_a_name_says_whose_and_when(shell: str, millis: int) -> None:
    found = parse_name(name_of(shell, millis / 1000))
    assert found is not None and (found[0], round(found[1] * 1000)) == (shell, millis)


@pytest.mark.parametrize("name", ["", "main", "../etc/passwd", "20269927T212512.000-main", "20261127T212512.000-Main",
                                  "20261127T212512.000-a/b", "20261127T212512.000-a\n"])  # fmt: skip
def test_other_names_are_none_of_ours(name: str) -> None:
    assert parse_name(name) is None


def test_a_shell_is_a_file_and_the_next_one_another(tmp_path: Path) -> None:
    store = Store(tmp_path, 1 << 20)
    lane = lane_in(store)
    lane.write([(0.0, RESIZE, b"100x30"), (1.0, OUTPUT, b"one \xc3"), (2.5, OUTPUT, b"\xa9"), (3.0, END, b"")])
    lane.write(
        [
            (9.0, OUTPUT, b"\x1b[?1049htwo"),
            (9.0, RESIZE, b"90x20"),
            (9.2, RESIZE, b"90x20"),
            (9.5, MARKER, b"lost"),
            (9.5, END, b""),
        ]
    )
    lane.write([(20.0, OUTPUT, b"three")])
    first, second, third = casts(store)
    assert first.header["term"] == {"cols": 100, "rows": 30, "type": "xterm-256color"}
    assert first.events == [(0.0, "o", "one "), (1.5, "o", "é")]
    assert second.events == [(0.0, "o", "\x1b[?1049htwo"), (0.0, "r", "90x20"), (0.5, "m", "lost")]
    assert third.text() == "three" and third.header["term"]["cols"] == 90
    newest, middle, oldest = store.list()
    assert (oldest.shell, oldest.start, oldest.seconds, oldest.live) == ("main", START + 1, 1.5, False)
    assert (middle.live, newest.live) == (False, True)
    assert sum(item.bytes for item in store.list()) == sum(path.stat().st_size for path in tmp_path.iterdir())


@given(st.lists(st.binary(max_size=600), max_size=60))
def test_parts_together_are_what_was_printed(tmp_path_factory: pytest.TempPathFactory, chunks: list[bytes]) -> None:
    store = Store(tmp_path_factory.mktemp("parts"), 1 << 20)
    lane = lane_in(store, file_limit=4096)
    for at, chunk in enumerate(chunks):
        lane.write([(float(at), OUTPUT, chunk)])
    lane.write([(float(len(chunks)), END, b"")])
    text, plain = "", b"".join(chunks).decode(errors="replace")
    for cast in casts(store):
        own = [data for _, _, data in cast.events]
        if cast.header["title"] == "main, continued" and own and not plain.startswith(text + "".join(own)):
            own = own[1:]  # the preamble
        text += "".join(own)
    assert text == plain
    assert all(path.stat().st_size <= 4096 for path in store.folder.iterdir())


def test_a_part_plays_alone_in_the_modes_of_the_former(tmp_path: Path) -> None:
    store = Store(tmp_path, 1 << 20)
    lane = lane_in(store, file_limit=4096)
    lane.write([(0.0, OUTPUT, b"\x1b]2;vim\x07\x1b[?1049h\x1b[?2004h" + b"x" * 3500 + b"\x1b[?10")])
    lane.write([(1.0, OUTPUT, b"06hthere" + b"y" * 2000)])
    first, second = casts(store)
    assert first.events[0][2].endswith("\x1b[?10")
    assert second.header["title"] == "main, continued"
    assert second.events[0] == (
        0.0,
        "o",
        "\x1b]2;vim\x07\x1b[?1049h\x1b[?2004h\x1b[?10",
    )  # then the rest of the sequence
    assert second.events[1][2].startswith("06hthere")


def test_the_oldest_go_first_and_the_limit_holds(tmp_path: Path) -> None:
    store = Store(tmp_path, 1 << 20)
    lane, other = lane_in(store, file_limit=100 << 10), lane_in(store, "other")
    other.write([(0.0, OUTPUT, b"the oldest, and live")])
    for at in range(1, 300):
        lane.write([(float(at), OUTPUT, b"%04d" % at + b"." * 9000)])
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= store.used <= 1 << 20
    assert store.used > 900 << 10
    found = casts(store)
    assert found[0].text() == "the oldest, and live"
    assert "0299" in found[-1].text() and "0001" not in "".join(cast.text() for cast in found)
    starts = [item.start for item in store.list()]
    assert starts == sorted(starts, reverse=True)


def test_tiny_files_are_not_kept_for_ever(tmp_path: Path) -> None:
    store = Store(tmp_path, 1 << 30)
    lane = lane_in(store)
    for at in range(MOST_FILES + 20):
        lane.write([(float(at), OUTPUT, b"exit"), (float(at), END, b"")])
    assert len(list(tmp_path.iterdir())) == MOST_FILES


def test_two_shells_of_one_moment_have_two_files(tmp_path: Path) -> None:
    store = Store(tmp_path, 1 << 20)
    for _ in range(3):
        lane_in(store).write([(1.0, OUTPUT, b"a")])
    assert len(store.list()) == 3


def test_what_a_kill_left_half_written_is_cut_off_and_keeps_its_length(tmp_path: Path) -> None:
    store = Store(tmp_path, 1 << 20)
    lane_in(store).write([(0.0, OUTPUT, b"kept"), (7.5, OUTPUT, b"too")])
    (item,) = store.list()
    path = store.path(item.id)
    whole = path.read_bytes()
    path.write_bytes(whole + b'[0.100, "o", "half of a li')
    os.utime(path, (START + 8, START + 8))
    empty = store.path(name_of("main", START - 50))
    empty.write_bytes(b'{"version": 3, "te')
    (tmp_path / "notes.txt").write_text("somebody's")
    again = Store(tmp_path, 1 << 20)
    again.scan()
    assert path.read_bytes() == whole and not empty.exists() and (tmp_path / "notes.txt").exists()
    (item,) = again.list()
    assert (item.seconds, item.live, item.bytes) == (8.0, False, len(whole))


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    store = Store(tmp_path, 1 << 20)
    lane = lane_in(store)
    lane.write([(0.0, OUTPUT, b"before")])
    with files_at_most(8192), pytest.raises(OSError, match="File too large"):
        lane.write([(float(at), OUTPUT, b"%d" % at + b"z" * 1000) for at in range(1, 20)])
    (cast,) = casts(store)
    assert cast.text() == "before" and not store.live
    lane.write([(30.0, OUTPUT, b"after")])
    assert casts(store)[1].text().endswith("after")


def test_a_file_that_cannot_be_begun_is_not_left_behind(tmp_path: Path) -> None:
    store = Store(tmp_path, 1 << 20)
    with files_at_most(10), pytest.raises(OSError, match="File too large"):
        lane_in(store).write([(0.0, OUTPUT, b"text")])
    assert list(tmp_path.iterdir()) == [] and store.list() == []


def test_input_is_text_of_its_own(tmp_path: Path) -> None:
    store = Store(tmp_path, 1 << 20)
    events: list[Event] = [(0.0, "o", b"\xc3"), (0.1, "i", b"\xe4"), (0.2, "o", b"\xa9"), (0.3, "i", b"\xb8\xad")]
    lane_in(store).write(events)
    (cast,) = casts(store)
    assert (cast.text("o"), cast.text("i")) == ("é", "中")


def test_removed_behind_our_back(tmp_path: Path) -> None:
    store = Store(tmp_path, 1 << 20)
    lane = lane_in(store)
    lane.write([(time.time() - START, OUTPUT, b"x"), (1e9, END, b"")])
    (item,) = store.list()
    store.path(item.id).unlink()
    assert store.list() == []
    assert store.remove(item.id) and not store.remove(item.id)
