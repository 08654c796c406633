"""A session's disk is ready at once, whatever the size of the base image.

Rival: what one does without layers, `cp --sparse=always` of the base image, `e2fsck -fy`, `resize2fs` to the wanted
size. Both make a machine whose root has DISK bytes more than the base. Needs no VM.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench.common import Goal, Report, machine, main, say, scratch

from dozlab.images.store import Store, sha256_file
from dozlab.init_rootfs import disk
from dozlab.init_rootfs.settings import Settings, from_env
from dozlab.lib.proc import need, run
from dozlab.lib.units import MIB, format_size, parse_size

GOAL, FLAT = 30.0, 1.5
EACH = 5
"""Session disks made in each round."""
FILE = 8 * MIB
FULL = 3
"""One part in so many of a base image holds data."""


def make_base(path: Path, size: int) -> None:
    """Make an ext4 image of `size` bytes, a third of it full of random files."""
    content = path.with_suffix(".content")
    content.mkdir()
    try:
        for number in range(max(1, size // FULL // FILE)):
            with (content / f"{number:04}").open("wb") as file:
                for _ in range(FILE // MIB):
                    file.write(os.urandom(MIB))
        with path.open("wb") as file:
            file.truncate(size)
        run([need("mke2fs", "e2fsprogs"), "-q", "-F", "-t", "ext4", "-d", content, path], timeout=600)
    finally:
        shutil.rmtree(content)


def environment(folder: Path, store: Path, digest: str, disk_size: int) -> dict[str, str]:
    """Return init-rootfs's environment for a fresh session over that base."""
    for name in ("vm-data", "shared"):
        (folder / name).mkdir(parents=True)
    return {
        "SESSION_ID": "bench-disk",
        "KERNELS_DIR": str(store),
        "VM_DATA": str(folder / "vm-data"),
        "SHARED_DIR": str(folder / "shared"),
        "IMAGE_SHA256": digest,
        "IMAGE_SIZE": str(disk_size),
    }


def clock(work: Callable[[], Any]) -> float:
    """Return how long the work takes, in seconds. What earlier work left to write is written before."""
    os.sync()
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def rival(base: Path, copy: Path, disk_size: int) -> None:
    """Copy the base image and grow the copy."""
    run(["cp", "--sparse=always", base, copy], timeout=600)
    check = run([need("e2fsck", "e2fsprogs"), "-fy", copy], timeout=600, check=False)
    assert check.code <= 1, check.last_line()
    os.truncate(copy, base.stat().st_size + disk_size)
    run([need("resize2fs", "e2fsprogs"), copy], timeout=600)


def component(environ: dict[str, str]) -> None:
    """Run the whole of init-rootfs as a session does: a process of its own."""
    env = {**os.environ, **environ}
    subprocess.run([sys.executable, "-m", "dozlab.init_rootfs"], env=env, check=True, capture_output=True, timeout=120)


def prepare(settings: Settings, digest: str) -> None:
    """Make the session disk alone."""
    made = disk.prepare(settings, digest)
    assert made.what == "made", made.what


def measure_size(folder: Path, size: int, disk_size: int, rounds: int) -> dict[str, Any]:
    """Return the medians for one size of base image, in seconds."""
    say(f"base image of {format_size(size)}")
    store = Store(folder / "store")
    with store.begin() as temp:
        make_base(temp, size)
        base = store.path(store.commit(temp, sha256_file(temp)).digest)
    digest = base.parent.name
    times: dict[str, list[float]] = {"rival": [], "disk": [], "init_rootfs": []}
    for number in range(rounds):
        spot = folder / f"{size}.{number}"
        environ = environment(spot / "whole", store.root, digest, disk_size)
        times["rival"].append(clock(lambda spot=spot: rival(base, spot / "copy.ext4", disk_size)))  # type: ignore[misc]
        times["init_rootfs"].append(clock(lambda environ=environ: component(environ)))  # type: ignore[misc]
        for each in range(EACH):  # milliseconds: one look says little
            settings = from_env(environment(spot / f"disk{each}", store.root, digest, disk_size))
            times["disk"].append(clock(lambda settings=settings: prepare(settings, digest)))  # type: ignore[misc]
        used = (settings.vm_data / "disk/session.ext4").stat().st_blocks * 512
        shutil.rmtree(spot)
    medians = {name: round(statistics.median(values), 4) for name, values in times.items()}
    return {
        "base": size, "used_by_session_disk": used, "seconds": medians, "rounds": times,
        "ratio": {name: round(medians["rival"] / medians[name], 1) for name in ("disk", "init_rootfs")},
    }  # fmt: skip


def measure(options: argparse.Namespace) -> Report:
    """Measure every size."""
    sizes = [parse_size(size) for size in options.sizes.split(",")]
    disk_size = parse_size(options.disk)
    facts = machine()
    with scratch() as folder:
        rows = [measure_size(folder, size, disk_size, options.rounds) for size in sizes]
    first, last = rows[0], rows[-1]
    flat = {name: round(last["seconds"][name] / first["seconds"][name], 2) for name in ("disk", "init_rootfs", "rival")}
    lines = [f"{'base image':>12} {'rival':>9} {'disk':>9} {'ratio':>8} {'init-rootfs':>12} {'ratio':>8}"]
    for row in rows:
        took, ratio = row["seconds"], row["ratio"]
        lines.append(
            f"{format_size(row['base']):>12} {took['rival']:>7.2f} s"
            f" {took['disk'] * 1000:>6.0f} ms {ratio['disk']:>7.1f}x"
            f" {took['init_rootfs'] * 1000:>9.0f} ms {ratio['init_rootfs']:>7.1f}x"
        )
    lines.append(
        f"largest over smallest base: disk {flat['disk']}, init-rootfs {flat['init_rootfs']}, rival {flat['rival']}"
    )
    lines.append(
        "disk: the session disk alone; init-rootfs: the whole component, with Python's start, keys and identity"
    )
    return Report(
        claim=f"a session disk of {format_size(disk_size)} is ready at once, whatever the base image's size",
        rival="cp --sparse=always, e2fsck -fy and resize2fs of the base image",
        machine=facts,
        goals=[
            Goal(f"times the rival's speed, base of {format_size(sizes[-1])}", last["ratio"]["disk"], GOAL, "at least"),
            Goal("time with the largest base over time with the smallest", flat["disk"], FLAT),
        ],
        figures={"sizes": rows, "largest_over_smallest": flat},
        lines=lines,
    )  # fmt: skip


if __name__ == "__main__":
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--sizes", default="1G,4G", help="sizes of the base images, smallest first (1G,4G)")
    arguments.add_argument("--disk", default="4G", help="size of the session disk (4G)")
    arguments.add_argument("--rounds", type=int, default=3, help="rounds for each size (3)")
    sys.exit(main(__doc__, measure, arguments))
