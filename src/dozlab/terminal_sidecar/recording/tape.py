"""What one shell tells of itself, on the event loop: cheap, never blocking, bounded. The thread gets it in batches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from dozlab.lib.units import format_size
from dozlab.terminal_sidecar.history import History
from dozlab.terminal_sidecar.recording.asciicast import EXIT, INPUT, MARKER, OUTPUT, RESIZE, Event
from dozlab.terminal_sidecar.recording.lane import END

FLUSH = 0.1
"""Seconds that events wait for others: what a kill may cost."""
BURST, RATE = 4 << 20, 512 << 10
"""Bytes of output recorded at once, and per second in the long run. Nobody reads more; it would cost CPU, and push
older recordings out of the folder within seconds. What is beyond is left out, and a marker says how much."""
SHOWN_EVERY, SHOWN = 5.0, 32 << 10
"""Seconds after which a flood that goes on shows its newest bytes, and how many."""
_EVENT_COST = 128  # bytes that any event counts for: what it takes in memory


class Sink(Protocol):
    """Who takes the batches (`recorder.Recorder`)."""

    on: bool
    """Recording is possible."""

    @property
    def behind(self) -> bool:
        """Tell whether the thread has more to write than it should."""

    def take(self, tape: Tape, events: list[Event], size: int) -> None:
        """Take events that count for `size` bytes."""

    def closed(self, tape: Tape) -> None:
        """Take the end of a tape."""


@dataclass
class _Gap:
    """Output that is not recorded: since when, from which offset of the history, and how many bytes."""

    since: float
    offset: int
    skipped: int = 0
    lately: int = 0
    """Bytes skipped since the last look; before the first one too many, since a part of them was recorded."""
    broken: bool = False
    """What came before may be lost as well: recording had stopped."""


class Tape:
    """The tap of one shell (`shell.OutputTap`)."""

    def __init__(
        self, shell: str, history: History, sink: Sink, *, with_input: bool, clock: Callable[[], float]
    ) -> None:
        self.shell = shell
        self._history, self._sink, self._with_input, self._clock = history, sink, with_input, clock
        self._loop = asyncio.get_running_loop()
        self._events: list[Event] = []
        self._size = 0
        self._room, self._refilled = float(BURST), clock()
        self._timer: asyncio.TimerHandle | None = None
        self._gap: _Gap | None = None

    @property
    def recording(self) -> bool:
        """Tell whether what the shell prints is recorded, floods apart."""
        return self._sink.on

    # --- what the shell tells

    def output(self, data: bytes) -> None:
        """Take bytes that are in the history already."""
        if self._gap is not None:
            self._gap.skipped += len(data)
            self._gap.lately += len(data)
            return
        if self._timer is None:
            self._arm()
        self._size += len(data) + _EVENT_COST
        if self._size > self._room:
            self._size -= len(data) + _EVENT_COST
            self._gap = _Gap(self._clock(), self._history.end - len(data), len(data), RATE)
            return
        self._events.append((self._clock(), OUTPUT, data))

    def input(self, data: bytes) -> None:
        """Take what was typed; passed over unless input is asked for."""
        if self._with_input and self._gap is None:
            self._add(INPUT, data)

    def resized(self, cols: int, rows: int) -> None:
        """Take the size of the screen."""
        self._add(RESIZE, b"%dx%d" % (cols, rows))

    def marker(self, text: str) -> None:
        """Take a word on what happens."""
        self._add(MARKER, text.encode())

    def ended(self, status: int | None) -> None:
        """Take the shell's end; what comes next is another one's."""
        if self._gap is not None and self._sink.on:
            self._resume()
        if status is not None:
            self._add(EXIT, str(status).encode())
        self._add(END, b"")
        self.hand_over()
        if self._gap is not None:  # nothing of this shell may be shown as another one's
            self._gap.offset, self._gap.skipped = self._history.end, 0

    def close(self) -> None:
        """End for good."""
        self.ended(None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._sink.closed(self)

    # --- how it gets to the thread

    def _add(self, code: str, data: bytes) -> None:
        if not self._sink.on and code not in (RESIZE, END):
            return
        if self._timer is None:
            self._arm()
        self._size += len(data) + _EVENT_COST
        self._events.append((self._clock(), code, data))

    def _arm(self) -> None:
        self._refill()
        self._timer = self._loop.call_later(FLUSH, self._tick)

    def _refill(self) -> None:
        now = self._clock()
        self._room = min(BURST, self._room + (now - self._refilled) * RATE)
        self._refilled = now

    def hand_over(self) -> None:
        """Give the thread what there is now."""
        if self._events:
            self._sink.take(self, self._events, self._size)
            self._room -= self._size
            self._events, self._size = [], 0

    def _tick(self) -> None:
        self._timer = None
        self.hand_over()
        self._refill()
        if self._sink.behind and self._gap is None:
            self._gap = _Gap(self._clock(), self._history.end)
        gap = self._gap
        if gap is None or not self._sink.on:
            return
        quiet, gap.lately = gap.lately < RATE * FLUSH, 0
        if (quiet or self._clock() - gap.since > SHOWN_EVERY) and not self._sink.behind:
            self._resume()
            self.hand_over()
            if not quiet:  # one look at it, until the next
                self._gap = _Gap(self._clock(), self._history.end)
        if self._gap is not None:
            self._timer = self._loop.call_later(FLUSH, self._tick)

    def _resume(self) -> None:
        """Go on after a gap: say how much is missing, and show the newest of it on a screen in the right modes."""
        gap, self._gap = self._gap, None
        history = self._history
        if gap is None or not (gap.skipped or gap.broken):
            return
        if not gap.broken and history.start <= gap.offset and history.end - gap.offset <= SHOWN:
            self._add(OUTPUT, history.read(gap.offset, SHOWN))  # nothing is missing after all
            return
        offset, preamble = history.replay(max(gap.offset, history.end - SHOWN))
        missing = gap.skipped - (history.end - offset)
        words = f"{format_size(max(0, missing))} of output left out"
        self._add(MARKER, f"{'recording had stopped: ' if gap.broken else ''}{words}".encode())
        self._add(OUTPUT, b"\x1bc" + preamble + history.read(offset, SHOWN))

    def switched(self) -> None:
        """Take that recording has stopped, or goes on (`Sink.on`)."""
        if not self._sink.on:
            self._events = [event for event in self._events if event[1] in (RESIZE, END)]
            self._size = _EVENT_COST * len(self._events)
            if self._gap is None:
                self._gap = _Gap(self._clock(), self._history.end)
            self._gap.broken = True
        elif self._timer is None:
            self._arm()
