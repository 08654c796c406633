"""The console is bounded, whatever the guest prints."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from dozlab.firecracker_vm.console import LOG_BURST, RING, ROTATE_AT, Bucket, Console, Ring, Sink
from dozlab.firecracker_vm.markers import Marker


def test_lines_markers_and_the_unfinished_line() -> None:
    seen: list[Marker] = []
    console = Console(None, seen.append)
    console.feed(b"hello\r\ndozlab: stage=")
    console.feed(b"init\r\n\x1b[31mlab login: ")
    assert seen == [Marker("stage", "init")]
    assert console.text(10).splitlines() == ["hello", "dozlab: stage=init", "lab login: "]
    assert console.summary(2) == "dozlab: stage=init | lab login:"


def test_a_panic_is_summed_up_with_its_cause() -> None:
    console = Console(None, lambda _marker: None)
    dump = [f"[    7.5] RAX: {number:016x} RBX: 0000000000000000" for number in range(20)]
    lines = [
        "[    7.1] systemd[1]: Started something.",
        "[    7.5] BUG: unable to handle page fault for address: ffffc90000004000",
        "[    7.5] RIP: 0010:memcpy+0xa/0x20",
        *dump,
        "[    7.5] Kernel panic - not syncing: Fatal exception in interrupt",
    ]
    console.feed("\n".join([*lines, ""]).encode())
    told = console.summary(1).split(" | ")
    assert [line.partition("] ")[2] for line in told] == [
        "BUG: unable to handle page fault for address: ffffc90000004000",
        "RIP: 0010:memcpy+0xa/0x20",
        "Kernel panic - not syncing: Fatal exception in interrupt",
    ]


def test_the_ring_keeps_the_newest() -> None:
    ring = Ring(1000)
    for number in range(1000):
        ring.add(f"line {number}")
    kept = ring.last(10_000)
    assert kept[-1] == "line 999"
    assert sum(map(len, kept)) <= 1000
    assert ring.last(1) == ["line 999"]
    assert ring.last(0) == []


def test_a_bucket_holds_its_rate() -> None:
    bucket = Bucket(100, 50, 0.0)
    assert bucket.take(50, 0.0)
    assert not bucket.take(1, 0.0)
    assert bucket.take(10, 0.1)
    assert not bucket.take(51, 100.0)  # never more than the burst
    assert bucket.take(50, 0.0)  # a clock that jumps back takes nothing away


def test_a_burst_is_dropped_counted_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dozlab.firecracker_vm.console.time", SimpleNamespace(monotonic=lambda: 0.0))  # all at once
    path = tmp_path / "console.log"
    sink = Sink(path)
    seen: list[Marker] = []
    console = Console(sink, seen.append)
    line = b"y" * 999 + b"\n"
    for _ in range(200):
        console.feed(line * 250)
    console.feed(b"dozlab: shutdown=poweroff\n")
    console.close()
    sink.close(timeout=60)
    text = path.read_text()
    assert len(text) <= LOG_BURST + 300_000
    assert "of console output dropped]" in text
    assert seen == [Marker("shutdown", "poweroff")]
    assert len(console.text(1 << 20)) <= RING + 4096


def test_the_log_rotates_once(tmp_path: Path) -> None:
    path = tmp_path / "console.log"
    sink = Sink(path)
    piece = b"z" * 999 + b"\n"
    written = 0
    while written < 2.5 * ROTATE_AT:
        if sink.write(piece * 100):
            written += 100_000
    sink.close(timeout=60)
    assert path.stat().st_size <= ROTATE_AT
    assert (tmp_path / "console.log.1").stat().st_size <= ROTATE_AT
    assert sorted(os.listdir(tmp_path)) == ["console.log", "console.log.1"]


async def test_reading_a_pipe_to_its_end_keeps_the_last_line() -> None:
    console = Console(None, lambda _marker: None)
    read, write = os.pipe()

    def work() -> None:
        for _ in range(300):
            os.write(write, b"x" * 9_999 + b"\n")
        os.write(write, b"the end\n")
        os.close(write)

    thread = threading.Thread(target=work)
    thread.start()
    await console.read(read)
    thread.join()
    assert console.text(1) == "the end"
    assert console.bytes == 300 * 10_000 + 8


def test_a_marker_in_the_middle_of_a_burst_is_found_and_the_ring_stays_true(tmp_path: Path) -> None:
    seen: list[Marker] = []
    console = Console(Sink(tmp_path / "log"), seen.append)
    junk = b"y\n" * 50_000
    for _ in range(30):
        console.feed(junk)
    console.feed(junk + b"dozlab: shutdown=reboot\r\n" + junk)
    console.feed(junk[:-1])
    console.feed(b"\nreboot: Restarting system\n" + junk + b"last line\npart")
    console.close()
    assert seen == [Marker("shutdown", "reboot"), Marker("kernel", "reboot")]
    assert console.text(2).splitlines() == ["y", "last line", "part"]
