"""Fetching a base image costs no more than unpacking it, and a second session's start nothing of its size.

Rivals, over the same server in the same run: `curl URL | zstd -d` (checks nothing), and curl, sha256sum, zstd -d and
cp --sparse one after the other, as scripts do. All of them end with the image on the disk (sync). Ours is a process
with Python's start: it fetches, checks each frame and the whole image, unpacks, and puts it into the store.
The second part starts init-rootfs on a warm store, with images of very different size. Needs no VM.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench.common import Goal, Report, machine, main, ratio_of_medians, say, scratch

from dozlab.images.export import export
from dozlab.images.store import Store, sha256_file
from dozlab.lib.proc import die_with_parent, need, run
from dozlab.lib.units import MIB, format_size, parse_size

SPEED, SPEED_SCRIPT, RSS, WARM, FLAT = 0.9, 1.5, 64.0, 0.1, 1.5
SIZES = (100 << 20, 1 << 30, 8 << 30)
SOURCES = ("/usr/lib", "/usr/share", "/usr/bin")
"""What the image holds: files of this machine, as a base image has them."""

OURS = """
import re, sys
from pathlib import Path
from dozlab.images.store import Store
from dozlab.init_rootfs import fetch
base = fetch.get(Store(Path(sys.argv[1])), fetch.Wanted((sys.argv[2],), sys.argv[3]), lambda line: None)
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


class Handler(BaseHTTPRequestHandler):
    """Serves files of a folder with sendfile(2), whole or in parts."""

    protocol_version = "HTTP/1.1"
    folder: Path

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Send a file."""
        path = self.folder / self.path.lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        with path.open("rb") as file:
            size = path.stat().st_size
            first, end = 0, size
            if found := re.match(r"bytes=(\d+)-(\d*)$", self.headers.get("Range", "")):
                first, end = int(found[1]), int(found[2]) + 1 if found[2] else size
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {first}-{end - 1}/{size}")
            else:
                self.send_response(200)
            self.send_header("ETag", f'"{path.stat().st_mtime_ns}"')
            self.send_header("Content-Length", str(end - first))
            self.end_headers()
            self.wfile.flush()
            while first < end:
                first += os.sendfile(self.connection.fileno(), file.fileno(), first, end - first)


@contextlib.contextmanager
def server(folder: Path, alone: bool) -> Iterator[str]:
    """Yield the address of a server in a process of its own."""
    Handler.folder = folder
    web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    child = os.fork()
    if not child:
        die_with_parent()
        if alone:
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
        web.serve_forever()
    web.server_close()
    try:
        yield f"http://127.0.0.1:{web.server_address[1]}"
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def fill(folder: Path, size: int) -> None:
    """Copy files of this machine into the folder until there are about `size` bytes of them."""
    done = 0
    for source in SOURCES:
        for path in sorted(Path(source).rglob("*")):
            if path.is_symlink() or not path.is_file() or path.stat().st_size > min(64 * MIB, size - done):
                continue
            target = folder / str(path).lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copyfile(path, target)
            except OSError:
                continue
            done += path.stat().st_size
            if done >= size - MIB:
                return


def make_image(store: Store, folder: Path, size: int) -> str:
    """Make an image of `size` bytes, nine tenths of it full, and return its digest."""
    content = folder / "content"
    content.mkdir()
    fill(content, size * 17 // 20)
    with store.begin() as temp:
        os.truncate(temp, size)
        run([need("mke2fs", "e2fsprogs"), "-q", "-F", "-t", "ext4", "-m", "0", "-d", content, temp], timeout=600)
        shutil.rmtree(content)
        return store.commit(temp, sha256_file(temp)).digest


def clock(argv: list[str], alone: bool) -> tuple[float, str]:
    """Run a command to its end and return how long it took, in seconds, and what it printed."""
    os.sync()
    begun = time.perf_counter()
    argv = ["chrt", "-r", "1", *argv] if alone else argv
    done = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True, timeout=600)
    took = time.perf_counter() - begun
    if alone:
        time.sleep(2)  # the others of the machine have their turn
    return took, done.stdout


def shell(script: str) -> list[str]:
    """Return the command line of a script whose every step must work."""
    return ["bash", "-c", f"set -e -o pipefail; {script}"]


def transport(folder: Path, size: int, rounds: int, alone: bool) -> dict[str, Any]:
    """Measure the fetch against both rivals, in turn; times in seconds, memory in MiB."""
    origin, served = Store(folder / "origin"), folder / "served"
    served.mkdir()
    say(f"making an image of {format_size(size)}")
    digest = make_image(origin, folder, size)
    packed, _ = export(origin, digest, served / "lab.ext4.zst")
    shutil.copyfile(served / "lab.ext4.zst", served / "alone.ext4.zst")
    packed_digest = sha256_file(served / "lab.ext4.zst")
    times: dict[str, list[float]] = {"ours": [], "stream": [], "pipe": [], "script": []}
    memory: dict[str, list[float]] = {"ours": [], "stream": []}
    with server(served, alone) as url:
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}")
            spot = folder / "spot"
            for name, file in (("ours", "lab"), ("stream", "alone")):
                spot.mkdir()
                argv = [sys.executable, "-c", OURS, str(spot / "store"), f"{url}/{file}.ext4.zst", digest]
                took, told = clock(argv, alone)
                times[name].append(took)
                memory[name].append(int(told) / 1024)
                shutil.rmtree(spot)
            spot.mkdir()
            pipe = f"curl -sS {url}/lab.ext4.zst | zstd -q -d -o {spot}/image; sync {spot}/image"
            times["pipe"].append(clock(shell(pipe), alone)[0])
            shutil.rmtree(spot)
            spot.mkdir()
            script = (
                f"cd {spot}; curl -sS -o lab.zst {url}/lab.ext4.zst; echo '{packed_digest}  lab.zst' | sha256sum -c;"
                " zstd -q -d lab.zst -o image; cp --sparse=always image base; sync base"
            )
            times["script"].append(clock(shell(script), alone)[0])
            shutil.rmtree(spot)
    return {
        "size": size, "packed": packed.length, "rounds": times, "memory": memory,
        "seconds": {name: round(statistics.median(each), 3) for name, each in times.items()},
    }  # fmt: skip


def forget(path: Path) -> None:
    """Drop a file from memory: gigabytes of zeros, read for the digest, would be in the way of what comes after."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def warm(folder: Path, rounds: int) -> list[dict[str, Any]]:
    """Measure a second session's start for each size of a sparse base, in turn, in seconds inside the component."""
    stores: dict[int, tuple[Store, str]] = {}
    for size in SIZES:
        say(f"a warm store with an image of {format_size(size)}")
        store = Store(folder / f"warm{size}")
        with store.begin() as temp:
            os.truncate(temp, size)
            run([need("mke2fs", "e2fsprogs"), "-q", "-F", "-t", "ext4", "-E", "lazy_itable_init=1", temp])
            stores[size] = store, store.commit(temp, sha256_file(temp)).digest
        forget(store.path(stores[size][1]))
    took: dict[int, list[float]] = {size: [] for size in SIZES}
    for number in range(rounds + 1):  # the first one is not counted
        for size, (store, digest) in stores.items():
            spot = folder / f"session{number}"
            for name in ("vm-data", "shared"):
                (spot / name).mkdir(parents=True)
            env = {
                **os.environ, "SESSION_ID": "bench", "KERNELS_DIR": str(store.root), "VM_DATA": str(spot / "vm-data"),
                "SHARED_DIR": str(spot / "shared"), "IMAGE_SHA256": digest,
            }  # fmt: skip
            subprocess.run([sys.executable, "-m", "dozlab.init_rootfs"], env=env, check=True, capture_output=True)
            lines = [json.loads(line) for line in (spot / "shared/timeline.jsonl").read_text().splitlines()]
            took[size].append(lines[-1]["t"] - lines[0]["t"])
            shutil.rmtree(spot)
    for store, _ in stores.values():
        shutil.rmtree(store.root)
    return [
        {"size": size, "seconds": round(statistics.median(each[1:]), 4), "rounds": each[1:]}
        for size, each in took.items()
    ]


