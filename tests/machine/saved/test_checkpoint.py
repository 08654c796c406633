"""Checkpoints, resets and idle machines, on one session that began from a prepared snapshot."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machine.conftest import NO_EDITOR, PREPARED
from tests.support import Dozlab, until

SESSION, IDLE = "back", "idle"
PROBE = "cat /etc/machine-id /proc/sys/kernel/random/boot_id /etc/ssh/ssh_host_ed25519_key.pub"


@pytest.fixture(scope="module")
def session(quick: Dozlab) -> Iterator[Dozlab]:
    """A session of no editor whose tests leave it running."""
    quick.run("up", SESSION, *PREPARED, *NO_EDITOR, timeout=420)
    yield quick
    quick.run("down", SESSION, check=False)


def disk(session: Dozlab) -> Path:
    return session.state / f"dozlab/sessions/{SESSION}/vm-data/disk"


def told(session: Dozlab, name: str = SESSION) -> dict[str, object]:
    """Return what firecracker-vm tells the terminal."""
    run = ["exec", name, "-c", "firecracker-vm", "--", "cat", "/mnt/shared/vm.json"]
    return dict(json.loads(session.run(*run).stdout))


def test_there_and_back(session: Dozlab) -> None:
    """Memory, disk and processes are as they were; the time, and what comes out of the generator, are not."""
    begin = "echo one > /root/file; setsid sleep 10000 >/dev/null 2>&1 & echo $! > /run/pid"
    before = session.ssh(SESSION, f"{begin}; {PROBE}")
    done = session.run("checkpoint", SESSION, "one")
    assert done.stdout.startswith(f"checkpoint one of {SESSION}: ")
    assert f"dozlab reset {SESSION} one" in done.stdout
    (made,) = session.json("status", SESSION)["vm"]["checkpoints"]
    assert made["name"] == "one"
    assert "  checkpoint one: " in session.run("status", SESSION).stdout
    session.ssh(SESSION, "echo two > /root/file; touch /root/new; sync; kill $(cat /run/pid); docker rmi hello-world")
    random = set()
    for _ in range(2):  # a second time from the same one
        back = session.run("reset", SESSION, "one")
        assert f"{SESSION} is back at checkpoint one after " in back.stdout
        assert "memory could not be used" not in back.stdout
        at = time.time()
        script = "date +%s.%N; cat /root/file; ls /root; kill -0 $(cat /run/pid) && echo lives"
        script += "; head -c 9 /dev/urandom | base64"
        now, file, listed, lives, drawn, *who = session.ssh(SESSION, f"{script}; {PROBE}").splitlines()
        assert at - 0.1 <= float(now) <= time.time() + 0.1
        assert (file, listed, lives) == ("one", "file", "lives")
        assert who == before.splitlines()
        random.add(drawn)
    assert len(random) == 2
    assert {key: told(session)[key] for key in ("how", "name", "state", "paused")} == {
        "how": "checkpoint", "name": "one", "state": "running", "paused": "",
    }  # fmt: skip
    assert "Hello" in session.ssh(SESSION, "docker run --rm hello-world")


def test_back_to_the_clean_image(session: Dozlab) -> None:
    """What was done is gone; who the machine is stays, and so do its checkpoints."""
    before = session.ssh(SESSION, f"touch /root/dirty; sync; {PROBE}").splitlines()
    assert f"{SESSION} is back at the clean image after " in session.run("reset", SESSION, timeout=420).stdout
    after = session.ssh(SESSION, f"{PROBE}; ls -A /root").splitlines()
    assert "dirty" not in after
    assert (after[0], after[2]) == (before[0], before[2])
    assert after[1] != before[1]
    assert told(session)["how"] == "clean"
    assert [each["name"] for each in session.json("status", SESSION)["vm"]["checkpoints"]] == ["one"]
    until(lambda: session.json("status", SESSION)["vm"].get("docker"), what="Docker", seconds=300)


def test_a_memory_that_cannot_be_loaded_means_a_boot_from_that_disk(session: Dozlab) -> None:
    session.ssh(SESSION, "echo saved > /root/file; sync")
    session.run("checkpoint", SESSION, "spoilt")
    state = disk(session) / "checkpoints/spoilt/state"
    with state.open("r+b") as file:
        file.write(b"nothing a VMM has written")
    session.ssh(SESSION, "echo later > /root/file; sync")
    back = session.run("reset", SESSION, "spoilt", timeout=420)
    assert "its memory could not be used, so it has booted from that disk" in back.stdout
    assert session.ssh(SESSION, "cat /root/file") == "saved\n"
    until(lambda: session.json("status", SESSION)["vm"].get("docker"), what="Docker", seconds=300)
    assert session.run("checkpoint", SESSION, "spoilt", "--rm").stdout == f"removed checkpoint spoilt of {SESSION}\n"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["reset", SESSION, "nowhere"], "error: no checkpoint nowhere; there are: one"),
        (["reset", SESSION, "No/where"], "error: 'No/where' is no name of a checkpoint;"),
        (["checkpoint", SESSION, "nowhere", "--rm"], "error: no checkpoint nowhere; there are: one"),
        (["checkpoint", SESSION, ".."], "error: '..' is no name of a checkpoint;"),
        (["checkpoint", "nobody"], "error: "),
        (["reset", "nobody"], "error: "),
    ],
)
def test_bad_words_change_nothing(session: Dozlab, words: list[str], why: str) -> None:
    before = session.json("status", SESSION)["vm"]
    done = session.run(*words, check=False)
    assert done.returncode != 0
    assert done.stderr.splitlines()[-1].startswith(why)
    after = session.json("status", SESSION)["vm"]
    assert {**after, "docker": True} == {**before, "docker": True}


@pytest.mark.root
def test_no_room_keeps_the_old_one_and_the_session(session: Dozlab) -> None:
    """In the session's view the folder of checkpoints is a file system of 64 MiB for a while."""
    folder = disk(session) / "checkpoints"
    before = (folder / "one/snapshot.json").read_bytes()
    supervisor = session.json("status", SESSION)["supervisor"]
    inside = ["nsenter", "--target", str(supervisor), "--mount", "--"]
    place = "/mnt/vm-data/disk/checkpoints"
    subprocess.run([*inside, "mount", "-t", "tmpfs", "-o", "size=64m,mode=777", "tmpfs", place], check=True)
    try:
        done = session.run("checkpoint", SESSION, "one", check=False)
    finally:
        subprocess.run([*inside, "umount", place], check=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: no room for the checkpoint: it may take ")
    assert (folder / "one/snapshot.json").read_bytes() == before
    assert [path.name for path in folder.iterdir()] == ["one"]
    assert session.ssh(SESSION, "echo runs") == "runs\n"


def test_paused_while_nobody_is_there(quick: Dozlab) -> None:
    """A machine that is idle stands still; the next visitor wakes it, and it runs as long as somebody is there."""
    quick.run("up", IDLE, *PREPARED, *NO_EDITOR, "--set", "vm.idlePause=3s", "--no-docker-wait", timeout=420)
    until(lambda: quick.json("status", IDLE)["state"] == "paused", what="paused", seconds=180)
    assert told(quick, IDLE)["paused"] == "idle"
    at = time.time()
    now = float(quick.ssh(IDLE, "sleep 5; date +%s.%N"))
    assert at + 4.9 <= now <= time.time() + 0.1
    quick.run("down", IDLE)
