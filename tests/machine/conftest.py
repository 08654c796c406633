"""Real sessions for tests: one long-lived one that many tests share, and fresh ones for those that break theirs.

Enabled by `make test`. They boot VMs (emulated where KVM does not work): about a minute each on two cores.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dozlab.images.store import Store
from dozlab.lib import paths
from dozlab.session import vmm_choice
from tests.support import REPOSITORY, Dozlab, Inventory, until

USER = "dozlab-test"

SMALL = ["--set", "vm.memory=768", "--set", "rootfs.diskSize=2G"]
IMAGE = "for-snapshots"
PREPARED = [*SMALL, "--image", IMAGE]
"""What a session of `quick` must be like to begin with the prepared snapshot."""
NO_EDITOR = ["--set", "codeServer.enabled=false"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything in this folder, and give a boot the time it takes under emulation."""
    for item in items:
        if "tests/machine" in str(item.path):
            item.add_marker(pytest.mark.machine)
            if not item.get_closest_marker("timeout"):
                item.add_marker(pytest.mark.timeout(1200))


@pytest.fixture(scope="session")
def dozlab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dozlab]:
    """The command with a state folder of its own; whatever a test left is removed at the end."""
    state = tmp_path_factory.mktemp("state")
    command = Dozlab(state)
    yield command
    command.run("down", "--all", check=False)
    shutil.rmtree(state, ignore_errors=True)


@pytest.fixture(scope="session")
def lab(dozlab: Dozlab) -> str:
    """A running session with everything on, shared by tests that leave it as they found it."""
    dozlab.run("up", "lab", "--cold", "--set", "codeServer.password=lab-pass-word", timeout=600)
    return "lab"


@pytest.fixture(scope="session")
def own(dozlab: Dozlab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dozlab]:
    """The command with a cache of its own, so that the user's stays as it is: the default image by another name."""
    cache, home = paths.cache(), tmp_path_factory.mktemp("cache")
    mine = home / "dozlab"
    mine.mkdir()
    for name in ("kit", "code-server", "docker-cli", "bin", vmm_choice.cache_file().name):
        (mine / name).symlink_to(cache / name)
    base = Store(cache / "store")
    Store(mine / "store").add_file(base.path(base.inspect("dozlab-vm").digest), name=IMAGE)
    yield Dozlab(dozlab.state, env={"XDG_CACHE_HOME": str(home)})
    shutil.rmtree(home, ignore_errors=True)


@dataclass(frozen=True)
class Prepared:
    """What `dozlab image prepare` said, and what of its making was still there afterwards."""

    said: subprocess.CompletedProcess[str]
    left: dict[str, list[str]]


@pytest.fixture(scope="session")
def prepared(own: Dozlab) -> Prepared:
    """One snapshot of the small machine in that cache."""
    before = Inventory.take()
    said = own.run("image", "prepare", IMAGE, *SMALL, *NO_EDITOR, "--set", "firecracker.vmm=qemu", timeout=600)
    return Prepared(said, left_since(before))


@pytest.fixture(scope="session")
def quick(own: Dozlab, prepared: Prepared) -> Dozlab:
    """The command whose `PREPARED` sessions take seconds: for tests that are about something else than a boot."""
    return own


@pytest.fixture
def clean(dozlab: Dozlab) -> Iterator[Inventory]:
    """Prove that a test leaves nothing behind: the inventory of this machine before and after is the same."""
    with nothing_left() as before:
        yield before


@contextlib.contextmanager
def nothing_left() -> Iterator[Inventory]:
    """Check at the end that all is as it was at the beginning; a failure inside is told first."""
    before = Inventory.take()
    yield before
    left = left_since(before)
    assert not left, f"left behind: {left}"


def left_since(before: Inventory) -> dict[str, list[str]]:
    """Return what is here and was not before, once nothing is or a minute has passed."""
    left: dict[str, list[str]] = {}

    def none() -> bool:
        left.clear()
        left.update(Inventory.take().new_since(before))
        return not left

    with contextlib.suppress(AssertionError):
        until(none, what="nothing left behind", seconds=60)
    return left


@pytest.fixture
def user_dozlab() -> Iterator[Dozlab]:
    """The command as an ordinary user, with /dev/net/tun open to the user as Debian's udev makes it."""
    try:
        entry = pwd.getpwnam(USER)
    except KeyError:
        subprocess.run(["useradd", "--create-home", "--shell", "/bin/bash", USER], check=True)
        entry = pwd.getpwnam(USER)
    home = Path(entry.pw_dir)
    environment = {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache"), **_reachable(home)}
    # The editor's build takes minutes and knows no user: root's is the same. Images and kit are the user's own work.
    for name in ("code-server", "docker-cli"):
        if not (home / ".cache/dozlab" / name).exists():
            (home / ".cache/dozlab").mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "-a", str(paths.cache() / name), str(home / ".cache/dozlab" / name)], check=True)
            subprocess.run(["chown", "-R", f"{USER}:", str(home / ".cache")], check=True)
    mode = os.stat("/dev/net/tun").st_mode & 0o777
    os.chmod("/dev/net/tun", 0o666)
    try:
        yield Dozlab(home / ".local/state", as_user=USER, env=environment)
    finally:
        os.chmod("/dev/net/tun", mode)


def _reachable(home: Path) -> dict[str, str]:
    """Return the environment by which the user runs this tree; it is copied where the user may not read it."""
    probe = ["runuser", "-u", USER, "--", "test", "-r", str(REPOSITORY / "pyproject.toml")]
    if subprocess.run(probe, check=False).returncode == 0:
        return {}
    copy = home / "dozlab"
    shutil.rmtree(copy, ignore_errors=True)
    ignore = shutil.ignore_patterns("node_modules", "evidence", ".git", ".*_cache", ".hypothesis")
    shutil.copytree(REPOSITORY, copy, symlinks=True, ignore=ignore)
    subprocess.run(["chown", "-R", f"{USER}:", str(copy)], check=True)
    return {"PYTHONPATH": str(copy / "src"), "DOZLAB_TEST_PYTHON": str(copy / ".venv/bin/python")}
