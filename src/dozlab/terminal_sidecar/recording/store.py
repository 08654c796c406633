"""The folder of the recordings: names, sizes, and the limit of all together. For one thread only."""

from __future__ import annotations

import contextlib
import math
import os
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

_NAME = re.compile(r"(?P<start>\d{8}T\d{6}\.\d{3})-(?P<shell>[a-z0-9][a-z0-9-]{0,31})")
_SHELL_AT = len("20261127T213000.123-")
_SUFFIX = ".cast"
_BLOCK = 4096  # bytes: what a small file takes at least
MOST_FILES = 500
_TAIL = 1 << 20  # bytes looked through for the end of the last whole line: more than a line ever has


@dataclass(frozen=True)
class Recording:
    """One file."""

    id: str
    shell: str
    start: float
    """Seconds of the Unix epoch."""
    seconds: float
    """How long it is."""
    bytes: int
    live: bool
    """It is still being written."""


def name_of(shell: str, start: float) -> str:
    """Return the name of a recording that starts then."""
    millis = round(start * 1000)
    moment = time.strftime("%Y%m%dT%H%M%S", time.gmtime(millis // 1000))
    return f"{moment}.{millis % 1000:03d}-{shell}"


def parse_name(name: str) -> tuple[str, float] | None:
    """Return shell and start, or None for what is no recording's name."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    digits = match["start"].replace("T", "").replace(".", "")
    year, month, day, hour, minute, second = (int(digits[at:end]) for at, end in pairwise((0, 4, 6, 8, 10, 12, 14)))
    try:
        moment = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError:
        return None
    return match["shell"], int(moment.timestamp()) + int(digits[14:]) / 1000


def whole_length(path: Path) -> int:
    """Return the bytes up to the end of the last whole line: a writer that was killed may leave half of one.

    :raises OSError: when it cannot be read
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        if file.read() == b"\n":
            return size
        file.seek(max(0, size - _TAIL))
        tail = file.read()
    return size - len(tail) + tail.rfind(b"\n") + 1


class Store:
    """Keeps all recordings together within `limit` bytes; a file counts in whole blocks."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._sizes: dict[str, int] = {}
        self.live: set[str] = set()

    def scan(self) -> None:
        """Look at what former runs left, and cut off what a kill left half written.

        :raises OSError: when the folder cannot be read or written
        """
        for path in sorted(self.folder.iterdir()):
            if path.suffix != _SUFFIX or parse_name(path.stem) is None:
                continue
            status, length = path.stat(), whole_length(path)
            if length == 0:
                path.unlink()
                continue
            if length < status.st_size:
                os.truncate(path, length)
                os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # it tells how long the recording is
            self._sizes[path.stem] = length

    @property
    def used(self) -> int:
        """Return the bytes of all together."""
        return sum(map(_cost, self._sizes.values()))

    def has(self, name: str) -> bool:
        """Tell whether there is a recording of that name."""
        return name in self._sizes

    def path(self, name: str) -> Path:
        """Return where a recording lies."""
        return self.folder / (name + _SUFFIX)

    def start_of(self, name: str) -> float:
        """Return when a recording began, seconds of the Unix epoch."""
        parsed = parse_name(name)
        assert parsed is not None  # create() and scan() let in no others
        return parsed[1]

    def create(self, shell: str, start: float) -> tuple[str, int]:
        """Make a new, live file; returns its name and a descriptor.

        :raises OSError: when it cannot be made
        """
        while True:
            name = name_of(shell, start)
            with contextlib.suppress(FileExistsError):
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
                descriptor = os.open(self.path(name), flags, 0o600)
                self._sizes[name] = 0
                self.live.add(name)
                return name, descriptor
            start += 0.001

    def grown(self, name: str, size: int) -> None:
        """Take the new size of a file."""
        self._sizes[name] = size

    def make_room(self, name: str, more: int) -> bool:
        """Remove ended recordings, the oldest first, until a live one may grow by `more` bytes; tell whether it may.

        :raises OSError: when one cannot be removed
        """
        size = self._sizes[name]
        while self.used - _cost(size) + _cost(size + more) > self.limit or len(self._sizes) > MOST_FILES:
            oldest = next((other for other in sorted(self._sizes) if other not in self.live), None)
            if oldest is None:
                return False
            self.remove(oldest)
        return True

    def remove(self, name: str) -> bool:
        """Remove a recording; tells whether it was there.

        :raises OSError: when it cannot be removed
        """
        if name not in self._sizes:
            return False
        self.path(name).unlink(missing_ok=True)
        del self._sizes[name]
        self.live.discard(name)
        return True

    def list(self) -> list[Recording]:
        """Return the recordings, the newest first."""
        found = []
        for name in sorted(self._sizes, reverse=True):
            shell, start = name[_SHELL_AT:], self.start_of(name)
            try:
                end = self.path(name).stat().st_mtime_ns / 1e9
            except FileNotFoundError:  # removed behind our back
                continue
            seconds = round(max(0.0, end - start), 1)
            found.append(Recording(name, shell, start, seconds, self._sizes[name], live=name in self.live))
        return found


def _cost(size: int) -> int:
    return math.ceil(size / _BLOCK) * _BLOCK
