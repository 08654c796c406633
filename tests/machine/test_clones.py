"""Sessions that begin with one prepared snapshot: each is a machine of its own, right at once, and can be paused."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dozlab.lib.files import copy_sparse
from dozlab.lib.proc import need
from tests.machine.conftest import NO_EDITOR, SMALL
from tests.support import Dozlab, until

WORDS = [*SMALL, *NO_EDITOR, "--set", "firecracker.vmm=qemu"]
CLONES = ("one", "two", "three")
SECRETS = {
    "machine-id": "cat /etc/machine-id",
    "boot id": "cat /proc/sys/kernel/random/boot_id",
    "host key": "cat /etc/ssh/ssh_host_ed25519_key.pub",
    "who may log in": "cat /root/.ssh/authorized_keys",
    "host name": "hostname",
    "Docker's id": "docker info --format '{{.ID}}'",
    "Docker's id on disk": "cat /var/lib/docker/engine-id",
    "random bytes": "head -c 32 /dev/urandom | sha256sum",
    "a UUID": "cat /proc/sys/kernel/random/uuid",
    "a new key": "ssh-keygen -q -t ed25519 -N '' -C x -f /tmp/new-key && cat /tmp/new-key.pub",
    "random seed": "sha256sum < /var/lib/systemd/random-seed",
}


@pytest.fixture(scope="module")
def clones(dozlab: Dozlab) -> Iterator[dict[str, list[str]]]:
    """Three sessions started at once from one snapshot; name -> what each secret's command printed right away."""
    dozlab.run("image", "prepare", *WORDS, timeout=900)
    script = "; ".join(f"{command}; echo =====" for command in SECRETS.values())
    with ThreadPoolExecutor(len(CLONES)) as pool:
        list(pool.map(lambda name: dozlab.run("up", name, *WORDS, timeout=420), CLONES))
        yield dict(zip(CLONES, pool.map(lambda name: dozlab.ssh(name, script).split("=====\n"), CLONES), strict=True))
    for name in CLONES:
        dozlab.run("down", name, check=False)


def test_they_are_restored(dozlab: Dozlab, clones: dict[str, list[str]]) -> None:
    for name in CLONES:
        stages = _done(dozlab, name)
        assert "restored" in stages["vmm"]["detail"]
        assert {"kernel", "init", "sshd", "dockerd"} <= set(stages)


@pytest.mark.parametrize("number", range(len(SECRETS)), ids=list(SECRETS))
def test_what_must_differ_differs(clones: dict[str, list[str]], number: int) -> None:
    found = [clones[name][number].strip() for name in CLONES]
    assert all(found)
    assert len(set(found)) == len(CLONES), found


def test_the_running_docker_has_the_id_of_its_file(clones: dict[str, list[str]]) -> None:
    names = list(SECRETS)
    for answers in clones.values():
        running, on_disk = (answers[names.index(name)].strip() for name in ("Docker's id", "Docker's id on disk"))
        assert running == on_disk


def test_the_clock_is_right(dozlab: Dozlab, clones: dict[str, list[str]]) -> None:
    """Read by way of SSH: the guest's answer lies between our two looks, give or take 50 ms."""
    for name in CLONES:
        before = time.time()
        shown = float(dozlab.ssh(name, "date +%s.%N"))
        assert before - 0.05 < shown < time.time() + 0.05


def test_it_works_right_away(dozlab: Dozlab, clones: dict[str, list[str]]) -> None:
    for name in CLONES:
        assert dozlab.ssh(name, "systemctl --failed --no-legend --plain").strip() == ""
    assert "Hello from Docker" in dozlab.ssh("one", "docker run --rm hello-world")
    # DNS goes the session's way: an answer comes, if only that there is no such name.
    assert "status 2" in dozlab.ssh("one", "timeout 20 getent hosts dozlab.invalid; echo status $?")


def test_the_snapshots_key_is_of_no_use(dozlab: Dozlab, clones: dict[str, list[str]]) -> None:
    """The one-time key of the snapshot, which all sessions can read, opens no session that was adopted."""
    (told,) = (row for image in dozlab.json("image", "ls") for row in image["prepared"] if row["memory"] == 768)
    token = (Path(told["path"]) / "token").read_text().strip()
    ask = (
        "import json,socket;s=socket.create_connection(('172.16.0.2',5541),10);"
        f"s.sendall(json.dumps({{'verb':'clock','token':'{token}'}}).encode()+b'\\n');print(s.makefile().readline())"
    )
    answer = dozlab.run(
        "exec", "one", "-c", "terminal-sidecar", "--", "/mnt/app/python/bin/python3", "-c", ask, check=False
    )
    if answer.returncode:  # where the session's Python lies is the layout's business
        python = "exec /proc/$(pgrep -o -f dozlab.terminal_sidecar)/exe -c " + shlex.quote(ask)
    answer = dozlab.run("exec", "one", "-c", "terminal-sidecar", "--", "sh", "-c", python)
    assert '"ok": false' in answer.stdout
    assert "not the key" in answer.stdout


