"""Writing an image with holes for zeros, and the digest of what has been written, taken beside the writing."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import queue
import threading
from pathlib import Path

PIECE = 1 << 16
"""Bytes: zeros of this size become holes."""
_ZEROS = bytes(PIECE)
_READ = 1 << 20
_FLUSH = 64 << 20
"""Bytes after which what is there is written to the disk, by one more thread: the fsync at the end is then short."""
_WRITE = 1 << 19
"""Bytes in a write: with megabytes the kernel looks for larger pieces of memory, which may take it seconds in all."""


def write(fd: int, chunk: bytes | memoryview, at: int) -> None:
    """Write all but pieces of zeros; pieces that are not zero and touch are written at once. The file has holes there.

    :raises OSError: as pwrite(2) does
    """
    view, start, here = memoryview(chunk), 0, 0
    while here < len(view):
        end = min(here + PIECE, len(view))
        # Bytes are compared by memcmp(3), views one by one; hence the copy, where both ends say it may be worth it.
        if view[here] == 0 == view[end - 1] and bytes(view[here:end]) == _ZEROS[: end - here]:
            _write_all(fd, view[start:here], at + start)
            start = end
        here = end
    _write_all(fd, view[start:], at + start)


def _write_all(fd: int, data: memoryview, at: int) -> None:
    while data:
        written = os.pwrite(fd, data[:_WRITE], at)
        data, at = data[written:], at + written


class Digest:
    """The sha256 of a file that is being written, by a thread that reads behind the writer (from the page cache).

    It sees what the file holds, not what was meant to go there. To be used as a context manager, which ends the thread.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sha = hashlib.sha256()
        self._told = 0
        # No condition: a signal that raises while its lock is being taken would leave the thread waiting for ever.
        self._news: queue.SimpleQueue[tuple[int, bool]] = queue.SimpleQueue()
        self._flush: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._given_up = False
        self._fault: OSError | None = None
        self._thread = threading.Thread(target=self._follow, name="sha256", daemon=True)

    def __enter__(self) -> Digest:
        self._thread.start()
        threading.Thread(target=self._write_out, name="fdatasync", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._given_up = True
        self._news.put((0, True))
        self._flush.put(False)  # a slow disk is not waited for
        self._thread.join()

    def advance(self, end: int) -> None:
        """Say that everything before `end` is written."""
        if end - self._told >= _READ:
            self._told = end
            self._news.put((end, False))

    def finish(self, size: int) -> str:
        """Return the digest of the first `size` bytes in hex; all of them are written.

        :raises OSError: when they cannot be read back
        """
        self._news.put((size, True))
        self._thread.join()
        if self._fault:
            raise self._fault
        return self._sha.hexdigest()

    def _follow(self) -> None:
        view, at, flushed, last = memoryview(bytearray(_READ)), 0, 0, False
        try:
            with self._path.open("rb", buffering=0) as file:
                while not last:
                    ready, last = self._news.get()
                    while at < ready and not self._given_up:
                        count = file.readinto(view[: min(_READ, ready - at)])
                        if not count and not last:
                            break  # what is written beyond is a hole, and the file not yet as long
                        if not count:
                            raise OSError(errno.EIO, "the file is shorter than what was written")
                        self._sha.update(view[:count])
                        at += count
                        if at - flushed >= _FLUSH:
                            flushed = at
                            self._flush.put(True)
        except OSError as error:
            self._fault = error

    def _write_out(self) -> None:
        with contextlib.suppress(OSError), self._path.open("rb", buffering=0) as file:
            while self._flush.get():
                os.fdatasync(file.fileno())
