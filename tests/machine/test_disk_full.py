"""The host's disk full during a build, a download and a run: one clear line, nothing left, nothing lost."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dozlab.lib import paths
from tests.machine.conftest import NO_EDITOR, PREPARED, SMALL
from tests.support import Dozlab, until
from tests.tiny import small_ext4

pytestmark = [pytest.mark.usefixtures("clean"), pytest.mark.root]
LEAN = [*NO_EDITOR, "--set", "terminal.enabled=false"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 100 MiB, in memory."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def in_private_mounts(dozlab: Dozlab, script: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `script`, then dozlab, in a mount namespace that ends with it."""
    whole = f'{script}; "$@"; code=$?; find "$left" -type f | grep -v lock; exit $code'
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", whole, "sh", *dozlab.argv(*words)],
        env=dozlab.environment(), capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip


def test_during_a_download(dozlab: Dozlab, tmp_path: Path) -> None:
    import os

    image = small_ext4(tmp_path, "full.ext4")
    with image.open("r+b") as file:
        file.seek(16 << 20)
        file.write(os.urandom(12 << 20))
    store = paths.cache() / "store"
    script = f'left={store}; mount -t tmpfs -o size=6m tmpfs "$left"'
    done = in_private_mounts(dozlab, script, "up", "bad", *SMALL, *LEAN, "--image", str(image))
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 1, done.stderr
    assert len(lines) == 1
    assert "full" in lines[0] or "free" in lines[0]
    assert done.stdout.strip() == "", "left in the store"
    assert "bad" not in dozlab.run("ls").stdout


def test_before_a_build(dozlab: Dozlab, small_disk: Path) -> None:
    env = {**dozlab.env, "XDG_CACHE_HOME": str(small_disk)}
    done = Dozlab(dozlab.state, env=env).run("image", "build", "dozlab-vm", check=False, timeout=400)
    assert done.returncode == 1, done.stderr
    place = small_disk / "dozlab/build"
    assert done.stderr.splitlines()[-1] == f"error: building needs 2.0 GiB of free space in {place}, 100 MiB there"


def test_during_a_build(dozlab: Dozlab, small_disk: Path) -> None:
    """There is room at first; then somebody else takes it."""
    subprocess.run(["mount", "-o", "remount,size=2200m", str(small_disk)], check=True)
    env = {**dozlab.env, "XDG_CACHE_HOME": str(small_disk)}
    process = Dozlab(dozlab.state, env=env).popen("image", "build", "dozlab-vm")
    assert process.stdout
    while "packages and what they need" not in process.stdout.readline():
        assert process.poll() is None
    fill(small_disk)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 1, said
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, said
    assert re.search("full|No space left|enough free space", lines[0]), lines
    (small_disk / "taken").unlink()
    left = [path for path in small_disk.rglob("*") if path.is_file() and "lock" not in path.name]
    assert not [path for path in left if "debs" not in path.parts and "apt" not in path.parts], left


def fill(folder: Path) -> None:
    """Take what is free there but for some 100 MiB, however much of it a build has taken by now."""
    for size in range(2100, 0, -100):
        take = ["fallocate", "-l", f"{size}M", str(folder / "taken")]
        if subprocess.run(take, capture_output=True, check=False).returncode == 0:
            return
    raise AssertionError("nothing was free any more")


def test_during_a_run_the_guest_waits_and_loses_nothing(quick: Dozlab, small_disk: Path) -> None:
    command = Dozlab(small_disk, env=quick.env)
    try:
        command.run("up", "full", *PREPARED, *LEAN, "--no-docker-wait", timeout=420)
        write = "dd if=/dev/urandom of=/root/big bs=1M count=120 conv=fsync 2>/dev/null; md5sum < /root/big"
        writer = command.popen("ssh", "full", "--", write)
        status = until(lambda: _paused(command), what="the guest paused", seconds=300)
        assert "is full; free some space" in status["vm"]["reason"]
        assert command.run("ls").stdout.count("paused") == 1
        subprocess.run(["mount", "-o", "remount,size=600m", str(small_disk)], check=True)
        said, _ = writer.communicate(timeout=300)
        assert writer.returncode == 0, said
        assert command.ssh("full", "md5sum < /root/big") == said
    finally:
        command.run("down", "full", check=False)


def _paused(command: Dozlab) -> object:
    status = command.json("status", "full")
    return status if status["state"] == "paused" else None
