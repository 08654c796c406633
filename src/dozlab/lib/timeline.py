"""The timeline of a session's start: one JSON object a line, appended by every component, read by everybody.

Shape (design.md section 4):
`{"t": seconds since the epoch, "stage": str, "event": "start|done|failed", "detail": str}`.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

Stage = Literal["rootfs", "network", "vmm", "kernel", "init", "sshd", "dockerd", "terminal", "editor"]
Event = Literal["start", "done", "failed"]
STAGES: tuple[Stage, ...] = get_args(Stage)
FILE_NAME = "timeline.jsonl"


@dataclass(frozen=True)
class Entry:
    """One step seen. `t` is seconds since the epoch."""

    t: float
    stage: Stage
    event: Event
    detail: str = ""


class Timeline:
    """Appends to and reads the timeline in one shared folder.

    One write(2) with O_APPEND per entry keeps lines whole although several processes write.
    """

    def __init__(self, shared: Path) -> None:
        self.path = shared / FILE_NAME

    def add(self, stage: Stage, event: Event, detail: str = "") -> None:
        """Append one entry, now."""
        line = json.dumps(asdict(Entry(round(time.time(), 3), stage, event, detail))) + "\n"
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o664)
        try:
            if os.fstat(fd).st_size == 0:  # ours to open for the group: a Pod's components share that, not the uid
                with contextlib.suppress(PermissionError):
                    os.fchmod(fd, 0o664)
            os.write(fd, line.encode())
        finally:
            os.close(fd)

    def read(self) -> list[Entry]:
        """Return every whole entry so far; an empty list where nothing has started. Unknown lines are passed over."""
        try:
            lines = self.path.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return []
        entries = []
        for line in lines:
            try:
                raw = json.loads(line)
                if raw["stage"] in STAGES and raw["event"] in get_args(Event):
                    entries.append(Entry(float(raw["t"]), raw["stage"], raw["event"], str(raw.get("detail", ""))))
            except (ValueError, KeyError, TypeError):
                continue
        return entries
