"""A guest's own reboot and poweroff; a session stopped and started again on its disk."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from dozlab.images.store import Store
from tests.machine.conftest import IMAGE, NO_EDITOR, PREPARED, SMALL
from tests.support import Dozlab, Inventory, until


def test_reboot_poweroff_restart_and_orderly_stop(quick: Dozlab, clean: Inventory) -> None:
    """One session through its whole life, from a snapshot, since each boot costs half a minute under emulation."""
    quick.run("up", "life", *PREPARED, *NO_EDITOR, "--no-docker-wait", timeout=420)
    host_key = quick.ssh("life", "echo kept > /root/file; cat /etc/ssh/ssh_host_ed25519_key.pub /etc/machine-id")

    # Nobody takes its base away, not even who sees no session's files: the machine itself has it open.
    store = Store(Path(quick.env["XDG_CACHE_HOME"]) / "dozlab/store")
    assert store.remove(store.inspect(IMAGE).digest, lambda digest: "") == "a session that has it open"

    # A learner's reboot brings the machine back, on the same disk.
    quick.ssh("life", "nohup reboot >/dev/null 2>&1 &", check=False)
    until(lambda: quick.json("status", "life")["vm"].get("boots") == 2, what="second boot", seconds=240)
    until(lambda: quick.json("status", "life")["vm"].get("ssh"), what="SSH after a reboot", seconds=300)
    assert quick.ssh("life", "cat /root/file").strip() == "kept"

    # Poweroff ends the session as stopped; its disk stays.
    quick.ssh("life", "nohup poweroff >/dev/null 2>&1 &", check=False)
    until(lambda: quick.json("status", "life")["state"] == "stopped", what="stopped", seconds=240)
    assert quick.json("status", "life")["reason"] == "the guest powered off"
    assert quick.run("ssh", "life", check=False).stderr.strip() == (
        "error: session life is not running; start it: dozlab up life"
    )

    # Another base under this disk is refused by name.
    other = quick.run("up", "life", "--image", _other_image(quick), check=False)
    assert other.returncode == 1
    assert "base" in other.stderr and "life" in other.stderr

    # Started again, it has its file, its host key and its machine-id, and the larger disk that was asked for.
    quick.run("up", "life", "--image", IMAGE, "--no-docker-wait", "--set", "rootfs.diskSize=3G", timeout=420)
    assert int(quick.ssh("life", "df -B1 --output=size / | tail -1")) > 2.8 * 2**30
    told = next(row for row in quick.json("status", "life")["stages"] if row["stage"] == "rootfs")["detail"]
    assert "session disk grown: 3.0 GiB, " in told and "free for changes" in told
    assert quick.ssh("life", "cat /etc/ssh/ssh_host_ed25519_key.pub /etc/machine-id") == host_key
    assert quick.ssh("life", "cat /root/file").strip() == "kept"

    # Stopped by `down --keep`, its guest shuts down in order and leaves a whole file system.
    quick.run("down", "life", "--keep", timeout=150)
    console = quick.run("logs", "life", "-c", "firecracker-vm").stdout
    assert "dozlab: shutdown=" in console
    assert quick.json("status", "life")["state"] == "stopped"
    disk = quick.state / "dozlab/sessions/life/vm-data/disk/session.ext4"
    checked = subprocess.run(["e2fsck", "-fn", str(disk)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    quick.run("down", "life")


def _other_image(dozlab: Dozlab) -> str:
    """Return a file that is an ext4 file system, but not the base the session began with."""
    path = dozlab.state / "other.ext4"
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", str(path), "64M"], check=True)
    return str(path)


@pytest.mark.timeout(1200)
def test_an_image_that_nobody_tuned(dozlab: Dozlab, clean: Inventory) -> None:
    """Plain Debian 12 with sshd and stock Docker: it comes up unchanged, port 2375 included."""
    dozlab.run("image", "build", "tests/machine/recipes/debian12-stock", timeout=500)
    dozlab.run("up", "stock", *SMALL, *NO_EDITOR, "--image", "debian12-stock", timeout=420)
    status = dozlab.json("status", "stock")
    assert status["vm"]["docker"], "2375 does not answer"
    assert 'VERSION_ID="12"' in dozlab.ssh("stock", "cat /etc/os-release")
    version = dozlab.run("exec", "stock", "-c", "firecracker-vm", "--", "curl", "-s", "http://172.16.0.2:2375/version")
    assert "ApiVersion" in version.stdout
    dozlab.run("down", "stock")
