"""Tells glibc's malloc to give memory back: a session's processes have 100 MiB in all. Does nothing elsewhere."""

from __future__ import annotations

import ctypes
import gc

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # mallopt(3)


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
