"""Boots an image in a session of its own and runs the boot checks of its recipe in the guest.

That session has no terminal and no editor, and is gone afterwards, whatever happened.
"""

from __future__ import annotations

import functools
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dozlab.images.recipe import BootCheck, Recipe
from dozlab.lib import proc
from dozlab.lib.errors import DozlabError
from dozlab.lib.timeline import Entry
from dozlab.lib.units import format_seconds
from dozlab.session import operations, planning, preparing
from dozlab.session.layout import Layout

BOOT_LIMIT = 600.0
"""Seconds until a boot is given up; an emulated guest on a busy machine takes two or three minutes."""
PAUSE = 1.0
"""Seconds between two tries of a check."""
LINES = 10
"""Of what a failed command said, so many are shown."""
MODULE_TIMEOUT = 60


@dataclass(frozen=True)
class Outcome:
    """How a check went: `seconds` it took, and `at` which second after the start it was done; `output` of a failure."""

    name: str
    ok: bool
    seconds: float
    at: float
    output: str = ""


@dataclass(frozen=True)
class Report:
    """A boot's timeline, and the checks as far as they were run: nothing is tried after one that fails."""

    stages: tuple[Entry, ...]
    checks: tuple[Outcome, ...]


def checks_of(recipe: Recipe) -> list[BootCheck]:
    """Return what is checked: that the kernel modules are there, then the recipe's own. Pure."""
    if not recipe.modules:
        return list(recipe.boot_checks)
    names = " ".join(recipe.modules)
    return [BootCheck(f"kernel modules: {names}", f"modprobe --all {names}", MODULE_TIMEOUT), *recipe.boot_checks]


def run(
    recipe: Recipe, digest: str, raw: dict[str, Any], *, progress: operations.Progress, stages: preparing.Stages,
    done: Callable[[Outcome], None],
) -> Report:  # fmt: skip
    """Boot an image of the store and run its checks, in order, until one fails.

    :param digest: of the image
    :param raw: values with the chart's names
    :param stages: gets the timeline's entries as they come
    :param done: gets each outcome as it comes
    :raises DozlabError: when the machine does not boot
    """
    layout, begun = Layout(f"image-test-{secrets.token_hex(3)}"), time.time()
    watch = operations.Watch(layout)
    try:
        operations.start(
            layout.id, preparing.hidden_values(raw), image=digest, progress=progress,
            make_plan=functools.partial(planning.make_plan, cold=True),
        )  # fmt: skip
        progress(f"session {layout.id} boots it")
        _wait(watch, stages)
        outcomes: list[Outcome] = []
        for check in checks_of(recipe):
            outcomes.append(_try(layout, watch, check, begun))
            stages(watch.new())
            done(outcomes[-1])
            if not outcomes[-1].ok:
                break
        watch.new()
        return Report(tuple(watch.entries), tuple(outcomes))
    finally:
        if layout.state.exists():
            operations.down(layout, keep=False, progress=progress)


def last_lines(text: str) -> str:
    """Return the last lines of an output that have something in them. Pure."""
    return "\n".join([line.rstrip() for line in text.splitlines() if line.strip()][-LINES:])


def _wait(watch: operations.Watch, stages: preparing.Stages) -> None:
    deadline = time.monotonic() + BOOT_LIMIT
    while not watch.done("sshd"):
        stages(watch.new())
        watch.check()
        if why := watch.failed("sshd"):
            raise DozlabError(f"the image does not come up: {why}")
        if time.monotonic() > deadline:
            raise DozlabError(
                f"the image does not answer after {format_seconds(BOOT_LIMIT)}",
                hint="see how far it comes: dozlab up --cold --keep-failed --image NAME",
            )
        time.sleep(0.05)
    stages(watch.new())


def _try(layout: Layout, watch: operations.Watch, check: BootCheck, begun: float) -> Outcome:
    """Run a check until it succeeds or its time is over."""
    started = time.monotonic()
    words = operations.ssh_argv(layout, [check.run])
    while True:
        left = check.timeout - (time.monotonic() - started)
        try:
            result = proc.run(words, timeout=max(left, 1.0), check=False)
            ok, said = result.code == 0, result.out + result.err or f"exit status {result.code}"
        except DozlabError:
            ok, said = False, f"it did not end within {format_seconds(check.timeout)}"
        spent = time.monotonic() - started
        if ok:
            return Outcome(check.name, True, spent, time.time() - begun)
        watch.new()
        watch.check()
        if spent + PAUSE >= check.timeout:
            return Outcome(check.name, False, spent, time.time() - begun, last_lines(said))
        time.sleep(PAUSE)
