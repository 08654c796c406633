"""asciicast, version 3, and version 2 out of it: events to lines. Pure.

The formats are those of asciinema's manual ("asciicast file format"). One line of JSON each: a header, then events
`[seconds, code, data]`. In version 3 the seconds count from the former event, in version 2 from the beginning; `o` is
output, `i` input, `r` a new size (`80x24`), `m` a marker, and, in version 3 only, `x` the exit status.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator

OUTPUT, INPUT, RESIZE, MARKER, EXIT = "o", "i", "r", "m", "x"

Event = tuple[float, str, bytes]
"""Seconds of any clock, a code, and the data."""

JOIN = 0.008
"""Seconds within which outputs become one event: half a frame of a display."""
MOST_JOINED = 32 << 10
"""Bytes of one event of joined outputs at most."""
TERM = "xterm-256color"


def header(*, cols: int, rows: int, start: float, title: str) -> bytes:
    """Return a file's first line.

    :param start: seconds of the Unix epoch
    """
    term = {"cols": cols, "rows": rows, "type": TERM}
    return _line({"version": 3, "term": term, "timestamp": int(start), "title": title})


class Lines:
    """The events of one file: their intervals add up to the exact time, rounded to milliseconds once only."""

    def __init__(self, start: float) -> None:
        """:param start: of the same clock as the events"""
        self._start, self._last = start, 0

    @property
    def seconds(self) -> float:
        """Return the time of the last event, from the beginning."""
        return self._last / 1000

    def line(self, at: float, code: str, quoted: bytes) -> bytes:
        """Return an event's line; a clock that goes back stands still.

        :param quoted: the data as `quote()` returns it
        """
        now = max(self._last, round((at - self._start) * 1000))
        spent, self._last = now - self._last, now
        return b'[%d.%03d, "%s", %s]\n' % (spent // 1000, spent % 1000, code.encode(), quoted)


def quote(text: str) -> bytes:
    """Return text as a JSON string in UTF-8."""
    return json.dumps(text, ensure_ascii=False).encode()


class Text:
    """Bytes to text, in pieces: half a character waits for its rest, what is no UTF-8 becomes U+FFFD."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def more(self, data: bytes) -> str:
        """Return the text of what is whole so far."""
        return self._decoder.decode(data)

    def rest(self) -> str:
        """Return what still waits, as it will get no more."""
        return self._decoder.decode(b"", final=True)


def joined(events: Iterable[Event]) -> Iterator[Event]:
    """Yield the events with outputs that follow one another at once made into one, at the time of the first."""
    since, parts, size = 0.0, list[bytes](), 0
    for at, code, data in events:
        if parts and (code != OUTPUT or at - since > JOIN or size + len(data) > MOST_JOINED):
            yield since, OUTPUT, b"".join(parts)
            parts, size = [], 0
        if code != OUTPUT:
            yield at, code, data
            continue
        if not parts:
            since = at
        parts.append(data)
        size += len(data)
    if parts:
        yield since, OUTPUT, b"".join(parts)


def to_v2(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines of version 2 for the lines of a version 3 file that `header()` and `Lines` have made.

    :raises ValueError: when they are not of that form
    """
    found = iter(lines)
    first = json.loads(next(found, b""))
    term = first["term"]
    size = {"version": 2, "width": term["cols"], "height": term["rows"], "timestamp": first["timestamp"]}
    yield _line(size | {"title": first["title"], "env": {"TERM": term["type"]}})
    total = 0
    for line in found:
        seconds, comma, rest = line.partition(b", ")
        if not (line.startswith(b"[") and comma):
            raise ValueError("not a line of a recording")
        whole, _, thousandths = seconds[1:].partition(b".")
        total += int(whole) * 1000 + int(thousandths)
        if not rest.startswith(b'"x"'):  # which version 2 does not know
            yield b"[%d.%03d, %s" % (total // 1000, total % 1000, rest)


def _line(value: dict[str, object]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(", ", ": ")).encode() + b"\n"
