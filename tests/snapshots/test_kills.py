"""`kill -9` at thirty random moments: while a snapshot is made, and while a session begins with one.

Each time one process of those at work is killed. The verb then ends with one line that says why, or what it was for
comes about all the same; the snapshot and the session are whole afterwards, and nothing of the attempt is left.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.machine.conftest import nothing_left
from tests.snapshots.conftest import QUICK, folder_of, is_itself, same_files, snapshots_of, stages
from tests.snapshots.kills import Killed, Pace, Plan, at_work, kill_during, plans, seed
from tests.snapshots.world import Placed
from tests.support import until

PREPARED = [*QUICK, "--set", "vm.memory=224", "--set", "rootfs.diskSize=768M"]
"""Another snapshot than that which sessions begin with meanwhile."""
SAVING = 0.4
"""Seconds from the first byte that is written to the end, or less: there the kills are closer together."""
SEED = seed()


@dataclass(frozen=True)
class Outcome:
    """One kill and what was wrong afterwards, empty where nothing was."""

    killed: Killed | None
    fault: str


def prepare_killed(command: Placed, plan: Plan, pace: Pace | None = None) -> Outcome:
    """Kill a `dozlab image prepare` that is to replace a snapshot; without a pace when it is being written."""
    (before,) = [same_files(each) for each in snapshots_of(command, "quick") if is_mine(each)]
    store = Path(command.env["XDG_CACHE_HOME"]) / "dozlab/store"

    def session() -> Path | None:
        return next((command.state / "dozlab/sessions").glob("prepare-*"), None)

    def written() -> bool:
        return any((store / "tmp").glob("prepare-*/state"))

    words = ["image", "prepare", "quick", "--again", *PREPARED]
    killed = kill_during(command, words, session, pace.aim(plan) if pace else plan, None if pace else written)
    if pace:
        pace.learn(killed)
    if killed.victim == "command":
        assert killed.status == -9
    elif killed.victim and killed.status:
        assert killed.status == 1 and len(killed.errors) == 1, killed.said
    assert "Traceback" not in killed.said
    # Whatever a killed command left behind, the next one removes; it finds the old snapshot, or the new one.
    again = command.run("image", "prepare", "quick", *PREPARED)
    (after,) = [same_files(each) for each in snapshots_of(command, "quick") if is_mine(each)]
    if killed.status:
        assert " was prepared " in again.stdout
        assert after == before or killed.victim == "command"
    assert {name for name, *_ in after} == {"state", "disk.ext4", "token", "snapshot.json"}
    left = [name for name in command.sessions() if name.startswith("prepare-")]
    assert left == [], [str(path) for path in (command.state / "dozlab/sessions").rglob("*")]
    assert list((store / "tmp").glob("prepare-*")) == []
    assert at_work("prepare-[0-9a-f]{6}") == []
    return Outcome(killed, "")


def is_mine(snapshot: Path) -> bool:
    return '"memory": 224' in (snapshot / "snapshot.json").read_text()


def load_killed(command: Placed, plan: Plan, pace: Pace) -> Outcome:
    """Kill a `dozlab up` that begins with a snapshot, and start that session again."""
    name = f"torn-{int(plan.lot * 10**6)}"
    words = ["up", name, "--image", "quick", "--keep-failed", "--no-docker-wait", *QUICK]
    killed = kill_during(command, words, lambda: folder_of(command, name), pace.aim(plan))
    pace.learn(killed)
    try:
        assert "Traceback" not in killed.said
        if killed.victim == "command":
            assert killed.status == -9
        elif killed.status:
            assert killed.status == 1 and len(killed.errors) == 1, killed.said
        if name in command.sessions():
            state = command.json("status", name)["state"]
            # It goes on, with or without the command; or it is booting, or ending.
            if state in ("starting", "running", "stopping"):
                until(lambda: ends_or_answers(command, name), what=f"{name} to answer", seconds=240)
                if command.json("status", name)["state"] == "running":
                    is_itself(command, name)
        if name not in command.sessions() or command.json("status", name)["state"] not in ("starting", "running"):
            command.run("up", name, "--image", "quick", "--no-docker-wait", *QUICK, timeout=200)
            is_itself(command, name)
    finally:
        command.run("down", name, check=False)
    assert at_work(name) == []
    return Outcome(killed, "")


def ends_or_answers(command: Placed, name: str) -> bool:
    status = command.json("status", name)
    if status["state"] == "stopping":  # what still answers is going down
        return False
    return bool(status["vm"].get("ssh")) or status["state"] not in ("starting", "running")


def lane(name: str, kills: Sequence[Callable[[], Outcome]]) -> list[Outcome]:
    """Run one kill after the other; a failure is told where it belongs and does not hide the others."""
    begun, found = time.monotonic(), []
    for kill in kills:
        try:
            found.append(kill())
        except Exception as error:
            found.append(Outcome(None, f"{kill}: {type(error).__name__}: {error}"))
    rows = "; ".join(str(row.killed or row.fault.partition("\n")[0]) for row in found)
    print(f"{name}, {time.monotonic() - begun:.0f} s: {rows}")
    return found


def timed(call: Callable[[], object]) -> float:
    begun = time.monotonic()
    call()
    return time.monotonic() - begun


@pytest.fixture(scope="module")
def outcomes(quick: Placed) -> Iterator[dict[str, list[Outcome]]]:
    """Both lanes at once, which is how sessions are started while somebody prepares an image."""
    rng = random.Random(SEED)
    print(f"DOZLAB_TEST_SEED={SEED}")
    boot = Pace(timed(lambda: quick.run("image", "prepare", "quick", *PREPARED, timeout=300)))
    start = Pace(timed(lambda: quick.run("up", "whole", "--image", "quick", "--no-docker-wait", *QUICK, timeout=200)))
    quick.run("down", "whole")
    preparing = [partial(prepare_killed, quick, plan, boot) for plan in plans(rng, 9, 1.0)]
    preparing += [partial(prepare_killed, quick, plan) for plan in plans(rng, 6, SAVING)]
    loading = [partial(load_killed, quick, plan, start) for plan in plans(rng, 15, 1.0)]
    with nothing_left(), ThreadPoolExecutor(2) as pool:
        lanes = [pool.submit(lane, name, kills) for name, kills in (("prepare", preparing), ("load", loading))]
        found = dict(zip(("prepare", "load"), (each.result() for each in lanes), strict=True))
    yield found
    for each in snapshots_of(quick, "quick"):
        if is_mine(each):
            shutil.rmtree(each)


@pytest.mark.timeout(2400)  # the fixture's thirty kills count as the first test's
@pytest.mark.parametrize("verb", ["prepare", "load"])
@pytest.mark.parametrize("number", range(15))
def test_a_kill_leaves_all_whole(outcomes: dict[str, list[Outcome]], verb: str, number: int) -> None:
    outcome = outcomes[verb][number]
    assert not outcome.fault, f"DOZLAB_TEST_SEED={SEED}: {outcome.fault}"


def test_kills_hit_nearly_every_kind_of_process(outcomes: dict[str, list[Outcome]]) -> None:
    """Otherwise the moments above are no proof of anything."""
    for verb, rows in outcomes.items():
        hit = [row.killed.victim for row in rows if row.killed and row.killed.victim]
        assert len(hit) >= 8 and len(set(hit)) >= 4, (verb, hit, SEED)


def test_the_snapshot_that_came_through_is_a_machine(quick: Placed, outcomes: dict[str, list[Outcome]]) -> None:
    quick.run("up", "survivor", "--image", "quick", "--no-docker-wait", *PREPARED, timeout=200)
    try:
        assert "restored" in stages(quick, "survivor")["vmm"]["detail"]
        is_itself(quick, "survivor")
    finally:
        quick.run("down", "survivor")
