"""`dozlab up --prepare`: the image is prepared beside the session that had to boot, and the next one begins with it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.snapshots.conftest import BARE, is_itself, snapshots_of, stages
from tests.snapshots.world import Placed
from tests.support import Inventory, until

OTHER = [*BARE, "--set", "vm.memory=272", "--set", "vm.cpuCount=1", "--set", "rootfs.diskSize=1G"]
"""A machine that no other test prepares."""


def test_a_session_that_had_to_boot_prepares_the_next_one(dozlab: Placed, clean: Inventory) -> None:
    words = ["--image", "quick", "--no-docker-wait", "--prepare", *OTHER]
    known = snapshots_of(dozlab, "quick")
    made: set[Path] = set()
    try:
        said = dozlab.run("up", "first", *words, timeout=300).stdout
        assert "restored" not in stages(dozlab, "first")["vmm"]["detail"]
        found = re.search(r"is being prepared in the background \(how it goes: (.+)\)", said)
        assert found, said
        log = Path(found[1])
        until(lambda: " prepared in " in log.read_text(), what="a snapshot beside the session", seconds=300)
        made = set(snapshots_of(dozlab, "quick")) - set(known)
        assert len(made) == 1, log.read_text()
        is_itself(dozlab, "first")  # whom it was prepared beside

        said = dozlab.run("up", "second", *words, timeout=300).stdout
        assert "restored" in stages(dozlab, "second")["vmm"]["detail"]
        assert "background" not in said, said
        is_itself(dozlab, "second")
        assert sorted(dozlab.sessions()) == ["first", "second"]
    finally:
        dozlab.run("down", "--all", timeout=200)
        for each in made:
            subprocess.run(["rm", "-r", str(each)], check=True)
