"""`dozlab image prepare` and what comes of it, on a store of the tests' own: the user's images stay as they are."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.machine.conftest import IMAGE, NO_EDITOR, PREPARED, SMALL, Prepared
from tests.support import Dozlab, Inventory, until

QUICK = [*NO_EDITOR, "--set", "terminal.enabled=false", "--set", "firecracker.vmm=qemu"]


def made(own: Dozlab) -> list[dict[str, Any]]:
    """Return what `image ls` tells of the snapshots of the one image."""
    (told,) = (row for row in own.json("image", "ls") if row["names"] == [IMAGE])
    return list(told["prepared"])


def nothing_hidden(own: Dozlab) -> None:
    """Check that no attempt has left a session or a file."""
    assert not [name for name in own.sessions() if name.startswith("prepare-")]
    assert list((store(own) / "tmp").glob("prepare-*")) == []


def store(own: Dozlab) -> Path:
    return Path(own.env["XDG_CACHE_HOME"]) / "dozlab/store"


def test_what_prepare_makes(own: Dozlab, prepared: Prepared, clean: Inventory) -> None:
    assert f"{IMAGE} for 2 vCPU 768 MiB (" in prepared.said.stdout
    assert f"start from it: dozlab up --image {IMAGE} " in prepared.said.stdout
    assert "sshd" in prepared.said.stderr and "saving the running machine" in prepared.said.stderr
    assert prepared.left == {}
    nothing_hidden(own)
    (told,) = made(own)
    assert (told["cpus"], told["memory"], told["disk"]) == (2, 768, 2 << 30)
    assert "2 vCPU 768 MiB (" in own.run("image", "ls").stdout
    for path in Path(told["path"]).iterdir():
        assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (os.geteuid(), 0o644)

    # Once is enough.
    again = own.run("image", "prepare", IMAGE, *SMALL, *QUICK)
    assert " was prepared " in again.stdout
    assert made(own) == [told]


def test_a_session_begins_with_it_unless_told_otherwise(quick: Dozlab, clean: Inventory) -> None:
    session = quick.run("up", "quick", *PREPARED, *QUICK, timeout=420)
    assert "next time" not in session.stdout
    assert "restored" in stages(quick, "quick")["vmm"]["detail"]
    assert "dockerd" in stages(quick, "quick")
    assert quick.ssh("quick", "hostname; docker run --rm hello-world").splitlines()[0] == "quick"
    quick.run("down", "quick")

    quick.run("up", "booted", "--cold", "--no-wait", *PREPARED, *QUICK)
    until(lambda: stages(quick, "booted").get("kernel"), what="a boot", seconds=180)
    assert "restored" not in stages(quick, "booted")["vmm"]["detail"]
    quick.run("down", "booted")


def test_it_goes_with_its_image(own: Dozlab, prepared: Prepared, tmp_path: Path, clean: Inventory) -> None:
    """In a copy of the store whose files are the same ones."""
    (tmp_path / "dozlab").mkdir()
    subprocess.run(["cp", "-al", str(store(own)), str(tmp_path / "dozlab/store")], check=True)
    copy = Dozlab(tmp_path / "state", env={"XDG_CACHE_HOME": str(tmp_path)})
    assert len(made(copy)) == 1
    assert " prepared)" in copy.run("image", "rm", IMAGE).stdout
    assert IMAGE not in copy.run("image", "ls").stdout
    assert [path.name for path in (store(copy) / "snapshots").iterdir() if not path.name.startswith(".")] == []


def stages(own: Dozlab, session: str) -> dict[str, dict[str, Any]]:
    """Return the stages of a session's start that are done, by name."""
    return {row["stage"]: row for row in own.json("status", session)["stages"] if row["event"] == "done"}


@pytest.mark.parametrize("how", ["ctrl-c", "sigterm", "the session removed", "the VM killed"])
def test_an_attempt_that_is_cut_short_changes_nothing(
    own: Dozlab, prepared: Prepared, clean: Inventory, how: str
) -> None:
    before = made(own)
    child = own.popen("image", "prepare", IMAGE, "--again", *SMALL, *QUICK)
    try:
        hidden = until(lambda: hidden_session(own), what="the hidden session's VM", seconds=240)
        if how == "ctrl-c":
            child.send_signal(signal.SIGINT)
        elif how == "sigterm":
            child.send_signal(signal.SIGTERM)
        elif how == "the session removed":
            own.run("down", hidden)
        else:
            kill_vm(own, hidden)
        out, _ = child.communicate(timeout=240)
    finally:
        child.kill()
        child.wait()
    assert "Traceback" not in out
    if how in ("ctrl-c", "sigterm"):
        assert child.returncode == 130 and out.splitlines()[-1] == "interrupted"
    else:
        assert child.returncode == 1 and out.splitlines()[-1].startswith("error: the image could not be prepared: ")
    nothing_hidden(own)
    assert made(own) == before


def hidden_session(own: Dozlab) -> str:
    """Return the id of the session that is being saved, once its VM runs; empty before."""
    for each in own.json("ls"):
        if each["id"].startswith("prepare-") and each["vm"].get("vmm"):
            return str(each["id"])
    return ""


def kill_vm(own: Dozlab, session: str) -> None:
    """End the session's QEMU by force, as the kernel does when memory runs out."""
    from dozlab.session.inside import _host_pid

    status = own.json("status", session)
    parent = _host_pid(status["supervisor"], status["components"]["firecracker-vm"]["pid"])
    children = until(
        lambda: Path(f"/proc/{parent}/task/{parent}/children").read_text().split(), what="QEMU", seconds=120
    )
    subprocess.run(["kill", "-9", *children], check=True)
