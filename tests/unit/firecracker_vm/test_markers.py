"""Markers: whatever the pieces, whatever the junk."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dozlab.firecracker_vm.markers import MAX_LINE, LineSplitter, Marker, clean, find_marker


@pytest.mark.parametrize(
    ("line", "marker"),
    [
        ("dozlab: stage=kernel", Marker("stage", "kernel")),
        ("[    2.345678] dozlab: stage=init", Marker("stage", "init")),
        ("<6>[    2.345678] dozlab: stage=init", Marker("stage", "init")),
        ("[   12.1][    T1] reboot: Restarting system", Marker("kernel", "reboot")),
        ("[   12.123456] reboot: Power down", Marker("kernel", "poweroff")),
        ("reboot: System halted", Marker("kernel", "halt")),
        ("dozlab: shutdown=poweroff", Marker("shutdown", "poweroff")),
        ("dozlab: fault=vdb: no ext4", Marker("fault", "vdb: no ext4")),
        ("dozlab: probe=ok", Marker("probe", "ok")),
        ("[ 9.9] Kernel panic - not syncing: sysrq triggered crash", Marker("panic", "sysrq triggered crash")),
        ("Kernel panic - not syncing: ", Marker("panic", "no reason given")),
    ],
)
def test_markers_are_found(line: str, marker: Marker) -> None:
    assert find_marker(line) == marker


@pytest.mark.parametrize(
    "line",
    [
        "",
        "dozlab: stage=elsewhere",
        "dozlab: shutdown=now",
        "echo dozlab: stage=init",
        "root@lab:~# reboot: Power down",
        " dozlab: stage=init",
        "dozlab: stage",
        "[xx] dozlab: stage=init",
    ],
)
def test_other_lines_are_not_markers(line: str) -> None:
    assert find_marker(line) is None


def test_escape_sequences_and_controls_are_taken_out() -> None:
    assert clean(b"\x1b[1;32mok\x1b[0m\x1b]0;title\x07 \x1b(Bx\x07\ty\r") == "ok x\ty"
    assert find_marker(clean(b"\x1b[?25h\x1bcdozlab: stage=init\r")) == Marker("stage", "init")


def test_a_very_long_line_is_cut_and_the_next_one_is_whole() -> None:
    splitter = LineSplitter()
    lines = []
    for _ in range(1000):
        lines += splitter.feed(b"x" * 1000)
        assert len(splitter.partial) <= MAX_LINE
    lines += splitter.feed(b"\r\ndozlab: stage=init\r\n")
    assert lines == [b"x" * MAX_LINE, b"dozlab: stage=init"]


@given(st.lists(st.binary(max_size=60).map(lambda raw: raw.replace(b"\n", b"").rstrip(b"\r")), max_size=8), st.data())
def test_lines_do_not_depend_on_the_pieces(lines: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(line + b"\r\n" for line in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    splitter, seen = LineSplitter(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        seen += splitter.feed(stream[start:end])
    assert seen == lines
    assert splitter.partial == b""


@given(st.binary(max_size=300))
def test_anything_is_cleaned_to_something_printable(raw: bytes) -> None:
    text = clean(raw)
    assert not any((ord(char) < 32 and char not in "\t\n") or 0x7F <= ord(char) < 0xA0 for char in text)
    find_marker(text)
