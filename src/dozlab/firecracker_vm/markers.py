"""Marker lines on the guest's console: a pure incremental parser. Knows nothing of files, time or VMMs.

The guest is hostile: lines may be endless, cut, or full of escape sequences. A guest that forges markers only
misreports its own end. Markers are in ARCHITECTURE.md, "Guest"; the kernel's own lines in kernel/reboot.c and panic.c.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

MAX_LINE = 4096
"""Bytes kept of one line; the rest up to the line's end is dropped."""

Kind = Literal["stage", "fault", "shutdown", "probe", "note", "docker", "kernel", "panic"]

NEEDLES = (b"dozlab:", b"Kernel panic", b"reboot:")
"""A piece of output that holds none of these holds no marker."""

_ESCAPES = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-~])")
_CONTROLS = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]")
_C1 = re.compile("[\x80-\x9f]")  # U+009B is CSI to a terminal
_STAMP = r"(?:<\d+>)?(?:\[ *\d+\.\d+\](?:\[ *[TC]\d+\])? )?"
_OURS = re.compile(_STAMP + r"dozlab: (stage|fault|shutdown|probe|note|docker)=(.*)")
_PANIC = re.compile(_STAMP + r"Kernel panic - not syncing: (.*)")
_REBOOT = re.compile(_STAMP + r"reboot: (Restarting system|Power down|System halted)")
_KERNEL = {"Restarting system": "reboot", "Power down": "poweroff", "System halted": "halt"}
_WORDS = tuple(needle.decode() for needle in NEEDLES)
_VALUES = {"shutdown": ("reboot", "poweroff", "halt"), "stage": ("kernel", "init"), "docker": ("ready", "failed")}


@dataclass(frozen=True)
class Marker:
    """One marker. Kind `kernel` is the kernel's own `reboot:` line, with value reboot, poweroff or halt."""

    kind: Kind
    value: str


def clean(raw: bytes) -> str:
    """Return one line as text that is safe to show: no escape sequences, no control characters but tab."""
    text = raw.decode(errors="replace")
    if text.isprintable():
        return text
    return _C1.sub("", _CONTROLS.sub(b"", _ESCAPES.sub(b"", raw)).decode(errors="replace"))


def find_marker(line: str) -> Marker | None:
    """Return the marker that a cleaned line is, if any."""
    if not any(word in line for word in _WORDS):
        return None
    if match := _OURS.match(line):
        kind, value = match[1], match[2].strip()
        if value in _VALUES.get(kind, (value,)):
            return Marker(kind, value)  # type: ignore[arg-type]
    elif match := _PANIC.match(line):
        return Marker("panic", match[1].strip() or "no reason given")
    elif match := _REBOOT.match(line):
        return Marker("kernel", _KERNEL[match[1]])
    return None


class LineSplitter:
    """Cuts a byte stream into lines of at most MAX_LINE bytes, whatever the pieces it arrives in."""

    def __init__(self) -> None:
        self._partial = b""
        self._skipping = False

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines completed by `data`, without their line ends."""
        pieces = data.split(b"\n")
        lines = []
        for piece in pieces[:-1]:
            if not self._skipping:
                self._partial += piece[: MAX_LINE + 1]
                lines.append(self._partial.rstrip(b"\r")[:MAX_LINE])
            self._partial, self._skipping = b"", False
        if not self._skipping:
            self._partial += pieces[-1][: MAX_LINE + 1]
            if len(self._partial) > MAX_LINE:
                lines.append(self._partial[:MAX_LINE])
                self._partial, self._skipping = b"", True
        return lines

    @property
    def partial(self) -> bytes:
        """Return the line that is not complete yet (a login prompt)."""
        return self._partial
