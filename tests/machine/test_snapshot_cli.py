"""`dozlab image prepare` and what comes of it, on a store of the test's own: the user's images stay as they are."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dozlab.images import kit
from dozlab.images.store import Store
from dozlab.lib import paths
from tests.machine.conftest import NO_EDITOR, SMALL
from tests.support import Dozlab, Inventory, until

QUICK = [*SMALL, *NO_EDITOR, "--set", "terminal.enabled=false", "--set", "firecracker.vmm=qemu"]
IMAGE = "for-snapshots"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dozlab]:
    """The command with sessions and a cache of its own: this kit, and the default image by another name."""
    cache = paths.cache()
    home = tmp_path_factory.mktemp("cache")
    mine = home / "dozlab"
    mine.mkdir()
    current = kit.ensure(cache / "kit")
    (mine / "kit").mkdir()
    shutil.copy(cache / "kit/current.json", mine / "kit")
    shutil.copytree(current, mine / "kit" / current.name)
    add_image(mine / "store")
    command = Dozlab(tmp_path_factory.mktemp("state"), env={"XDG_CACHE_HOME": str(home)})
    yield command
    command.run("down", "--all", check=False)
    shutil.rmtree(home, ignore_errors=True)


def add_image(store: Path) -> None:
    """Copy the machine's default image into a store of the test's own."""
    base = Store(paths.cache() / "store")
    Store(store).add_file(base.path(base.inspect("dozlab-vm").digest), name=IMAGE)


def prepared(own: Dozlab) -> list[dict[str, Any]]:
    """Return what `image ls` tells of the one image."""
    (told,) = own.json("image", "ls")
    assert told["names"] == [IMAGE]
    return list(told["prepared"])


def nothing_hidden(own: Dozlab) -> None:
    """Check that no attempt has left a session or a file."""
    assert not [each["id"] for each in own.json("ls") if each["id"].startswith("prepare-")]
    store = Path(own.env["XDG_CACHE_HOME"]) / "dozlab/store"
    assert list((store / "tmp").glob("prepare-*")) == []


@pytest.mark.timeout(1200)
def test_prepare_use_and_remove(own: Dozlab, clean: Inventory) -> None:
    """One snapshot from its making to its end, since making it costs a boot."""
    made = own.run("image", "prepare", IMAGE, *QUICK, timeout=600)
    assert f"{IMAGE} for 2 vCPU 768 MiB (" in made.stdout
    assert f"start from it: dozlab up --image {IMAGE} " in made.stdout
    assert "sshd" in made.stderr and "saving the running machine" in made.stderr
    nothing_hidden(own)
    (told,) = prepared(own)
    assert (told["cpus"], told["memory"], told["disk"]) == (2, 768, 2 << 30)
    assert "2 vCPU 768 MiB (" in own.run("image", "ls").stdout
    for path in Path(told["path"]).iterdir():
        assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (os.geteuid(), 0o644)

    # Once is enough.
    again = own.run("image", "prepare", IMAGE, *QUICK, timeout=60)
    assert " was prepared " in again.stdout
    assert prepared(own) == [told]

    # A session begins with it, and is a whole one.
    quick = own.run("up", "quick", "--image", IMAGE, *QUICK, timeout=420)
    assert "next time" not in quick.stdout
    assert "restored" in stages(own, "quick")["vmm"]["detail"]
    assert "dockerd" in stages(own, "quick")
    assert own.ssh("quick", "hostname; docker run --rm hello-world").splitlines()[0] == "quick"
    own.run("down", "quick")

    # Unless told otherwise.
    own.run("up", "booted", "--image", IMAGE, "--cold", "--no-wait", *QUICK)
    until(lambda: stages(own, "booted").get("kernel"), what="a boot", seconds=60)
    assert "restored" not in stages(own, "booted")["vmm"]["detail"]
    own.run("down", "booted")

    assert " prepared)" in own.run("image", "rm", IMAGE).stdout
    assert own.json("image", "ls") == []
    store = Path(own.env["XDG_CACHE_HOME"]) / "dozlab/store"
    assert [path.name for path in (store / "snapshots").iterdir() if not path.name.startswith(".")] == []
    add_image(store)  # for the tests after this one


def stages(own: Dozlab, session: str) -> dict[str, dict[str, Any]]:
    """Return the stages of a session's start that are done, by name."""
    return {row["stage"]: row for row in own.json("status", session)["stages"] if row["event"] == "done"}


@pytest.mark.parametrize("how", ["ctrl-c", "sigterm", "the session removed", "the VM killed"])
def test_an_attempt_that_is_cut_short_leaves_nothing(own: Dozlab, clean: Inventory, how: str) -> None:
    child = own.popen("image", "prepare", IMAGE, "--again", *QUICK)
    try:
        hidden = until(lambda: hidden_session(own), what="the hidden session's VM", seconds=120)
        if how == "ctrl-c":
            child.send_signal(signal.SIGINT)
        elif how == "sigterm":
            child.send_signal(signal.SIGTERM)
        elif how == "the session removed":
            own.run("down", hidden)
        else:
            kill_vm(own, hidden)
        out, _ = child.communicate(timeout=60)
    finally:
        child.kill()
        child.wait()
    assert "Traceback" not in out
    if how in ("ctrl-c", "sigterm"):
        assert child.returncode == 130 and out.splitlines()[-1] == "interrupted"
    else:
        assert child.returncode == 1 and out.splitlines()[-1].startswith("error: the image could not be prepared: ")
    nothing_hidden(own)
    assert prepared(own) == []


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
        lambda: Path(f"/proc/{parent}/task/{parent}/children").read_text().split(), what="QEMU", seconds=30
    )
    subprocess.run(["kill", "-9", *children], check=True)
