"""What tests of prepared snapshots share: a network, a cache and images of their own (`make test-snapshots`).

They boot VMs and need root: namespaces for the network, a small disk that can be full.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dozlab.images.store import Store
from dozlab.lib import paths
from dozlab.session import vmm_choice
from tests.machine.conftest import NO_EDITOR, nothing_left
from tests.snapshots.guest import quick_guest
from tests.snapshots.world import Placed, World
from tests.support import Inventory

BARE = [*NO_EDITOR, "--set", "terminal.enabled=false", "--set", "firecracker.vmm=qemu"]
QUICK = [*BARE, "--set", "vm.memory=256", "--set", "vm.cpuCount=1", "--set", "rootfs.diskSize=1G"]
"""A session of the quick guest."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything in this folder."""
    for item in items:
        if "tests/snapshots" in str(item.path):
            item.add_marker(pytest.mark.machine)
            item.add_marker(pytest.mark.root)
            if not item.get_closest_marker("timeout"):
                item.add_marker(pytest.mark.timeout(1200))


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Host and internet."""
    found = World(tmp_path_factory.mktemp("world"))
    yield found
    found.close()


@pytest.fixture(scope="session")
def dozlab(world: World) -> Iterator[Placed]:
    """The command on that host, with an empty cache and no sessions; images `dozlab-vm` and `quick`."""
    cache = paths.cache()
    home = Path(tempfile.mkdtemp(prefix="pytest-snapshots.", dir="/var/tmp"))
    mine, state = home / "cache/dozlab", home / "state"
    mine.mkdir(parents=True)
    for name in ("kit", "code-server", "docker-cli", "bin", vmm_choice.cache_file().name):
        (mine / name).symlink_to(cache / name)
    known = Store(cache / "store")
    base = known.path(known.inspect("dozlab-vm").digest)
    store = Store(mine / "store")
    store.add_file(base, name="dozlab-vm")
    made = quick_guest(base, home)
    store.add_file(made, name="quick")
    made.unlink()
    command = Placed(state, env={"XDG_CACHE_HOME": str(home / "cache")}, prefix=world.prefix)
    try:
        yield command
    finally:
        command.run("down", "--all", check=False)
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def quick(dozlab: Placed) -> Placed:
    """The same, with a snapshot of the quick guest, whose clock was a year behind when it was saved."""
    dozlab.run("image", "prepare", "quick", *QUICK, timeout=300)
    return dozlab


@pytest.fixture
def clean(world: World) -> Iterator[Inventory]:
    """Prove that a test leaves nothing behind."""
    with nothing_left() as before:
        yield before


def snapshots_of(command: Placed, image: str) -> list[Path]:
    """Return the folders of an image's snapshots, as `image ls` knows them."""
    return [
        Path(each["path"]) for row in command.json("image", "ls") if image in row["names"] for each in row["prepared"]
    ]


def stages(command: Placed, session: str) -> dict[str, dict[str, Any]]:
    """Return the stages of a session's start that are done, by name."""
    return {row["stage"]: row for row in command.json("status", session)["stages"] if row["event"] == "done"}


def told(command: Placed, session: str) -> str:
    """Return what firecracker-vm has logged in a session."""
    return command.run("logs", session, "-c", "firecracker-vm").stdout


def folder_of(command: Placed, session: str) -> Path:
    """Return a session's folder on the host."""
    return command.state / "dozlab/sessions" / session


def is_itself(command: Placed, session: str) -> None:
    """Check that one can get in with the session's keys, and that names and disk are the session's own."""
    name, machine = command.ssh(session, "cat /proc/sys/kernel/hostname /etc/machine-id").split()
    disk = folder_of(command, session) / "vm-data/disk"
    assert (name, machine) == (session, (disk / "identity/machine-id").read_text().strip())
    assert left_of_restoring(disk) == []


def left_of_restoring(disk: Path) -> list[str]:
    """Return the files beside a session disk that only exist while a snapshot is laid."""
    return sorted(path.name for path in disk.iterdir() if path.name.endswith((".blank", ".snapshot")))


def clock_difference(command: Placed, session: str, limit: float = 0.05) -> tuple[float, float]:
    """Return by how much a guest's clock differs from ours, and the most that the way there may have falsified it.

    As NTP does it (RFC 5905, section 8), by one SSH connection: of several answers the one that came back soonest.
    """
    command_line = "while read -r _; do echo $EPOCHREALTIME; done"
    process = subprocess.Popen(
        command.argv("ssh", session, "--", command_line), env=command.environment(), text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    best = (0.0, float("inf"))
    with process:
        assert process.stdin and process.stdout
        for number in range(400):
            asked = time.time()
            process.stdin.write("\n")
            process.stdin.flush()
            shown, back = float(process.stdout.readline()), time.time()
            if number and (back - asked) / 2 < best[1]:
                best = (shown - (asked + back) / 2, (back - asked) / 2)
            if (number > 5 and best[1] < limit / 4) or (number > 40 and best[1] < limit):
                break
        process.stdin.close()
    return best


def same_files(folder: Path) -> list[tuple[str, int, int, int]]:
    """Return what tells whether a folder's files are still the same ones."""
    facts = [(path.name, path.stat()) for path in sorted(folder.iterdir())]
    return [(name, found.st_ino, found.st_size, found.st_mtime_ns) for name, found in facts]


def describe(folder: Path, change: dict[str, Any]) -> None:
    """Change entries of a snapshot's description; a dictionary is merged."""
    path = folder / "snapshot.json"
    value = json.loads(path.read_text())
    for name, new in change.items():
        value[name] = {**value[name], **new} if isinstance(new, dict) else new
    path.write_text(json.dumps(value))
