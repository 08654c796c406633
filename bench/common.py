"""What the benchmarks share: the machine they ran on, one way to print, and `dozlab` with a state of its own.

Each script claims something and measures it against a named rival in the same run. Its JSON has at least
`{"claim": str, "rival": str, "goals": [{"what", "value", "limit", "holds"}], "ok": bool, "machine": {...}}`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from dozlab.lib import paths
from dozlab.lib.errors import DozlabError

Sense = Literal["at most", "at least"]


@dataclass(frozen=True)
class Goal:
    """One figure and the limit it is held to."""

    what: str
    value: float
    limit: float
    sense: Sense = "at most"
    unit: str = ""

    @property
    def holds(self) -> bool:
        """Tell whether the figure keeps to the limit."""
        return self.value <= self.limit if self.sense == "at most" else self.value >= self.limit

    def line(self) -> str:
        """Return it as one line for people."""
        mark = "ok  " if self.holds else "MISS"
        return f"{mark}  {self.what}: {self.value:.3g} {self.unit}".rstrip() + f"  (goal: {self.sense} {self.limit:g})"


@dataclass
class Report:
    """What a script found out."""

    claim: str
    rival: str
    machine: dict[str, Any]
    goals: list[Goal] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    """Everything measured, under the script's own names; times in seconds, memory in MiB."""
    lines: list[str] = field(default_factory=list)
    """The figures for people."""

    @property
    def ok(self) -> bool:
        """Tell whether every goal holds."""
        return bool(self.goals) and all(goal.holds for goal in self.goals)

    def as_dict(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {
            "claim": self.claim,
            "rival": self.rival,
            "goals": [{**asdict(goal), "holds": goal.holds} for goal in self.goals],
            "ok": self.ok,
            "machine": self.machine,
            **self.figures,
        }

    def text(self) -> str:
        """Return what people read."""
        shown = ", ".join(f"{key} {value}" for key, value in self.machine.items())
        return "\n".join(
            [self.claim, f"rival: {self.rival}", f"machine: {shown}", "", *self.lines, ""]
            + [goal.line() for goal in self.goals]
        )


def main(doc: str | None, measure: Callable[[argparse.Namespace], Report], parser: argparse.ArgumentParser) -> int:
    """Measure, print, and return 0 when the goals hold, 1 when one does not or nothing could be measured."""
    parser.description = f"{doc}\n\nExit status: 0 every goal holds, 1 one does not (or it could not be measured)."
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    options = parser.parse_args()
    try:
        report = measure(options)
    except DozlabError as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        return 1
    print(json.dumps(report.as_dict(), indent=2) if options.json else report.text())
    return 0 if report.ok else 1


def say(text: str) -> None:
    """Print a line of progress on stderr."""
    print(text, file=sys.stderr, flush=True)


def machine(accel: str = "") -> dict[str, Any]:
    """Return what the figures depend on; the load is that before the measurement.

    :param accel: `kvm` or `tcg` where a VM runs
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    facts = {
        "cores": os.cpu_count(),
        "memory": f"{memory:.0f} GiB",
        "load": round(os.getloadavg()[0], 2),
        "kernel": platform.release(),
    }
    return {**facts, "processor of the guest": "KVM" if accel == "kvm" else "emulated (TCG)"} if accel else facts


def ratio_of_medians(ours: list[float], rival: list[float]) -> float:
    """Return median(ours) / median(rival).

    :raises ValueError: when either is empty
    """
    if not ours or not rival:
        raise ValueError("nothing was measured")
    return statistics.median(ours) / statistics.median(rival)


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Yield an empty folder on the file system where sessions have their disks; removed afterwards."""
    near = paths.state()
    while not near.is_dir():
        near = near.parent
    folder = Path(tempfile.mkdtemp(prefix=".dozlab-bench.", dir=near))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@dataclass(frozen=True)
class Command:
    """The command line with session state in a folder of its own."""

    state: Path

    def argv(self, *words: str) -> list[str]:
        """Return the whole command line."""
        return [sys.executable, "-c", "from dozlab.cli.main import main; main()", *words]

    def environment(self) -> dict[str, str]:
        """Return its environment."""
        return {**os.environ, "XDG_STATE_HOME": str(self.state)}

    def run(self, *words: str, timeout: float = 700) -> str:
        """Run a verb to its end and return what it printed.

        :raises DozlabError: with its last line, when it fails
        """
        done = subprocess.run(
            self.argv(*words), env=self.environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=timeout, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise DozlabError(f"dozlab {' '.join(words)}: {(done.stderr.strip() or 'failed').splitlines()[-1]}")
        return done.stdout


@contextlib.contextmanager
def sessions() -> Iterator[Command]:
    """Yield the command with a state folder of its own; its sessions are ended and removed afterwards."""
    with scratch() as folder:
        command = Command(folder)
        try:
            yield command
        finally:
            command.run("down", "--all")
