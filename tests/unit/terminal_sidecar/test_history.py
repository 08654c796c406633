"""The bounded history and the mode tracker."""

from __future__ import annotations

import itertools
import mmap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dozlab.terminal_sidecar.history import History
from dozlab.terminal_sidecar.modes import ModeTracker

pieces = st.sampled_from(
    [b"\x1b[?1049h", b"\x1b[?1049l", b"\x1b[?1000;1006h", b"\x1b[?2004h", b"\x1b[?25l", b"\x1b]2;vim a.c\x07",
     b"\x1b]0;t\x1b\\", b"\x1b[2;20r", b"\x1b[r", b"\x1bc", b"\x1b[!p", b"\x1b=", b"\x1b(0", b"\x1b[4h", b"\x1b[5 q",
     b"text\r\n", b"\xe4\xb8\xad", b"\x1b[31m", b"\x1b", b"\x1b["]
)  # fmt: skip
streams = st.lists(pieces, max_size=30).map(b"".join)


@given(st.lists(st.binary(max_size=70), max_size=40), st.integers(1, 100), st.booleans())
def test_the_history_is_the_last_bytes_by_offset(chunks: list[bytes], capacity: int, on_disk: bool) -> None:
    history = History(capacity, mmap.mmap(-1, capacity) if on_disk else None)
    everything = b"".join(chunks)
    for chunk in chunks:
        history.append(chunk)
    assert history.end == len(everything)
    assert history.start == max(0, len(everything) - capacity)
    for offset in range(history.start, history.end + 1):
        assert history.read(offset, 1000) == everything[offset:]
        assert history.read(offset, 3) == everything[offset : offset + 3]


def state(tracker: ModeTracker) -> dict[str, object]:
    return {key: value for key, value in tracker.__dict__.items() if key != "_carry"}


@given(streams, st.lists(st.integers(0, 400), max_size=8))
def test_modes_do_not_depend_on_how_the_stream_is_cut(stream: bytes, cuts: list[int]) -> None:
    whole, parts = ModeTracker(), ModeTracker()
    whole.feed(stream)
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    for start, end in itertools.pairwise(edges):
        parts.feed(stream[start:end])
    assert state(parts) == state(whole)


@given(streams)
def test_the_preamble_brings_a_fresh_emulator_to_the_same_modes(stream: bytes) -> None:
    tracker, fresh = ModeTracker(), ModeTracker()
    tracker.feed(stream)
    fresh.feed(tracker.preamble())
    assert (fresh.modes, fresh.title, fresh.insert, fresh.keypad) == (
        tracker.modes, tracker.title, tracker.insert, tracker.keypad,
    )  # fmt: skip
    fresh.feed(tracker.leave())
    assert fresh.modes == {} and not fresh.alternate


def test_modes_set_before_the_history_begins_are_in_the_preamble() -> None:
    history = History(1000)
    history.append(b"\x1b[?1049h\x1b[?1002h\x1b[?1006h\x1b[?2004h\x1b[?25l\x1b]2;top\x07")
    for number in range(200):
        history.append(b"line %d\r\n" % number)
    offset, preamble = history.replay()
    assert preamble.startswith(b"\x1b]2;top\x07\x1b[?1049h")
    for mode in (b"\x1b[?1002h", b"\x1b[?1006h", b"\x1b[?2004h", b"\x1b[?25l"):
        assert mode in preamble
    assert history.read(offset - 1, 1) == b"\n"
    assert history.modes().alternate


@pytest.mark.parametrize("capacity", [70_000])
def test_a_replay_without_line_ends_starts_at_a_sequence(capacity: int) -> None:
    history = History(capacity)
    history.append(b"\x1b[1;1Habc" * 20_000)
    offset, _ = history.replay()
    assert history.read(offset, 6) == b"\x1b[1;1H"


def test_memory_is_bounded() -> None:
    history = History(64 << 10)
    for _ in range(50):
        history.append(b"x" * 100_000)
    assert len(history._buffer) == 64 << 10


@given(
    st.lists(
        st.sampled_from([b"\x1b[?10", b"49h", b"\x1b[?25l", b"x" * 90, b"\x1b]2;t\x07", b"\x1b[?2004h", b"\x1bc"]),
        max_size=40,
    )
)
def test_asking_for_the_modes_now_and_then_changes_nothing(pieces: list[bytes]) -> None:
    asked, quiet = History(200), History(200)
    for piece in pieces:
        asked.append(piece)
        quiet.append(piece)
        asked.modes()
    assert asked.modes().preamble() == quiet.modes().preamble()
    assert asked.modes().leave() == quiet.modes().leave()
