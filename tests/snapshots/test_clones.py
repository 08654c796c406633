"""Twenty sessions that begin with one snapshot, four side by side: each a machine of its own, whole and right at once.

Not twenty side by side: emulated guests of 512 MiB take more than a GiB each, translations included, and two cores for
minutes (`bench/start.py --clones 20` does it).
"""

from __future__ import annotations

import json
import shlex
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from dozlab.lib.proc import need
from tests.machine.conftest import nothing_left
from tests.snapshots.conftest import BARE, clock_difference, folder_of, left_of_restoring, snapshots_of, stages
from tests.snapshots.world import NAME, Placed, World
from tests.support import until

pytestmark = pytest.mark.timeout(2400)  # the fixture's five waves count as the first test's
CLONES = tuple(f"clone-{number:02}" for number in range(20))
WORDS = [*BARE, "--set", "vm.memory=512", "--set", "vm.cpuCount=1", "--set", "rootfs.diskSize=2G"]
AT_A_TIME = 4
STAYS = CLONES[-AT_A_TIME:]
"""They run until the last test; the others are stopped as soon as they have answered."""
SECRETS = {
    "machine-id": "cat /etc/machine-id",
    "boot id": "cat /proc/sys/kernel/random/boot_id",
    "host key": "cat /etc/ssh/ssh_host_ed25519_key.pub",
    "who may log in": "cat /root/.ssh/authorized_keys",
    "host name": "hostname",
    "Docker's id": "curl -sS --unix-socket /run/docker.sock http://docker/info | jq -r .ID",
    "Docker's id on disk": "cat /var/lib/docker/engine-id",
    "random bytes": "head -c 32 /dev/urandom | sha256sum",
    "a UUID": "cat /proc/sys/kernel/random/uuid",
    "a new SSH key": "ssh-keygen -q -t ed25519 -N '' -C x -f /tmp/new-key && cat /tmp/new-key.pub",
    "a new TLS key": "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 2> /dev/null",
    "random seed": "sha256sum < /var/lib/systemd/random-seed",
}
CHECKS = {
    "failed units": "systemctl --failed --no-legend --plain",
    "docker run": "docker run --rm hello-world",
    "DNS": f"getent hosts {NAME}",
    "no such name": "getent hosts nobody.dozlab.test; echo status $?",
    "TLS": f"curl -sS --max-time 60 --cacert /tmp/authority https://{NAME}/",
}
END = "====="


@dataclass(frozen=True)
class Clone:
    """What one session answered: by one script as soon as it was up, then its clock, its stages, its disk."""

    answers: dict[str, str]
    clock: tuple[float, float]
    stages: dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def clones(dozlab: Placed, world: World) -> Iterator[dict[str, Clone]]:
    """Start them, wave after wave, and ask each one everything; the last wave stays."""
    with nothing_left():
        dozlab.run("image", "prepare", *WORDS, timeout=400)
    questions = SECRETS | CHECKS
    script = "".join(f"({command}) 2>&1; echo {END}\n" for command in questions.values())
    script = f"cat > /tmp/authority <<'END'\n{world.authority}END\n{script}"

    def ask(name: str) -> Clone:
        dozlab.run("up", name, *WORDS, timeout=400)
        told = dozlab.ssh(name, script, timeout=400)
        answers = dict(zip(questions, (each.strip() for each in told.split(f"{END}\n")), strict=False))
        return Clone(answers, clock_difference(dozlab, name), stages(dozlab, name))

    with nothing_left():
        try:
            found: dict[str, Clone] = {}
            with ThreadPoolExecutor(AT_A_TIME) as pool:
                for first in range(0, len(CLONES), AT_A_TIME):
                    wave = CLONES[first : first + AT_A_TIME]
                    found |= zip(wave, pool.map(ask, wave), strict=True)
                    if wave != STAYS:
                        stopped = [pool.submit(is_clean_after_a_stop, dozlab, name, found[name]) for name in wave]
                        for each in stopped:
                            each.result()
            yield found
        finally:
            dozlab.run("down", *CLONES, check=False, timeout=400)