def measure(options: argparse.Namespace) -> Report:
    """Measure both parts."""
    size = parse_size(options.size)
    facts = machine()
    for program, package in (("curl", "curl"), ("zstd", "zstd")):
        need(program, package)
    with scratch() as folder:
        fetched = transport(folder, size, options.rounds, options.alone)
        rows = warm(folder, max(7, options.rounds))
    times, medians = fetched["rounds"], fetched["seconds"]
    faster = {name: ratio_of_medians(times[name], times["ours"]) for name in ("pipe", "script")}
    flat = rows[-1]["seconds"] / rows[0]["seconds"]
    lines = [f"image of {format_size(size)}, packed {format_size(fetched['packed'])}"]
    lines += ["measured with real-time priority"] if options.alone else []
    names = {
        "ours": "ours, in frames", "stream": "ours, without a manifest", "pipe": "curl | zstd -d",
        "script": "curl, sha256sum, zstd, cp",
    }  # fmt: skip
    for name, label in names.items():
        rss = f"  {max(fetched['memory'][name]):.0f} MiB" if name in fetched["memory"] else ""
        lines.append(f"{label:>26} {medians[name]:>6.2f} s  {format_size(size / medians[name])}/s{rss}")
    lines += [f"warm store, {format_size(row['size']):>8}: {row['seconds'] * 1000:.0f} ms" for row in rows]
    return Report(
        claim="fetching a base image costs no more than unpacking it, and a warm store nothing of its size",
        rival="curl | zstd -d; curl, sha256sum, zstd -d and cp --sparse",
        machine=facts,
        goals=[
            Goal("speed against curl | zstd -d", faster["pipe"], SPEED, "at least", "x"),
            Goal("speed against the script", faster["script"], SPEED_SCRIPT, "at least", "x"),
            Goal("memory", max(fetched["memory"]["ours"]), RSS, "at most", "MiB"),
            Goal("a second session's start, largest image", rows[-1]["seconds"], WARM, "at most", "s"),
            Goal("largest over smallest image", flat, FLAT, "at most", "x"),
        ],
        figures={"fetch": fetched, "warm": rows},
        lines=lines,
    )  # fmt: skip


if __name__ == "__main__":
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--size", default="1G", help="size of the image (1G)")
    arguments.add_argument(
        "--alone", action="store_true", help="everything measured with real-time priority: for a machine in use (root)"
    )
    arguments.add_argument("--rounds", type=int, default=3, help="rounds (3)")
    sys.exit(main(__doc__, measure, arguments))
