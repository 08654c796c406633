"""The guest's console, bounded: a guest may print for ever and costs neither memory, disk nor processor.

Where it goes: CONSOLE_LOG names a file (rotated once at 4 MiB, so at most 8 MiB); without it, lines go to our stdout,
which is what `kubectl logs` shows. Both get cleaned lines (no escape sequences), at a limited rate; what is dropped is
counted and said. The last 256 KiB stay in memory for the `console` verb and for reasons.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import queue
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from dozlab.firecracker_vm.markers import NEEDLES, LineSplitter, Marker, clean, find_marker
from dozlab.lib.errors import DozlabError
from dozlab.lib.units import KIB, MIB, format_size

RING = 256 * KIB
ROTATE_AT = 4 * MIB
LOG_RATE = 64 * KIB
"""Bytes a second that reach the log in the long run; a boot prints about 60 KiB in all."""
LOG_BURST = 1 * MIB
BURST_PAUSE = 0.05
"""Seconds between two reads in a burst: a UART writes byte by byte, and each read costs a wake-up."""
_PIPE = 256 * KIB
"""Bytes the pipe holds, so that the guest does not wait meanwhile (5 MiB a second; a UART is slower)."""
_CHUNK = 256 * KIB
_TAIL = 512
_DUMP = re.compile(
    r"\b(R[A-Z0-9]{2}|RIP|Code|CS|CR\d|FS|ORIG_RAX|Modules linked in|Call Trace|Kernel Offset):|</?TASK>|---\["
)
_OOPS = re.compile(r"\b(BUG: |Oops: |general protection fault|divide error|double fault|invalid opcode|RIP: 0010:)")
"""Lines that name the cause of a panic; tens of others follow them."""


class Bucket:
    """A token bucket: `rate` bytes a second, `burst` at once."""

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate, self._burst, self._tokens, self._then = rate, burst, burst, now

    def has(self, size: int, now: float) -> bool:
        """Tell whether `size` bytes are there."""
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._then) * self._rate)
        self._then = now
        return size <= self._tokens

    def take(self, size: int, now: float) -> bool:
        """Take `size` bytes if they are there."""
        if not self.has(size, now):
            return False
        self._tokens -= size
        return True


class Ring:
    """The last lines, at most `size` bytes of them."""

    def __init__(self, size: int = RING) -> None:
        self._lines: deque[str] = deque()
        self._size, self._used = size, 0

    def add(self, line: str) -> None:
        """Keep a line; the oldest ones make room."""
        self._lines.append(line)
        self._used += len(line) + 64  # an object's own cost
        while self._used > self._size and len(self._lines) > 1:
            self._used -= len(self._lines.popleft()) + 64

    def last(self, count: int) -> list[str]:
        """Return at most `count` of the newest lines, oldest first."""
        return list(self._lines)[-count:] if count > 0 else []


class Sink:
    """Writes lines to a file or to stdout from a thread of its own: a reader that stalls never stalls us.

    :raises DozlabError: when the file cannot be written
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._queue: queue.Queue[bytes | None] = queue.Queue(maxsize=256)
        try:
            self._fd = 1 if path is None else _open(path)
        except OSError as error:
            raise DozlabError(f"cannot write the console's log {path}: {error.strerror}") from error
        self._size = 0 if path is None else os.fstat(self._fd).st_size
        self._thread = threading.Thread(target=self._work, name="console-sink", daemon=True)
        self._thread.start()

    def write(self, data: bytes) -> bool:
        """Hand over data; False when the reader is too slow and it was dropped."""
        try:
            self._queue.put_nowait(data)
        except queue.Full:
            return False
        return True

    def close(self, timeout: float = 1.0) -> None:
        """Write what is queued, as far as the reader takes it within `timeout` seconds."""
        try:
            self._queue.put(None, timeout=timeout)
        except queue.Full:
            return
        self._thread.join(timeout)

    def _work(self) -> None:
        while (data := self._queue.get()) is not None:
            try:
                self._write(data)
            except OSError:  # the disk is full or the reader has gone: the guest does not care, nor do we
                continue
        if self._path is not None:
            os.close(self._fd)

    def _write(self, data: bytes) -> None:
        if self._path is not None and self._size + len(data) > ROTATE_AT:
            os.rename(self._path, self._path.with_name(self._path.name + ".1"))
            os.close(self._fd)
            self._fd, self._size = _open(self._path), 0
        while data:
            done = os.write(self._fd, data)
            data = data[done:]
            self._size += done


