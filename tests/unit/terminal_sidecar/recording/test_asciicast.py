"""The pure writer: bytes in, text out, whatever the chunks; times that add up; version 2 out of version 3."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dozlab.terminal_sidecar.recording import asciicast
from dozlab.terminal_sidecar.recording.asciicast import EXIT, MARKER, MOST_JOINED, OUTPUT, RESIZE, Event

from .casts import parse

texts = st.text(
    alphabet=st.one_of(st.characters(codec="utf-8"), st.sampled_from('\x00\x1b\x7f"\\\r\n\u2028\U0001f600é'))
)


def written(events: list[Event], start: float = 0.0) -> bytes:
    """Return a file as a lane writes it."""
    text, lines = asciicast.Text(), asciicast.Lines(start)
    out = asciicast.header(cols=80, rows=24, start=1_700_000_000.9, title="main")
    for at, code, data in asciicast.joined(events):
        found = text.more(data) if code == OUTPUT else data.decode()
        if found:
            out += lines.line(at, code, asciicast.quote(found))
    rest = text.rest()
    return out + (lines.line(events[-1][0], OUTPUT, asciicast.quote(rest)) if rest else b"")


@given(texts, st.lists(st.tuples(st.integers(1, 7), st.floats(0, 0.02)), max_size=60))
def test_text_is_whole_whatever_the_chunks(text: str, cuts: list[tuple[int, float]]) -> None:
    data, at, now, events = text.encode(), 0, 5.0, list[Event]()
    for size, pause in cuts:
        events.append((now, OUTPUT, data[at : at + size]))
        at, now = at + size, now + pause
    events.append((now, OUTPUT, data[at:]))
    cast = parse(written(events, 5.0))
    assert cast.text() == text
    assert all("\ufffd" not in part for part in cast.of("o")) or "\ufffd" in text


@given(st.lists(st.binary(max_size=9), min_size=1, max_size=30))
def test_bytes_that_are_no_text_are_replaced_as_a_decoder_does(chunks: list[bytes]) -> None:
    cast = parse(written([(float(at), OUTPUT, chunk) for at, chunk in enumerate(chunks)]))
    assert cast.text() == b"".join(chunks).decode(errors="replace")


@given(st.lists(st.floats(0, 3, allow_nan=False), min_size=1, max_size=200))
def test_intervals_add_up_to_the_exact_time(pauses: list[float]) -> None:
    now, events = 100.0, []
    for pause in pauses:
        now += pause
        events.append((now, MARKER, b"here"))
    cast = parse(written(events, 100.0))
    assert [at for at, _, _ in cast.events] == [round(at - 100.0, 3) for at, _, _ in events]


def test_a_clock_that_goes_back_stands_still() -> None:
    cast = parse(written([(5.0, OUTPUT, b"a"), (4.0, MARKER, b"m"), (6.0, OUTPUT, b"b")]))
    assert [at for at, _, _ in cast.events] == [5.0, 5.0, 6.0]


def test_outputs_at_once_are_one_event_and_all_else_stays_in_order() -> None:
    events: list[Event] = [
        (1.000, OUTPUT, b"a"), (1.004, OUTPUT, b"b"), (1.0079, OUTPUT, b"c"), (1.009, OUTPUT, b"d"),
        (1.009, RESIZE, b"90x30"), (1.009, OUTPUT, b"e"), (1.010, EXIT, b"3"),
    ]  # fmt: skip
    assert list(asciicast.joined(events)) == [
        (1.000, OUTPUT, b"abc"), (1.009, OUTPUT, b"d"), (1.009, RESIZE, b"90x30"), (1.009, OUTPUT, b"e"),
        (1.010, EXIT, b"3"),
    ]  # fmt: skip
    many = [(1.0, OUTPUT, b"x" * 1000)] * 100
    sizes = [len(data) for _, _, data in asciicast.joined(many)]
    assert sum(sizes) == 100_000 and max(sizes) <= MOST_JOINED and len(sizes) == 4


def test_version_2_has_absolute_times_and_no_exit() -> None:
    v3 = written(
        [(0.5, OUTPUT, "hé\r\n".encode()), (60.25, RESIZE, b"90x30"), (61.0, EXIT, b"0"), (62.5, OUTPUT, b"]")]
    )
    v2 = parse(b"".join(asciicast.to_v2(v3.splitlines(keepends=True))))
    assert v2.header == {
        "version": 2, "width": 80, "height": 24, "timestamp": 1_700_000_000, "title": "main",
        "env": {"TERM": "xterm-256color"},
    }  # fmt: skip
    assert v2.events == [(0.5, "o", "hé\r\n"), (60.25, "r", "90x30"), (62.5, "o", "]")]
    assert [event for event in parse(v3).events if event[1] != "x"] == v2.events


@given(st.lists(st.tuples(st.floats(0, 100), texts.filter(bool)), min_size=1, max_size=20))
def test_version_2_says_the_same_as_version_3(parts: list[tuple[float, str]]) -> None:
    now, events = 0.0, list[Event]()
    for pause, text in parts:
        now += pause
        events.append((now, OUTPUT, text.encode()))
    v3 = written(events)
    v2 = b"".join(asciicast.to_v2(line + b"\n" for line in v3.split(b"\n")[:-1]))
    assert parse(v2).events == parse(v3).events
