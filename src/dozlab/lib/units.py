"""Sizes and durations as people write them, and back. Pure."""

from __future__ import annotations

import re

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40

_SIZE = re.compile(r"^(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[KMGT]i?B?|B)?$", re.IGNORECASE)
_FACTOR = {"": 1, "b": 1, "k": KIB, "m": MIB, "g": GIB, "t": TIB}


def parse_size(text: str | int) -> int:
    """Return bytes for `4G`, `512Mi`, `1.5GiB` or a plain number of bytes.

    Units are powers of 1024 with and without the i: the chart's `diskSize: 4G` has always meant what
    mkfs and qemu-img mean by 4G. (Kubernetes' own quantities tell G from Gi; see docs/reference/values.md.)

    :raises ValueError: when the text is no size
    """
    if isinstance(text, int):
        if text < 0:
            raise ValueError(f"a size cannot be negative: {text}")
        return text
    match = _SIZE.match(text.strip())
    if not match:
        raise ValueError(f"not a size: {text!r} (write 4G, 512Mi or a number of bytes)")
    unit = (match["unit"] or "").lower().removesuffix("b").removesuffix("i")
    return int(float(match["number"]) * _FACTOR[unit])


_DURATION = re.compile(r"^(?P<number>\d{1,9})(?P<unit>[smhd])?$")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_duration(text: str | int) -> int:
    """Return seconds for `90s`, `30m`, `2h`, `1d` or a plain number of seconds.

    :raises ValueError: when the text is no duration
    """
    match = _DURATION.match(str(text).strip())
    if not match:
        raise ValueError(f"not a duration: {text!r} (write 90s, 30m, 2h or a number of seconds)")
    return int(match["number"]) * _SECONDS[match["unit"] or ""]


def format_size(size: float) -> str:
    """Return bytes as `1.5 GiB`, three significant figures, for people."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def format_seconds(seconds: float) -> str:
    """Return a duration as `0.4 s`, `35 s` or `2 min 5 s`, for people."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60)} s"
