"""What firecracker-vm says of the session's machine, in SHARED_DIR/vm.json: read, watched, told. No words for people.

The file may be missing (an older firecracker-vm, or none yet): then nothing is known, and nothing is assumed.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

LOOK = 0.2
"""Seconds between two looks: one stat(2) each."""
_STATES = frozenset({"starting", "running", "paused", "stopping", "stopped", "failed"})
_PAUSES = frozenset({"asked", "idle", "disk", "saving"})
_BEGINNINGS = frozenset({"boot", "snapshot", "checkpoint", "clean"})
_MOST_FILE = 16 << 10  # bytes
_MOST_NAME, _MOST_REASON = 64, 300  # characters


@dataclass(frozen=True)
class Machine:
    """The machine at one moment."""

    state: str
    """`starting`, `running`, `paused`, `stopping`, `stopped` or `failed`."""
    paused: str = ""
    """Why it stands still: `asked`, `idle`, `disk`, `saving` (a checkpoint); "" when it does not, or nobody said."""
    boots: int = 0
    """How often a VMM was started for this session."""
    how: str = ""
    """What the newest of them began with: `boot`, `snapshot`, `checkpoint`, `clean`, or "" for something newer."""
    name: str = ""
    """Name of the checkpoint."""
    reason: str = ""

    @property
    def still(self) -> bool:
        """Tell whether the guest stands still: what is sent to it is not answered until it goes on."""
        return self.state == "paused"

    def fields(self) -> dict[str, Any]:
        """Return what the STATE frame says of it (docs/reference/terminal-protocol.md)."""
        return {
            "state": self.state, "paused": self.paused, "boots": self.boots, "how": self.how, "name": self.name,
            "reason": self.reason,
        }  # fmt: skip


def parse(content: bytes) -> Machine | None:
    """Return what the file says; None when it is not what firecracker-vm writes."""
    try:
        raw = json.loads(content)
        state, boots = raw["state"], raw["boots"]
        if state not in _STATES or type(boots) is not int or not 0 <= boots < 1 << 31:
            return None
        paused, how = raw.get("paused", ""), raw.get("how", "")
        return Machine(
            state, paused if state == "paused" and paused in _PAUSES else "", boots, how if how in _BEGINNINGS else "",
            _plain(raw.get("name", ""), _MOST_NAME), _plain(raw.get("reason", ""), _MOST_REASON),
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _plain(value: object, most: int) -> str:
    """Return printable text only: it goes to a terminal."""
    return "".join(char for char in value if char.isprintable())[:most] if isinstance(value, str) else ""


def started_anew(before: Machine | None, now: Machine | None) -> bool:
    """Tell whether another VMM took the place of the one that was there, or is about to.

    Its guest knows nothing of connections to the former one, or, when its memory is a checkpoint's, of their past.
    """
    if before is None or now is None:
        return False
    return now.boots != before.boots or (now.state == "starting" and before.state in ("running", "paused", "stopping"))


def back(before: Machine | None, now: Machine | None) -> str:
    """Return what to say when a shell opens in place of one that was lost with its guest."""
    what = "the machine is back"
    if before is not None and now is not None and now.boots != before.boots:
        what = {
            "boot": "the machine has restarted",
            "snapshot": "the machine has restarted",
            "checkpoint": f"the machine was set back to checkpoint {now.name}".rstrip(),
            "clean": "the machine was set back to the clean image",
        }.get(now.how, what)
    return f"{what}: this is a new shell"


class MachineFile:
    """Watches the file; each change is told to the listeners as (before, now)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._listeners: list[Callable[[Machine | None, Machine | None], None]] = []
        self.now: Machine | None = None

    def on_change(self, listener: Callable[[Machine | None, Machine | None], None]) -> None:
        """Call `listener(before, now)` after each change, in the order they were added."""
        self._listeners.append(listener)

    def look(self) -> None:
        """Look once. What cannot be read or is no such file changes nothing; a file that is gone says nothing more."""
        try:
            status = self._path.stat()
            seen = (status.st_ino, status.st_mtime_ns, status.st_size)
            if seen == self._seen:
                return
            found = parse(self._read())
        except FileNotFoundError:
            seen, found = None, None
        except OSError as error:
            log.debug("%s: %s", self._path, error)
            return
        self._seen = seen
        if found is None and seen is not None:
            log.warning("%s is not understood, so it is passed over", self._path)
            return
        before, self.now = self.now, found
        if found != before:
            for listener in self._listeners:
                listener(before, found)

    def _read(self) -> bytes:
        with self._path.open("rb") as file:
            return file.read(_MOST_FILE)

    async def watch(self) -> None:
        """Look again and again."""
        while True:
            self.look()
            await asyncio.sleep(LOOK)
