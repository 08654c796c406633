"""One VMM process: how it is started, its stderr's last words, and how it is ended. Knows no VMM's language."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from dozlab.firecracker_vm.markers import clean
from dozlab.lib import tasks
from dozlab.lib.errors import DozlabError
from dozlab.lib.proc import Child

log = logging.getLogger(__name__)

_MAX_LOGGED = 200
"""Lines of a VMM's own messages logged per boot; the rest is counted."""


class VmmProcess:
    """A VMM child with its serial output on a given descriptor and its messages kept."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self._last: deque[str] = deque(maxlen=20)
        self._ours = False
        self._reader = tasks.start(self._read_stderr(), name=f"{child.name}-stderr")

    @classmethod
    async def start(cls, argv: Sequence[str | Path], *, name: str, console: int, fds: Sequence[int] = ()) -> VmmProcess:
        """Start argv with an empty environment but PATH.

        :raises DozlabError: when the program cannot be started
        """
        with open(console, "wb", closefd=False) as out:
            child = await Child.start(
                argv, name=name, env={"PATH": os.defpath}, stdout=out, stderr=asyncio.subprocess.PIPE, pass_fds=fds
            )
        return cls(child)

    async def _read_stderr(self) -> None:
        stream = self.child.process.stderr
        assert stream
        count = 0
        while True:
            try:
                raw = await stream.readline()
            except ValueError:  # a line over the stream's limit: dropped
                continue
            if not raw:
                break
            line = clean(raw.rstrip())
            if not line:
                continue
            self._last.append(line)
            count += 1
            if count <= _MAX_LOGGED:
                log.info("%s: %s", self.child.name, line)
        if count > _MAX_LOGGED:
            log.warning("%s: %d more lines of messages were dropped", self.child.name, count - _MAX_LOGGED)

    @property
    def running(self) -> bool:
        """Tell whether it has not ended."""
        return self.child.running

    @property
    def words(self) -> str:
        """Return the last line of its messages."""
        return self._last[-1] if self._last else ""

    @property
    def ours(self) -> bool:
        """Tell whether `end()` was called before it ended."""
        return self._ours

    async def wait(self) -> int:
        """Wait for the end of the process and of its messages."""
        code = await self.child.wait()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({self._reader}, timeout=1.0)
        return code

    async def end(self, grace: float = 2.0) -> None:
        """SIGTERM, `grace` seconds, SIGKILL."""
        if self.running:
            self._ours = True
            await self.child.stop(grace=grace)

    def mark_ours(self) -> None:
        """Note that the end which follows is our doing."""
        self._ours = True

    def died(self, code: int) -> DozlabError:
        """Return the error for a VMM that ended before it ran the guest."""
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with status {code}"
        return DozlabError(
            f"{self.child.name} ended {how} before the guest ran" + (f": {self.words[-240:]}" if self.words else "")
        )
