"""Joins the shells' tapes (event loop) to their lanes and the store (one thread), and says whether it works."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from dozlab.terminal_sidecar.history import History
from dozlab.terminal_sidecar.recording.asciicast import Event
from dozlab.terminal_sidecar.recording.lane import Lane
from dozlab.terminal_sidecar.recording.store import Recording, Store, whole_length
from dozlab.terminal_sidecar.recording.tape import Tape

log = logging.getLogger(__name__)

MOST_FILE = 16 << 20
"""Bytes of one recording at most; a new file goes on from there."""
_PARTS = 4  # files that the limit holds at least
_MOST_BEHIND = 8 << 20  # bytes that may wait for the thread
RETRY = 30.0
"""Seconds after which a disk that took nothing is tried again."""
_PROBE, _PROBE_SIZE = ".probe", 256 << 10


@dataclass(frozen=True)
class Listing:
    """All recordings, and the room they take."""

    used: int
    recordings: list[Recording]


class Recorder:
    """Records every shell into a folder that must be there. `start()` and `close()` belong to the event loop."""

    def __init__(self, folder: Path, *, limit: int, with_input: bool, clock: Callable[[], float]) -> None:
        self.folder, self.limit, self.with_input = folder, limit, with_input
        self.on = False
        self._clock = clock
        self._store = Store(folder, limit)
        self._executor: ThreadPoolExecutor | None = None
        self._lanes: dict[Tape, Lane] = {}  # changed by the loop, read by both
        self._given = self._written = 0  # bytes: the one counted by the loop, the other by the thread
        self._retry: asyncio.TimerHandle | None = None
        self._listeners: list[Callable[[], None]] = []

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener()` when recording stops or goes on."""
        self._listeners.append(listener)

    async def start(self) -> None:
        """Look at what is there and begin; says in one line where it cannot."""
        self._loop = asyncio.get_running_loop()
        executor = self._executor = ThreadPoolExecutor(1, "recorder")
        try:
            await self._loop.run_in_executor(executor, self._store.scan)
        except OSError as error:
            log.warning("shells are not recorded: %s: %s", self.folder, error.strerror)
            return
        self._switch(True)

    async def close(self) -> None:
        """Write what there is and end."""
        if self._retry is not None:
            self._retry.cancel()
        if self._executor is not None:
            for tape in list(self._lanes):
                tape.close()
            executor, self._executor = self._executor, None
            await asyncio.to_thread(executor.shutdown)

    def tape(self, shell: str, history: History) -> Tape:
        """Return the tap of a new shell."""
        tape = Tape(shell, history, self, with_input=self.with_input, clock=self._clock)
        self._lanes[tape] = Lane(
            shell, self._store, file_limit=min(MOST_FILE, self.limit // _PARTS), room=self._make_room, wall=self._wall
        )
        if not self.on:
            tape.switched()
        return tape

    def _wall(self, at: float) -> float:
        return time.time() - (self._clock() - at)

    # --- the tapes' side

    @property
    def behind(self) -> bool:
        """Tell whether the thread has more to write than it should."""
        return self._given - self._written > _MOST_BEHIND

    def take(self, tape: Tape, events: list[Event], size: int) -> None:
        """Have the thread write events."""
        lane = self._lanes.get(tape)
        if lane is not None and self._executor is not None:
            self._given += size
            self._executor.submit(self._write, lane, events, size)

    def closed(self, tape: Tape) -> None:
        """Forget a tape; what it gave is written all the same."""
        self._lanes.pop(tape, None)

    # --- the thread's side

    def _write(self, lane: Lane, events: list[Event], size: int) -> None:
        try:
            lane.write(events)
        except OSError as error:
            lane.pass_over(events)
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody is left to be told
                self._loop.call_soon_threadsafe(self._stopped, str(error.strerror))
        except Exception:
            log.exception("recording of shell %s failed", lane.shell)
            lane.abandon()
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._stopped, "see above")
        finally:
            self._written += size

    def _make_room(self, lane: Lane, more: int) -> None:
        """Remove old recordings; where none has ended, end the longest one that another shell has going."""
        while not self._store.make_room(lane.name, more):
            others = [other for other in list(self._lanes.values()) if other is not lane and other.name]
            if not others:
                return
            max(others, key=lambda other: other.size).part()

    def _probe(self) -> None:
        path = self.folder / _PROBE
        try:
            path.write_bytes(b"\0" * _PROBE_SIZE)
        finally:
            path.unlink(missing_ok=True)

    # --- on and off

    def _stopped(self, reason: str) -> None:
        if self.on:
            log.warning("recording stops: %s: %s; it goes on when there is room", self.folder, reason)
            self._switch(False)
        if self._retry is None and self._executor is not None:
            self._retry = self._loop.call_later(RETRY, self._try_again)

    def _try_again(self) -> None:
        self._retry = None
        if self._executor is not None:
            self._executor.submit(self._probe).add_done_callback(
                lambda done: self._loop.call_soon_threadsafe(self._tried, done.exception())
            )

    def _tried(self, error: BaseException | None) -> None:
        if error is not None:
            self._stopped(str(error))
        elif not self.on:
            log.info("recording goes on")
            self._switch(True)

    def _switch(self, on: bool) -> None:
        self.on = on
        for tape in list(self._lanes):
            tape.switched()
        for listener in self._listeners:
            listener()

    # --- for the routes

    async def list(self) -> Listing:
        """Return the recordings, the newest first, with all that was printed until now.

        :raises OSError: when they cannot be read
        """
        if self._executor is None:
            return Listing(0, [])
        self._hand_over()
        return await self._loop.run_in_executor(self._executor, self._list)

    def _list(self) -> Listing:
        return Listing(self._store.used, self._store.list())

    async def find(self, name: str) -> tuple[Path, int] | None:
        """Return where a recording lies and the bytes of its whole lines, until now; None when there is none.

        :raises OSError: when it cannot be read
        """
        if self._executor is None:
            return None
        self._hand_over()
        return await self._loop.run_in_executor(self._executor, self._find, name)

    def _find(self, name: str) -> tuple[Path, int] | None:
        if not self._store.has(name):
            return None
        path = self._store.path(name)
        return path, whole_length(path)

    async def remove(self, name: str) -> bool:
        """Remove a recording; tells whether it was there. One that is being written goes on in a new file.

        :raises OSError: when it cannot be removed
        """
        return self._executor is not None and await self._loop.run_in_executor(self._executor, self._remove, name)

    def _remove(self, name: str) -> bool:
        for lane in list(self._lanes.values()):
            if lane.name == name:
                lane.part()
        return self._store.remove(name)

    def _hand_over(self) -> None:
        for tape in list(self._lanes):
            tape.hand_over()
