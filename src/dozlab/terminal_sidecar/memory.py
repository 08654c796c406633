"""How the sidecar's memory lies: what is free goes back to the kernel, what stays is in huge pages. Linux with glibc.

A session's processes have 100 MiB in all, hence the first. A key that is typed wakes a process which the processor has
all but forgotten, and fewer pages are found again sooner, hence the second. Where it cannot be done, nothing is.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import re
from collections.abc import Iterator
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # mallopt(3)
_MADV_COLLAPSE = 25  # madvise(2); since Linux 6.1
_MOST_PAGE = 2 << 20
"""Bytes of a huge page at most: one of 512 MiB (arm64 with pages of 64 KiB) would be mostly empty."""
_MAP = re.compile(r"([0-9a-f]+)-([0-9a-f]+) rw-p [0-9a-f]+ [0-9a-f:]+ 0 *(?:\[heap\])?")


def tune() -> None:
    """Fix the thresholds, which else grow with argon2's 19 MiB and keep them for ever; one arena for all threads."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 256 << 10)
        mallopt(_M_TRIM_THRESHOLD, 256 << 10)
        mallopt(_M_ARENA_MAX, 1)


def settle() -> None:
    """Let go of what starting up needed; what remains is looked at less often by the collector (gc.freeze)."""
    gc.collect()
    gc.freeze()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    _collapse()


def _collapse() -> None:
    """Put what is on the heap now into huge pages, where the kernel has them for who asks."""
    with contextlib.suppress(OSError, ValueError):
        size = int(Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size").read_text())
        maps = Path("/proc/self/maps").read_text()
        if size > _MOST_PAGE:
            return
        madvise = ctypes.CDLL(None).madvise
        for at in pages(maps, size):
            madvise(ctypes.c_void_p(at), ctypes.c_size_t(size), _MADV_COLLAPSE)  # a refusal is none of our concern


def pages(maps: str, size: int) -> Iterator[int]:
    """Yield the addresses of the whole pages of `size` bytes in what malloc and Python have taken. Pure.

    :param maps: as in /proc/PID/maps (proc(5))
    """
    for line in maps.splitlines():
        if found := _MAP.fullmatch(line):
            begin, end = (int(word, 16) for word in found.groups())
            yield from range(-(-begin // size) * size, end // size * size, size)
