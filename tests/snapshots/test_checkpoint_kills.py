"""`kill -9` at random moments of a checkpoint that replaces another: the old one or the new one is there, and works."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.snapshots.conftest import QUICK, folder_of, is_itself
from tests.snapshots.kills import Killed, Plan, kill_during, plans, seed
from tests.snapshots.test_kills import timed
from tests.snapshots.world import Placed
from tests.support import until

SESSION, NAME = "saved", "one"
KILLS = 8
SEED = seed()


@pytest.fixture(scope="module")
def session(quick: Placed) -> Iterator[Placed]:
    """A session with a checkpoint, whose memory knows which one it is."""
    quick.run("up", SESSION, "--image", "quick", "--no-docker-wait", *QUICK, timeout=200)
    quick.ssh(SESSION, "echo 0 > /run/mark; echo 0 > /root/mark; sync")
    quick.run("checkpoint", SESSION, NAME)
    yield quick
    quick.run("down", SESSION, check=False)


@pytest.fixture(scope="module")
def moments(session: Placed) -> list[Plan]:
    """Moments over the whole of one checkpoint."""
    seconds = timed(lambda: session.run("checkpoint", SESSION, NAME))
    return plans(random.Random(SEED), KILLS, seconds)


def checkpoints(session: Placed) -> Path:
    return folder_of(session, SESSION) / "vm-data/disk/checkpoints"


def running(session: Placed) -> None:
    """Wait until the machine takes verbs again; start the session again where the kill has ended it.

    Its last status does not count: for a while after a kill it still tells of the machine that is going down.
    """

    def ready() -> bool:
        free = _free(session)
        status = session.json("status", SESSION)
        if status["state"] in ("stopped", "failed", "dead"):
            session.run("up", SESSION, "--image", "quick", "--no-docker-wait", *QUICK, timeout=200)
            return False
        return free and status["state"] == "running" and bool(status["vm"].get("ssh"))

    until(ready, what="the machine to be free", seconds=240)


@pytest.mark.parametrize("number", range(KILLS))
def test_a_kill_leaves_the_old_one_or_the_new(session: Placed, moments: list[Plan], number: int) -> None:
    before = json.loads((checkpoints(session) / NAME / "snapshot.json").read_text())["created"]
    new = str(number + 1)
    session.ssh(SESSION, f"echo {new} > /run/mark; echo {new} > /root/mark; sync")
    words = ["checkpoint", SESSION, NAME]
    killed: Killed = kill_during(session, words, lambda: folder_of(session, SESSION), moments[number])
    told = f"DOZLAB_TEST_SEED={SEED}: {killed}: {killed.said}"
    assert "Traceback" not in killed.said, told
    if killed.victim == "command":
        assert killed.status == -9, told
    elif killed.status:
        assert killed.status == 1 and len(killed.errors) == 1, told
    running(session)
    (found,) = session.json("status", SESSION)["vm"]["checkpoints"]
    assert sorted(path.name for path in checkpoints(session).iterdir()) == [NAME], told
    back = session.run("reset", SESSION, NAME, timeout=200)
    assert "memory could not be used" not in back.stdout, told
    marks = set(session.ssh(SESSION, "cat /run/mark /root/mark").split())
    if found["created"] == before:
        assert new not in marks and len(marks) == 1, told
    else:
        assert marks == {new}, told
    is_itself(session, SESSION)


def _free(session: Placed) -> bool:
    """Tell whether no verb is under way: a killed command does not end what it asked for."""
    done = session.run("checkpoint", SESSION, "nothing", "--rm", check=False)
    return "no checkpoint nothing" in done.stderr
