"""One shell's recording on the writer's thread: events to lines, lines into files, a new file when one is full."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable

from dozlab.terminal_sidecar.modes import ModeTracker
from dozlab.terminal_sidecar.recording import asciicast
from dozlab.terminal_sidecar.recording.asciicast import INPUT, OUTPUT, RESIZE, Event
from dozlab.terminal_sidecar.recording.store import Store

END = "end"
"""Code of an event that is not written: the shell is over, and what comes next belongs to another one."""
_LONGEST_HEAD = 64  # bytes of a line beside its data


class Lane:
    """Writes one shell's events. A file begins with the first event after the former has ended.

    :param room: called with this lane and a number of bytes before its file grows
    :param wall: seconds of the Unix epoch for seconds of the events' clock
    """

    def __init__(
        self, shell: str, store: Store, *, file_limit: int, room: Callable[[Lane, int], None],
        wall: Callable[[float], float],
    ) -> None:  # fmt: skip
        self.shell = shell
        self.name = ""
        self.size = 0
        self.cols, self.rows = 80, 24
        self._store, self._file_limit, self._room, self._wall = store, file_limit, room, wall
        self._descriptor = -1
        self._lines = asciicast.Lines(0.0)
        self._pending = bytearray()
        self._begun_file = False  # it holds events of the shell
        self._fresh()

    def _fresh(self) -> None:
        self._texts = {OUTPUT: asciicast.Text(), INPUT: asciicast.Text()}
        self._modes = ModeTracker()
        self._begun = False

    def write(self, events: Iterable[Event]) -> None:
        """Write events.

        :raises OSError: when it cannot; what the file holds is whole lines all the same
        """
        for at, code, data in asciicast.joined(events):
            if code == END:
                self.end(at)
            elif code == RESIZE:
                self._resize(at, data)
            elif code in self._texts:
                self._add(at, code, self._texts[code].more(data), data)
            else:
                self._add(at, code, data.decode(errors="replace"))
        self._flush()

    def pass_over(self, events: Iterable[Event]) -> None:
        """Take what must be known of events that could not be written: the size, and whose the next ones are."""
        for _, code, data in events:
            if code == RESIZE:
                self.cols, self.rows = map(int, data.split(b"x"))
            elif code == END:
                self._fresh()

    def _resize(self, at: float, data: bytes) -> None:
        cols, rows = map(int, data.split(b"x"))
        if (cols, rows) == (self.cols, self.rows):
            return
        self.cols, self.rows = cols, rows
        if self._descriptor >= 0:
            self._add(at, RESIZE, data.decode())

    def _add(self, at: float, code: str, text: str, printed: bytes = b"") -> None:
        if text:
            quoted = asciicast.quote(text)
            if self._begun_file and self.size + len(self._pending) + len(quoted) + _LONGEST_HEAD > self._file_limit:
                self.part()
            if self._descriptor < 0:
                self._open(at)
            self._pending += self._lines.line(at, code, quoted)
            self._begun = self._begun_file = True
        if code == OUTPUT:
            self._modes.feed(printed)

    def _open(self, at: float) -> None:
        """Begin a file. One that goes on where a full one ended begins with the modes the screen is in."""
        start = self._wall(at)
        self.name, self._descriptor = self._store.create(self.shell, start)
        self.size = 0
        self._lines = asciicast.Lines(at)
        title = f"{self.shell}, continued" if self._begun else self.shell
        self._pending += asciicast.header(cols=self.cols, rows=self.rows, start=start, title=title)
        if self._begun and (preamble := self._modes.preamble() + self._modes.partial):
            self._pending += self._lines.line(at, OUTPUT, asciicast.quote(preamble.decode(errors="replace")))

    def _flush(self) -> None:
        if not self._pending or self._descriptor < 0:
            return
        try:
            self._room(self, len(self._pending))
            done = 0
            while done < len(self._pending):
                done += os.write(self._descriptor, self._pending[done:] if done else self._pending)
        except OSError:
            self.abandon()
            raise
        self.size += len(self._pending)
        self._pending.clear()
        self._store.grown(self.name, self.size)

    def end(self, at: float) -> None:
        """End with the shell: what comes next is another one's.

        :raises OSError: as `write()`
        """
        for code, text in self._texts.items():
            if rest := text.rest():
                self._add(at, code, rest)
        self.part()
        self._fresh()

    def part(self) -> None:
        """End the file; what comes next goes on in another one.

        :raises OSError: as `write()`
        """
        if self._descriptor < 0:
            return
        self._flush()
        self._close()

    def abandon(self) -> None:
        """Let go of a file that cannot be written any more: cut back to its whole lines, pending ones dropped."""
        self._pending.clear()
        self._texts = {OUTPUT: asciicast.Text(), INPUT: asciicast.Text()}
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                os.truncate(self._descriptor, self.size)
            self._close()

    def _close(self) -> None:
        with contextlib.suppress(OSError):  # so that the file's time says how long the recording is
            end = int((self._store.start_of(self.name) + self._lines.seconds) * 1e9)
            os.utime(self._descriptor, ns=(end, end))
        os.close(self._descriptor)
        self._descriptor = -1
        self._store.live.discard(self.name)
        if self.size == 0:
            with contextlib.suppress(OSError):
                self._store.remove(self.name)
        self.name, self.size, self._begun_file = "", 0, False
