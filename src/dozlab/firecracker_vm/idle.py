"""Is anybody here? Judged by the connections to the ports that people use, which every container of a Pod can see.

A connection counts once it has lasted a few seconds: probes and scrapes are over sooner. Source: proc_net_tcp
(Documentation/networking/proc_net_tcp.rst).
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from pathlib import Path

EVERY = 1.0
"""Seconds between two looks."""
LASTING = 3.0
"""Seconds from which on a connection is somebody's. Longer than the terminal keeps an unused HTTP connection open."""
_ESTABLISHED = "01"
_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))


def connections(table: str, ports: Collection[int]) -> set[str]:
    """Return the established connections to some local ports, of a table in the kernel's form. Pure."""
    found = set()
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 3 and fields[3] == _ESTABLISHED and int(fields[1].rpartition(":")[2], 16) in ports:
            found.add(f"{fields[1]} {fields[2]}")
    return found


def look(ports: Collection[int]) -> set[str]:
    """Return the connections of this network namespace to some of its ports."""
    found = set()
    for path in _TABLES:
        with contextlib.suppress(OSError):  # no IPv6
            found |= connections(path.read_text(), ports)
    return found


class Idle:
    """Says for how long nobody has been here. Times are any monotonic seconds, given by the caller."""

    def __init__(self, now: float) -> None:
        self._since: dict[str, float] = {}
        self._last = now

    def see(self, now: float, found: Collection[str]) -> bool:
        """Take what is connected now; tell whether somebody is here."""
        self._since = {name: self._since.get(name, now) for name in found}
        here = any(now - since >= LASTING for since in self._since.values())
        if here:
            self._last = now
        return here

    def reset(self, now: float) -> None:
        """Begin anew: somebody has just used the machine in another way."""
        self._last = now

    def seconds(self, now: float) -> float:
        """Return for how many seconds nobody has been here."""
        return now - self._last