def test_a_paused_machine_goes_on_with_its_clock_right(dozlab: Dozlab, clones: dict[str, list[str]]) -> None:
    dozlab.ssh("two", "nohup sleep 1000 > /dev/null 2>&1 &")
    dozlab.run("pause", "two")
    assert dozlab.json("status", "two")["state"] == "paused"
    refused = dozlab.run("pause", "two", check=False)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    time.sleep(5)
    dozlab.run("resume", "two")
    assert dozlab.json("status", "two")["state"] == "running"

    def right() -> bool:
        return abs(float(dozlab.ssh("two", "date +%s.%N")) - time.time()) < 1.0

    until(right, what="the clock", seconds=30)
    assert dozlab.ssh("two", "pgrep -c -f 'sleep 1000'").strip() >= "1"


def test_a_restored_machine_reboots_as_itself(dozlab: Dozlab, clones: dict[str, list[str]]) -> None:
    """The next boot is a cold one, on the disk that came from the snapshot."""
    dozlab.ssh("three", "echo kept > /root/file; sync")
    before = dozlab.ssh("three", "cat /etc/machine-id /etc/ssh/ssh_host_ed25519_key.pub /var/lib/docker/engine-id")
    with contextlib.suppress(AssertionError, subprocess.SubprocessError):
        dozlab.ssh("three", "reboot", check=False)
    until(lambda: dozlab.json("status", "three")["vm"].get("boots") == 2, what="the second boot", seconds=60)
    until(lambda: dozlab.json("status", "three")["vm"].get("ssh"), what="SSH after the reboot", seconds=200)
    after = dozlab.ssh("three", "cat /etc/machine-id /etc/ssh/ssh_host_ed25519_key.pub /var/lib/docker/engine-id")
    assert after == before
    assert dozlab.ssh("three", "cat /root/file").strip() == "kept"


@pytest.fixture
def state(dozlab: Dozlab, clones: dict[str, list[str]]) -> Iterator[Path]:
    """The snapshot's saved state, to be damaged; it is as it was afterwards."""
    (told,) = (row for image in dozlab.json("image", "ls") for row in image["prepared"] if row["memory"] == 768)
    path = Path(told["path"]) / "state"
    kept = path.with_name(".kept")
    copy_sparse(path, kept)
    yield path
    kept.chmod(0o644)
    kept.rename(path)


def test_a_damaged_snapshot_means_a_boot(dozlab: Dozlab, state: Path) -> None:
    """The reason is in the log, the session's disk is a blank one again, and the guest boots."""
    with state.open("r+b") as file:
        file.write(b"no migration stream" * 1000)
    dozlab.run("up", "bad", *WORDS, "--no-wait")
    try:
        until(lambda: "init" in _done(dozlab, "bad"), what="the boot", seconds=120)
        told = dozlab.run("logs", "bad", "-c", "firecracker-vm").stdout
        assert "not restored, so it boots: qemu ended with status" in told
        assert "restored" not in _done(dozlab, "bad")["vmm"]["detail"]
        assert dozlab.json("status", "bad")["state"] in ("starting", "running")
        disk = dozlab.state / "dozlab/sessions/bad/vm-data/disk"
        assert sorted(path.name for path in disk.glob("*session.ext4*")) == ["session.ext4"]
    finally:
        dozlab.run("down", "bad")


@pytest.mark.parametrize("moment", [0.9, 1.3])
def test_a_session_killed_while_it_is_restored_starts_again(
    dozlab: Dozlab, clones: dict[str, list[str]], moment: float
) -> None:
    """Whatever was laid for it, the next start is a whole session: adopted, not with the identity of the snapshot."""
    process = dozlab.popen("up", "torn", *WORDS)
    time.sleep(moment)
    status = dozlab.run("status", "torn", "-o", "json", check=False).stdout
    if supervisor := json.loads(status or "{}").get("supervisor"):
        os.kill(supervisor, signal.SIGKILL)  # PID 1 of the session's namespace: all of it ends at once
    process.communicate(timeout=120)
    dozlab.run("down", "--keep", "torn", check=False)
    dozlab.run("up", "torn", *WORDS, "--no-docker-wait", timeout=300)
    assert dozlab.ssh("torn", "hostname").strip() == "torn"
    own = dozlab.ssh("torn", "cat /etc/machine-id")
    assert own != clones["two"][0]
    dozlab.run("down", "torn")


def _done(dozlab: Dozlab, session: str) -> dict[str, dict[str, Any]]:
    return {row["stage"]: row for row in dozlab.json("status", session)["stages"] if row["event"] == "done"}


def test_the_disk_is_clean_after_a_stop(dozlab: Dozlab, clones: dict[str, list[str]]) -> None:
    dozlab.run("down", "--keep", "one", timeout=120)
    disk = dozlab.state / "dozlab/sessions/one/vm-data/disk/session.ext4"
    assert disk.exists()
    assert sorted(path.name for path in disk.parent.glob("session.ext4*")) == ["session.ext4"]
    done = subprocess.run([need("e2fsck", "e2fsprogs"), "-fn", str(disk)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