def is_clean_after_a_stop(dozlab: Placed, name: str, clone: Clone) -> None:
    """Check that a stopped session's disk is whole, and holds what the machine is, so that it boots as the same."""
    kept = {
        "machine-id": "/upper/etc/machine-id",
        "host key": "/upper/etc/ssh/ssh_host_ed25519_key.pub",
        "Docker's id": "/docker/engine-id",
    }
    dozlab.run("down", "--keep", name, timeout=200)
    disk = folder_of(dozlab, name) / "vm-data/disk/session.ext4"
    assert left_of_restoring(disk.parent) == []
    check = [need("e2fsck", "e2fsprogs"), "-fn", str(disk)]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (name, done.stdout)
    for what, path in kept.items():
        show = [need("debugfs", "e2fsprogs"), "-R", f"cat {path}", str(disk)]
        found = subprocess.run(show, capture_output=True, text=True, check=True).stdout
        assert found.strip() == clone.answers[what], (name, what)


def test_they_are_restored(clones: dict[str, Clone]) -> None:
    for clone in clones.values():
        assert "restored" in clone.stages["vmm"]["detail"]
        assert {"kernel", "init", "sshd", "dockerd"} <= set(clone.stages)


@pytest.mark.parametrize("what", SECRETS)
def test_what_must_differ_differs(clones: dict[str, Clone], what: str) -> None:
    found = {name: clone.answers[what] for name, clone in clones.items()}
    assert all(found.values()), found
    assert len(set(found.values())) == len(CLONES), found


def test_the_running_docker_has_the_id_of_its_file(clones: dict[str, Clone]) -> None:
    for name, clone in clones.items():
        assert clone.answers["Docker's id"] == clone.answers["Docker's id on disk"], name


def test_it_works_right_away(clones: dict[str, Clone]) -> None:
    for name, clone in clones.items():
        answers = clone.answers
        assert answers["failed units"] == "", name
        assert "Hello from Docker" in answers["docker run"], name
        assert answers["DNS"].split() == ["198.51.100.10", NAME], name
        assert answers["no such name"] == "status 2", name
        assert answers["TLS"] == "hello", name


def test_the_clock_is_right(clones: dict[str, Clone]) -> None:
    """Within 50 ms of the host's, give or take what the way there takes."""
    found = {name: clone.clock for name, clone in clones.items()}
    print("; ".join(f"{off * 1000:+.1f} +- {blur * 1000:.1f} ms" for off, blur in found.values()))
    for name, (off, blur) in found.items():
        assert abs(off) <= 0.05 + blur, (name, off, blur)
    assert min(blur for _, blur in found.values()) < 0.05, found


def test_the_snapshots_key_is_of_no_use(dozlab: Placed, clones: dict[str, Clone]) -> None:
    """The one-time key of the snapshot, which all sessions can read, opens no session that was adopted."""
    (path,) = snapshots_of(dozlab, "dozlab-vm")
    token = (path / "token").read_text().strip()
    ask = (
        "import json,socket;s=socket.create_connection(('172.16.0.2',5541),10);"
        f"s.sendall(json.dumps({{'verb':'clock','token':'{token}'}}).encode()+b'\\n');print(s.makefile().readline())"
    )
    python = "exec /proc/$(pgrep -o -f dozlab.firecracker_vm)/exe -c " + shlex.quote(ask)
    answer = dozlab.run("exec", STAYS[0], "-c", "firecracker-vm", "--", "sh", "-c", python)
    assert json.loads(answer.stdout)["ok"] is False
    assert "not the key" in answer.stdout


def test_a_paused_machine_goes_on_with_its_clock_right(dozlab: Placed, clones: dict[str, Clone]) -> None:
    name = STAYS[1]
    dozlab.ssh(name, "nohup sleep 1000 > /dev/null 2>&1 &")
    dozlab.run("pause", name)
    assert dozlab.json("status", name)["state"] == "paused"
    refused = dozlab.run("pause", name, check=False)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    time.sleep(2)
    dozlab.run("resume", name)
    assert dozlab.json("status", name)["state"] == "running"

    def right() -> bool:
        off, blur = clock_difference(dozlab, name)
        return abs(off) <= 0.05 + blur

    until(right, what="the clock", seconds=120)
    assert dozlab.ssh(name, "pgrep -c -f 'sleep 1000'").strip() >= "1"


def test_the_disk_is_clean_after_a_stop(dozlab: Placed, clones: dict[str, Clone]) -> None:
    """Those of the other waves were checked when they were stopped."""
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        list(pool.map(lambda name: is_clean_after_a_stop(dozlab, name, clones[name]), STAYS))
