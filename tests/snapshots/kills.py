"""`kill -9` at random moments: a verb is started, and one of the processes that are at work for it is killed.

The moments are drawn from a fixed seed, so that a change is judged by the same ones as the one before it; what is
under way at each of them differs a little. DOZLAB_TEST_SEED draws others: any number, or `random`.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tests.support import Dozlab

VICTIMS = ("command", "uplink", "supervisor", "firecracker-vm", "VMM")
"""In the order in which they appear; uplink: the launcher, which becomes pasta."""


def seed() -> int:
    """Return the seed of this run."""
    given = os.environ.get("DOZLAB_TEST_SEED", "710810")
    return random.SystemRandom().randrange(10**6) if given == "random" else int(given)


@dataclass(frozen=True)
class Plan:
    """One kill, `moment` seconds after the start or after what `kill_during` waits for; `lot` (0 to 1) draws whom.

    Whoever is not there yet is killed as soon as it is: on a slow machine the moments alone would hit the command only.
    """

    moment: float
    lot: float


def plans(rng: random.Random, count: int, seconds: float) -> list[Plan]:
    """Return `count` kills: spread over the first `seconds` seconds, and evenly over `VICTIMS`."""
    lots = rng.sample(range(count), count)
    return [
        Plan(seconds * (number + rng.random()) / count, (lots[number] + rng.random()) / count)
        for number in range(count)
    ]


@dataclass(frozen=True)
class Killed:
    """What came of one kill. `victim` is empty where the verb had ended before; `said`: what the command printed."""

    plan: Plan
    victim: str
    status: int
    said: str
    seconds: float
    """From the start of the verb to its end."""

    def __str__(self) -> str:
        return f"{self.victim or 'nobody'} at {self.plan.moment:.2f} s"

    @property
    def errors(self) -> list[str]:
        """Return its lines of error."""
        return [line for line in self.said.splitlines() if line.startswith("error: ")]


@dataclass
class Pace:
    """How long a verb takes: `seconds` as it was before, less once one ended before its kill came.

    So one that was slow where it was measured does not let the later kills come too late for all.
    """

    seconds: float
    most: float = 0.85
    """Of that time: the later ones of a run are a little quicker."""

    def aim(self, plan: Plan) -> Plan:
        """Return a plan in seconds for one whose moment is a part of the verb's time."""
        return replace(plan, moment=plan.moment * self.seconds * self.most)

    def learn(self, killed: Killed) -> None:
        """Take over the time of a verb that nobody was killed of."""
        if not killed.victim:
            self.seconds = min(self.seconds, killed.seconds)


def kill_during(
    command: Dozlab,
    words: list[str],
    session: Callable[[], Path | None],
    plan: Plan,
    after: Callable[[], bool] | None = None,
) -> Killed:
    """Start a verb, kill one process of those that work for it at that moment, and wait until the command has ended.

    :param session: returns the state folder of the session it works on, where there is one yet
    :param after: the moment counts from when this is true; in place of whoever has gone by then the command is hit
    """
    begun = time.monotonic()
    process = command.popen(*words)
    try:
        while process.poll() is None and after and not after():
            time.sleep(0.01)
        due = time.monotonic() + plan.moment
        while process.poll() is None and time.monotonic() < due:
            time.sleep(0.005)
        victim, wanted = "", VICTIMS[int(plan.lot * len(VICTIMS))]
        while not victim and process.poll() is None:
            there = workers(process.pid, session())
            if after and wanted not in there:
                wanted = "command"
            if wanted in there:
                victim = wanted
                with contextlib.suppress(ProcessLookupError):
                    os.kill(there[wanted], signal.SIGKILL)
            else:
                time.sleep(0.01)
        ended = time.monotonic()
        said, _ = process.communicate(timeout=240)
        if victim == "command" and process.returncode != -signal.SIGKILL:
            victim = ""  # it ended by itself between the look at it and the kill
    except BaseException:
        process.kill()
        process.communicate()
        raise
    return Killed(plan, victim, process.returncode, said, ended - begun)


def workers(command: int, session: Path | None) -> dict[str, int]:
    """Return what is at work now: `VICTIMS`' name -> pid."""
    found = {"command": command}
    leader = 0
    with contextlib.suppress(OSError, ValueError, TypeError):
        leader = json.loads((session / "session.json").read_text())["pid"] if session else 0
    if not leader or not os.path.exists(f"/proc/{leader}"):
        return found
    found["uplink"] = leader
    for pid in _descendants(leader):
        with contextlib.suppress(OSError):
            argv = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
            if "qemu-system" in argv[0] or argv[0].endswith("/firecracker"):
                found["VMM"] = pid
            elif "dozlab.session.supervisor" in argv:
                found["supervisor"] = pid
            elif "dozlab.firecracker_vm" in argv:
                found["firecracker-vm"] = pid
    return found


def _descendants(pid: int) -> Iterator[int]:
    try:
        children = [
            word for task in Path(f"/proc/{pid}/task").iterdir() for word in (task / "children").read_text().split()
        ]
    except OSError:
        return
    for child in children:
        yield int(child)
        yield from _descendants(int(child))


def at_work(word: str) -> list[str]:
    """Return the command lines of processes that name a session: nobody must be left of one that was removed."""
    done = subprocess.run(["pgrep", "-af", f"(^|[ =/]){word}( |,|/|$)"], capture_output=True, text=True, check=False)
    return done.stdout.splitlines()
