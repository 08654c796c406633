"""Tapes, thread and files together, without a guest: order, floods, a full disk, several shells within one limit."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from dozlab.terminal_sidecar.history import History
from dozlab.terminal_sidecar.recording import recorder as recorder_module
from dozlab.terminal_sidecar.recording.asciicast import TERM, Event
from dozlab.terminal_sidecar.recording.recorder import Recorder
from dozlab.terminal_sidecar.recording.tape import BURST, SHOWN, Tape

from .casts import Cast, parse
from .test_files import files_at_most


class Printer:
    """A shell as far as its tape sees it."""

    def __init__(self, recorder: Recorder, name: str = "main") -> None:
        self.history = History(1 << 20)
        self.tape: Tape = recorder.tape(name, self.history)

    def print(self, data: bytes) -> None:
        self.history.append(data)
        self.tape.output(data)


@asynccontextmanager
async def recording(
    folder: Path, *, limit: int = 64 << 20, with_input: bool = False, clock: Callable[[], float] = time.monotonic
) -> AsyncIterator[Recorder]:
    recorder = Recorder(folder, limit=limit, with_input=with_input, clock=clock)
    await recorder.start()
    yield recorder
    await recorder.close()


async def casts(recorder: Recorder) -> list[Cast]:
    """Return all recordings up to now, the oldest first."""
    found = []
    for item in reversed((await recorder.list()).recordings):
        place = await recorder.find(item.id)
        assert place is not None
        found.append(parse(place[0].read_bytes()[: place[1]]))
    return found


async def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, f"still missing: {what}"
        await asyncio.sleep(0.01)


async def test_what_a_shell_tells_comes_in_order_and_its_end_closes_the_file(tmp_path: Path) -> None:
    async with recording(tmp_path) as recorder:
        shell = Printer(recorder)
        shell.tape.resized(100, 30)
        shell.print(b"hello \xf0\x9f")
        shell.print(b"\x98\x80")
        shell.tape.input(b"secret")
        shell.tape.resized(90, 20)
        shell.tape.marker("killed by TERM")
        shell.tape.ended(3)
        shell.print(b"another")
        first, second = await casts(recorder)
        assert [event[1:] for event in first.events] == [
            ("o", "hello \U0001f600"), ("r", "90x20"), ("m", "killed by TERM"), ("x", "3"),
        ]  # fmt: skip
        assert first.header["term"]["cols"] == 100
        assert second.text() == "another" and second.header["term"] == first.header["term"] | {"cols": 90, "rows": 20}
        newest, oldest = (await recorder.list()).recordings
        assert (newest.live, oldest.live) == (True, False)


async def test_input_is_recorded_only_when_asked_for(tmp_path: Path) -> None:
    async with recording(tmp_path, with_input=True) as recorder:
        shell = Printer(recorder)
        shell.print(b"$ ")
        shell.tape.input(b"ls\r")
        (cast,) = await casts(recorder)
        assert cast.of("i") == ["ls\r"]
    (tmp_path / "unasked").mkdir()
    async with recording(tmp_path / "unasked") as recorder:
        shell = Printer(recorder)
        shell.print(b"Password: ")
        shell.tape.input(b"secret\r")
        (cast,) = await casts(recorder)
        assert cast.of("o") and not cast.of("i")


async def test_it_is_written_by_itself(tmp_path: Path) -> None:
    async with recording(tmp_path) as recorder:
        Printer(recorder).print(b"nobody asks")
        await until(lambda: any(b"nobody asks" in path.read_bytes() for path in tmp_path.iterdir()), "the output")


async def test_closing_writes_what_there_is(tmp_path: Path) -> None:
    async with recording(tmp_path) as recorder:
        Printer(recorder).print(b"last words")
    (path,) = tmp_path.iterdir()
    assert parse(path.read_bytes()).text() == "last words"


async def test_a_flood_is_left_out_said_and_its_end_is_shown(tmp_path: Path) -> None:
    now = 0.0  # all of it at once, however busy this machine is
    async with recording(tmp_path, clock=lambda: now) as recorder:
        shell = Printer(recorder)
        shell.print(b"\x1b[?2004h")
        line = b"all work and no play\r\n" * 1000
        for _ in range(1000):  # 22 MB at once
            shell.print(line)
        shell.print(b"\x1b[?1049hdone at last")
        assert shell.tape._size <= BURST + SHOWN  # what waits is bounded
        now += 10
        await until(lambda: shell.tape._gap is None, "the end of the gap")
        shell.print(b" and on")
        (cast,) = await casts(recorder)
        text = cast.text()
        assert "all work" in text and BURST * 0.9 < len(text) < BURST + (64 << 10)
        (word,) = cast.of("m")
        assert word.endswith("MiB of output left out") and float(word.split()[0]) > 15
        at = [event[1:] for event in cast.events].index(("m", word))
        shown = "".join(event[2] for event in cast.events[at + 1 :])
        assert shown.startswith("\x1bc\x1b[?2004h") and shown.endswith("\x1b[?1049hdone at last and on")


async def test_a_short_gap_loses_nothing(tmp_path: Path) -> None:
    async with recording(tmp_path) as recorder:
        shell = Printer(recorder)
        printed = b""
        while shell.tape._gap is None:
            chunk = b"%07d " % len(printed) * 1000
            shell.print(chunk)
            printed += chunk
        await until(lambda: shell.tape._gap is None, "the end of the gap")
        (cast,) = await casts(recorder)
        assert cast.of("m") == [] and cast.text() == printed.decode()


class _Collector:
    """Takes batches at once."""

    on, behind = True, False

    def __init__(self) -> None:
        self.events: list[Event] = []

    def take(self, tape: Tape, events: list[Event], size: int) -> None:
        self.events += events

    def closed(self, tape: Tape) -> None:
        raise AssertionError("nothing closes it")


async def test_a_flood_that_goes_on_shows_itself_now_and_then() -> None:
    now, history, sink = 0.0, History(1 << 20), _Collector()
    tape = Tape("main", history, sink, with_input=False, clock=lambda: now)

    def print_(data: bytes) -> None:
        history.append(data)
        tape.output(data)

    for tick in range(300):  # half a minute at 1 MB/s
        for _ in range(4):
            print_(b"%07d\n" % tick * 3125)
        now += 0.1
        tape._tick()
    marks = [at for at, event in enumerate(sink.events) if event[1] == "m"]
    assert len(marks) in (4, 5) and sink.events[marks[0]][2].endswith(b"of output left out")
    for before, after in zip(marks, [*marks[1:], len(sink.events)], strict=True):
        assert sum(len(event[2]) for event in sink.events[before + 1 : after]) < SHOWN + 100
    print_(b"it ends\n")
    for _ in range(2):  # the first has seen the flood's last bytes too
        now += 0.1
        tape._tick()
    assert sink.events[-1][2].endswith(b"it ends\n")
    print_(b"as ever\n")
    now += 0.1
    tape._tick()
    assert sink.events[-1][1:] == ("o", b"as ever\n")
    assert tape._timer is None


async def test_a_full_disk_stops_it_with_one_line_and_room_lets_it_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "RETRY", 0.05)
    caplog.set_level(logging.INFO)
    async with recording(tmp_path) as recorder:
        told: list[bool] = []
        recorder.on_change(lambda: told.append(recorder.on))
        shell = Printer(recorder)
        shell.print(b"\x1b[?1049hbefore")
        assert (await casts(recorder))[0].text() == "\x1b[?1049hbefore"
        with files_at_most(8192):
            for at in range(30):
                shell.print(b"%02d" % at * 500)
            await until(lambda: not recorder.on, "the end of recording")
            assert not shell.tape.recording
            for at in range(30):
                shell.print(b"lost %02d" % at * 5000)
            await asyncio.sleep(0.2)  # it is tried again, and again in vain
            assert told == [False]
            assert shell.tape._events == []
        await until(lambda: recorder.on, "recording to go on")
        shell.print(b"after")
        await until(lambda: shell.tape._gap is None, "the end of the gap")
        first, second = await casts(recorder)
        assert first.text() == "\x1b[?1049hbefore"
        assert second.of("m")[0].startswith("recording had stopped: ")
        assert second.text().endswith("after") and "\x1bc\x1b[?1049h" in second.text()
        assert {path.suffix for path in tmp_path.iterdir()} == {".cast"}
    warnings = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert warnings == [f"recording stops: {tmp_path}: File too large; it goes on when there is room"]
    assert told == [False, True]


async def test_a_shell_that_ends_while_the_disk_is_full_is_not_the_next_ones_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "RETRY", 0.05)
    async with recording(tmp_path) as recorder:
        shell = Printer(recorder)
        shell.print(b"\x1b[?1049hold")
        await recorder.list()
        with files_at_most(300):
            shell.print(b"x" * 1000)
            await until(lambda: not recorder.on, "the end of recording")
            shell.print(b"of the old one\r\nto its end\r\n")
            shell.tape.ended(0)
            shell.print(b"of the new one\r\n$ ")
        await until(lambda: recorder.on, "recording to go on")
        shell.print(b"typed")
        await until(lambda: shell.tape._gap is None, "the end of the gap")
        found = await casts(recorder)
        text, title = found[-1].text(), found[-1].header["title"]
        assert "to its end" not in text and text.endswith("$ typed") and title == "main"


async def test_what_could_not_be_written_still_says_whose_the_rest_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "RETRY", 0.05)
    async with recording(tmp_path) as recorder:
        shell = Printer(recorder)
        with files_at_most(300):
            shell.print(b"x" * 1000)
            shell.tape.resized(90, 20)
            shell.tape.ended(0)
            await until(lambda: not recorder.on, "the end of recording")
            shell.tape.resized(70, 10)
        await until(lambda: recorder.on, "recording to go on")
        shell.print(b"another")
        await until(lambda: shell.tape._gap is None, "the end of the gap")
        (cast,) = await casts(recorder)
        assert cast.header["title"] == "main" and cast.header["term"] == {"cols": 70, "rows": 10, "type": TERM}
        assert "x" not in cast.text() and cast.text().endswith("another")


async def test_what_waits_when_it_stops_is_not_written_later(tmp_path: Path) -> None:
    async with recording(tmp_path) as recorder:
        Printer(recorder).print(b"waits")
        recorder._switch(False)
        await recorder.list()
        assert list(tmp_path.iterdir()) == []


async def test_without_its_folder_nothing_is_recorded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with recording(tmp_path / "absent") as recorder:
        shell = Printer(recorder)
        shell.print(b"as ever")
        assert shell.tape._events == []
        shell.tape.resized(90, 20)
        shell.tape.ended(0)
        assert not recorder.on and not shell.tape.recording
        assert (await recorder.list()).recordings == []
        assert not (tmp_path / "absent").exists()
    (record,) = caplog.records
    assert record.message == f"shells are not recorded: {tmp_path / 'absent'}: No such file or directory"


async def test_many_shells_stay_within_the_limit(tmp_path: Path) -> None:
    async with recording(tmp_path, limit=1 << 20) as recorder:
        shells = [Printer(recorder, f"s{at}") for at in range(12)]
        for number in range(40):
            for shell in shells:
                shell.print(b"%04d" % number + b"." * 6000)
            used = (await recorder.list()).used
            assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= used <= 1 << 20
        newest = next(item for item in (await recorder.list()).recordings if item.shell == "s11")
        found = await recorder.find(newest.id)  # of the one that printed last, which makes room for itself
        assert found is not None and "0039" in parse(found[0].read_bytes()).text()


async def test_removing_what_is_being_written_begins_anew(tmp_path: Path) -> None:
    async with recording(tmp_path) as recorder:
        shell = Printer(recorder)
        shell.print(b"\x1b[?1049ha password")
        (item,) = (await recorder.list()).recordings
        assert await recorder.remove(item.id)
        assert not await recorder.remove(item.id)
        assert list(tmp_path.iterdir()) == []
        shell.print(b"and on")
        (cast,) = await casts(recorder)
        assert cast.text() == "\x1b[?1049hand on"


async def test_a_closed_shell_is_forgotten(tmp_path: Path) -> None:
    async with recording(tmp_path) as recorder:
        for at in range(5):
            shell = Printer(recorder, f"s{at}")
            shell.print(b"x")
            shell.tape.close()
        assert not recorder._lanes
        assert [item.live for item in (await recorder.list()).recordings] == [False] * 5
