"""Where the sidecar's memory lies. Mirrors terminal_sidecar/memory.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from dozlab.terminal_sidecar.memory import pages

MAPS = """\
55d5c0000000-55d5c0200000 r-xp 00000000 08:01 1234                       /usr/bin/python3.11
55d5c0200000-55d5c0400000 rw-p 00200000 08:01 1234                       /usr/bin/python3.11
55d5c0500000-55d5c0b00000 rw-p 00000000 00:00 0                          [heap]
7f0000100000-7f0000300000 rw-p 00000000 00:00 0
7f0000400000-7f0000800000 rw-p 00000000 00:00 0 
7f0001000000-7f0001400000 ---p 00000000 00:00 0 
7f0002000000-7f0002400000 rw-s 00000000 00:01 99                         /memfd:x (deleted)
7ffd00000000-7ffd00400000 rw-p 00000000 00:00 0                          [stack]
"""  # noqa: W291  (as the kernel writes it)

SETTLED = """
from pathlib import Path
from dozlab.terminal_sidecar import memory
kept = [str(number) * 20 for number in range(200_000)]
memory.tune(); memory.settle()
assert kept[-1] == "199999" * 20
print(next(line.split()[1] for line in Path("/proc/self/smaps_rollup").read_text().splitlines() if "AnonHuge" in line))
"""


def test_whole_pages_of_the_heap_alone() -> None:
    found = [0x55D5C0600000, 0x55D5C0800000, 0x7F0000400000, 0x7F0000600000]
    assert list(pages(MAPS, 2 << 20)) == found
    assert list(pages(MAPS, 8 << 20)) == []


def test_a_settled_process_has_huge_pages_where_the_kernel_has_them() -> None:
    done = subprocess.run([sys.executable, "-c", SETTLED], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    mode = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if mode.exists() and "[never]" not in mode.read_text() and kernel() >= (6, 1):
        assert int(done.stdout) > 0


def kernel() -> tuple[int, ...]:
    return tuple(map(int, Path("/proc/sys/kernel/osrelease").read_text().split("-")[0].split(".")[:2]))