def _open(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)


class Console:
    """Takes the serial output of one boot after another."""

    def __init__(self, sink: Sink | None, on_marker: Callable[[Marker], None]) -> None:
        self._sink = sink
        self._on_marker = on_marker
        self._splitter = LineSplitter()
        self._ring = Ring()
        now = time.monotonic()
        self._log = Bucket(LOG_RATE, LOG_BURST, now)
        self._dropped = 0
        self.last_byte = now
        """Monotonic time of the newest byte."""
        self.bytes = 0
        """Bytes taken in since `new_boot`."""

    def new_boot(self) -> None:
        """Forget a partial line and start the clock of silence anew."""
        self._splitter = LineSplitter()
        self.last_byte = time.monotonic()
        self.bytes = 0

    def feed(self, data: bytes) -> None:
        """Take a piece of output."""
        self.last_byte = now = time.monotonic()
        self.bytes += len(data)
        if not self._log.has(len(data), now):
            data = self._skim(data)
        lines = [clean(raw) for raw in self._splitter.feed(data)]
        for line in lines:
            self._ring.add(line)
            if (marker := find_marker(line)) is not None:
                self._on_marker(marker)
        if lines and self._sink:
            self._record("\n".join(lines).encode() + b"\n", now)

    def _skim(self, data: bytes) -> bytes:
        """Return a piece that cannot be logged whole without its middle lines, unless a marker may be among them."""
        first, last = data.find(b"\n"), data.rfind(b"\n", 0, -_TAIL)
        if not 0 <= first < last or any(needle in data for needle in NEEDLES):
            return data
        self._dropped += last - first
        return data[: first + 1] + data[last + 1 :]

    def _record(self, text: bytes, now: float) -> None:
        assert self._sink
        note = f"[dozlab: {format_size(self._dropped)} of console output dropped]\n".encode() if self._dropped else b""
        if self._log.take(len(text) + len(note), now) and self._sink.write(note + text):
            self._dropped = 0
        else:
            self._dropped += len(text)

    async def read(self, fd: int) -> None:
        """Read `fd` until its end and close it. In a burst it is read less often, so that we cost little."""
        loop = asyncio.get_running_loop()
        os.set_blocking(fd, False)
        with contextlib.suppress(OSError):  # not a pipe, or over the user's limit: smaller will do
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE)
        ready = asyncio.Event()
        try:
            loop.add_reader(fd, ready.set)
            while True:
                await ready.wait()
                try:
                    data = os.read(fd, _CHUNK)
                except BlockingIOError:
                    ready.clear()
                    continue
                if not data:
                    return
                self.feed(data)
                if self._dropped or len(data) == _CHUNK:
                    loop.remove_reader(fd)
                    await asyncio.sleep(BURST_PAUSE)
                    loop.add_reader(fd, ready.set)
        finally:
            loop.remove_reader(fd)
            os.close(fd)

    def text(self, lines: int) -> str:
        """Return the newest lines, with the unfinished one."""
        partial = clean(self._splitter.partial)
        return "\n".join([*self._ring.last(lines), *([partial] if partial else [])])

    def summary(self, lines: int = 3) -> str:
        """Return the newest lines that say something as one, for a reason: a panic's cause, without its registers."""
        newest = [line.strip() for line in self.text(150).splitlines() if line.strip()]
        causes = [line for line in newest if _OOPS.search(line)][:2]
        seen = [line for line in newest[-60:] if not _DUMP.search(line) and line not in causes]
        return " | ".join(line[:160] for line in [*causes, *seen[-lines:]])

    def close(self) -> None:
        """Say what was dropped last and end the sink."""
        if self._sink:
            if self._dropped:
                self._sink.write(f"[dozlab: {format_size(self._dropped)} of console output dropped]\n".encode())
            self._sink.close()
