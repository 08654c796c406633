"""A strict reader of asciicast, versions 2 and 3, written from the format's text and not from our writer."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

_INTERVAL = re.compile(r"\[(?P<seconds>\d+\.\d{3}), ")
_SIZE = re.compile(r"[1-9]\d*x[1-9]\d*")


@dataclass
class Cast:
    """A parsed file: its header, and events with absolute seconds."""

    header: dict[str, Any]
    events: list[tuple[float, str, str]]

    def text(self, code: str = "o") -> str:
        return "".join(data for _, found, data in self.events if found == code)

    def of(self, code: str) -> list[str]:
        return [data for _, found, data in self.events if found == code]


def parse(content: bytes) -> Cast:
    """Return the file; asserts whatever a strict player would refuse."""
    assert content.endswith(b"\n"), "the last line has no end"
    first, *lines = content.decode("utf-8").removesuffix("\n").split("\n")
    header = json.loads(first)
    version = header["version"]
    assert isinstance(header["timestamp"], int)
    if version == 2:
        assert header["width"] > 0 and header["height"] > 0
        assert set(header) <= {"version", "width", "height", "timestamp", "title", "env"}
    else:
        assert version == 3
        assert header["term"]["cols"] > 0 and header["term"]["rows"] > 0
        assert set(header) <= {"version", "term", "timestamp", "title"}
    at, events = 0.0, []
    for line in lines:
        match = _INTERVAL.match(line)
        assert match, f"not an event: {line[:60]}"
        time, code, data = json.loads(line)
        assert isinstance(data, str) and code in ("oirm" if version == 2 else "oirmx"), line
        if code == "r":
            assert _SIZE.fullmatch(data), line
        if code == "x":
            assert re.fullmatch(r"\d+", data), line
        at = float(match["seconds"]) if version == 2 else round(at + time, 3)
        events.append((at, code, data))
    assert all(before[0] <= after[0] for before, after in pairwise(events)), "time goes back"
    return Cast(header, events)
