"""pause, resume, checkpoint and reset as their user reads them: the real verbs, and a VMM that only stands for one."""

from __future__ import annotations

import asyncio
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from dozlab.cli.main import cli
from dozlab.firecracker_vm.adoption import Guest
from dozlab.firecracker_vm.console import Console
from dozlab.firecracker_vm.machine import Drive, Exit, Spec, Vmm
from dozlab.firecracker_vm.markers import Marker
from dozlab.firecracker_vm.probe import Decision
from dozlab.firecracker_vm.running import Running
from dozlab.firecracker_vm.settings import Settings
from dozlab.firecracker_vm.verbs import Verbs
from dozlab.images import snapshots
from dozlab.lib import files
from dozlab.lib.control import ControlServer
from dozlab.lib.errors import DozlabError, NoSuchSession
from dozlab.session import state
from dozlab.session.layout import Layout
from dozlab.session.ports import Ports

pytestmark = pytest.mark.usefixtures("home")
REASON = "there is no /dev/kvm"


class StandIn(Vmm):
    """A VMM without a guest: it is always well, saves a few bytes, and is at once there again when it was ended."""

    name, accel = "qemu", "tcg"

    def __init__(self, machine: Running) -> None:
        self.machine = machine
        self.fault: Exception | None = None

    async def start(self, spec: Spec, console: int) -> None:
        raise NotImplementedError

    async def wait(self) -> Exit:
        raise NotImplementedError

    async def pause(self) -> None:
        pass

    async def resume(self) -> None:
        pass

    async def restore(self, spec: Spec, console: int, state: Path) -> None:
        raise NotImplementedError

    async def save(self, state: Path) -> None:
        if self.fault:
            raise self.fault
        state.write_bytes(b"memory")

    async def press_ctrl_alt_del(self) -> None:
        raise NotImplementedError

    async def end(self) -> None:
        self.machine.ssh = False
        asyncio.get_running_loop().call_soon(self.begin)

    def begin(self) -> None:
        """Do what supervise.py does about a machine that goes on from another state."""
        machine = self.machine
        if machine.life.reset_asked:
            machine.prepared.disk.swap()
        machine.restored = machine.back is not None
        machine.back = None
        machine.life.begin(time.monotonic())
        machine.life.mark(Marker("stage", "init"))
        machine.ssh = machine.up = machine.life.served = True
        machine.stand("")


class Lab:
    """A running session `lab` whose firecracker-vm is in a thread of this process."""

    def __init__(self, layout: Layout, tmp: Path) -> None:
        self.layout = layout
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        try:
            self.machine = self.call(self._machine(tmp))
            self.vmm = self.machine.vmm
            verbs = Verbs(self.machine, Console(None, lambda _marker: None), lambda: None)
            shown = {"status": self._status}
            self._servers = [
                ControlServer(layout.shared / "vm.sock", verbs.table()), ControlServer(layout.control, shown),
            ]  # fmt: skip
            for server in self._servers:
                self.call(server.start())
        except BaseException:
            self._end()
            raise

    def call(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    async def _machine(self, tmp: Path) -> Running:
        kit, disk = tmp / "kit", self.layout.vm_data / "disk/session.ext4"
        kit.mkdir()
        (kit / "manifest.json").write_text('{"id": "kit"}')
        disk.parent.mkdir(parents=True)
        subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", str(disk), "16M"], check=True)
        files.write_json(self.layout.shared / "rootfs.json", {"digest": "b" * 64})
        (self.layout.shared / "identity.cpio").write_bytes(b"")
        settings = Settings.from_env({
            "SESSION_ID": "lab", "VM_DATA": str(self.layout.vm_data), "SHARED_DIR": str(self.layout.shared),
            "KIT_DIR": str(kit),
        })  # fmt: skip
        machine = Running(settings, Decision("qemu", "tcg", "/bin/sh", REASON))
        machine.spec = Spec(kit, kit, "console=ttyS0", (Drive("vdc", disk, False),), 1, 1)
        machine.prepared.begin(machine.spec)
        machine.vmm = vmm = StandIn(machine)
        vmm.begin()
        return machine

    async def _status(self, _request: dict[str, Any]) -> dict[str, Any]:
        vm = self.machine.status()
        shown = "paused" if vm["state"] == "paused" else "running"
        return {"state": shown, "reason": vm["reason"] if shown == "paused" else "", "components": {}, "vm": vm}

    def close(self) -> None:
        for server in self._servers:
            self.call(server.close())
        self.call(self.machine.close())
        self._end()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture
def layout() -> Layout:
    """A session that was started once."""
    found = Layout("lab")
    for folder in (found.logs, found.run.parent, found.run, found.shared):
        folder.mkdir(parents=True, exist_ok=True)
    state.Facts("lab", Ports(1, 2, 3), "127.0.0.1", None, 0, 1.0).save(found.facts)
    return found


@pytest.fixture
def lab(layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    async def answer(_self: Guest, _verb: str, **_words: Any) -> dict[str, Any]:
        return {"ok": True, "time": time.time()}

    monkeypatch.setattr(Guest, "call", answer)
    with files.locked(layout.lock):
        found = Lab(layout, tmp_path)
        yield found
        found.close()


def run(*words: str) -> str:
    """Return what is printed, on stdout alone, or the line of the error."""
    done = CliRunner().invoke(cli, list(words))
    if isinstance(done.exception, DozlabError):
        return f"error: {done.exception}"
    assert done.exit_code == 0, done.output
    return done.stdout


def row() -> list[str]:
    """Return what `ls` says of the session: its state and why."""
    (line,) = run("ls").splitlines()[1:]
    return [line.split()[1], line.partition("http://127.0.0.1:1/")[2].strip()]


def test_pause_and_resume_and_what_ls_says_of_them(lab: Lab) -> None:
    assert row() == ["running", ""]
    assert run("pause", "lab") == "lab is paused; go on: dozlab resume lab\n"
    assert row() == ["paused", "by dozlab pause; go on: dozlab resume lab"]
    assert run("status", "lab").splitlines()[0] == "lab: paused (by dozlab pause; go on: dozlab resume lab)"
    told = json.loads(run("status", "lab", "-o", "json"))
    assert (told["state"], told["vm"]["paused"], told["vm"]["checkpoints"]) == ("paused", "asked", [])
    assert run("pause", "lab") == "error: cannot pause: the VM is paused already"
    assert run("ssh", "lab", "true") == "error: session lab is paused; let it go on: dozlab resume lab"
    assert run("checkpoint", "lab") == "error: cannot save the machine: it is paused; resume it first"
    assert run("resume", "lab") == "lab goes on\n"
    assert run("resume", "lab") == "error: cannot resume: the VM is running, not paused"
    assert row() == ["running", ""]


@pytest.mark.parametrize(
    ("why", "words"),
    [
        ("idle", "nobody uses it; the next visitor wakes it"),
        ("disk", "the host's disk below /x is full; free some space"),
    ],
)
def test_ls_says_why_a_machine_stands_still_that_nobody_has_paused(lab: Lab, why: str, words: str) -> None:
    lab.machine.life.state, lab.machine.paused = "paused", why
    lab.machine.life.reason = words if why == "disk" else ""
    assert row() == ["paused", words]


def test_a_checkpoint_that_is_being_saved_is_said(lab: Lab) -> None:
    lab.machine.paused = "saving"
    assert row() == ["running", "a checkpoint is being saved"]


def test_there_and_back(lab: Lab) -> None:
    said = run("checkpoint", "lab", "one")
    assert said.startswith("checkpoint one of lab: ")
    assert said.endswith("; go back to it: dozlab reset lab one\n")
    (line,) = [line for line in run("status", "lab").splitlines() if "checkpoint" in line]
    assert line.startswith("  checkpoint one: ")
    assert "boots 1\n" in run("status", "lab")
    assert run("reset", "lab", "one").startswith("lab is back at checkpoint one after ")
    assert "boots 2, began with checkpoint one\n" in run("status", "lab")
    assert run("reset", "lab").startswith("lab is back at the clean image after ")
    assert "boots 3, began with the clean image\n" in run("status", "lab")
    assert run("checkpoint", "lab").startswith("checkpoint checkpoint of lab: ")  # the name where none is given
    assert run("checkpoint", "lab", "one", "--rm") == "removed checkpoint one of lab\n"
    assert run("reset", "lab", "one") == "error: no checkpoint one; there are: checkpoint"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["checkpoint", "lab", "one", "--rm"], "no checkpoint one; there are: none"),
        (["checkpoint", "lab", "No"], "'No' is no name of a checkpoint; use lower case letters, digits and dashes"),
        (["reset", "lab", "../x"], "'../x' is no name of a checkpoint; use lower case letters, digits and dashes"),
        (["reset", "lab", "one"], "no checkpoint one; there are: none"),
    ],
)
def test_bad_names_change_nothing(lab: Lab, words: list[str], line: str) -> None:
    before = lab.machine.status()
    assert run(*words) == f"error: {line}"
    assert lab.machine.status() == before


def test_a_bad_name_is_told_before_anything_is_said_to_happen(lab: Lab) -> None:
    for words in (["checkpoint", "lab", "No"], ["reset", "lab", "No"]):
        assert CliRunner().invoke(cli, words).output == ""


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["pause", "lab"], "cannot pause: the VM is starting"),
        (["resume", "lab"], "cannot resume: the VM is starting, not paused"),
        (["checkpoint", "lab"], "cannot save the machine: it is starting; wait until SSH answers"),
        (["reset", "lab"], "cannot set the machine back: it is starting"),
    ],
)
def test_a_machine_that_starts(lab: Lab, words: list[str], line: str) -> None:
    lab.machine.life.begin(time.monotonic())
    lab.machine.up = False
    assert run(*words) == f"error: {line}"


def test_a_machine_that_runs_but_cannot_be_reached_yet(lab: Lab) -> None:
    lab.machine.life.served = False
    line = "cannot save the machine: it is not reached by SSH yet; wait until SSH answers"
    assert run("checkpoint", "lab") == f"error: {line}"


def test_a_second_reset_before_the_first_has_come_about(lab: Lab) -> None:
    lab.machine.life.ask_reset()
    assert run("reset", "lab") == "error: cannot set the machine back: it is being set back already"


@pytest.mark.parametrize("words", [["pause", "lab"], ["resume", "lab"], ["checkpoint", "lab"]])
@pytest.mark.parametrize("moment", ["a reset is under way", "its VMM has just ended"])
def test_nothing_is_asked_of_a_vmm_that_ends(lab: Lab, words: list[str], moment: str) -> None:
    if moment == "a reset is under way":
        lab.machine.life.ask_reset()
    else:
        lab.machine.vmm, lab.machine.up = None, False
    assert run(*words) == "error: not now: the machine ends, or is being set back; try again in a moment"


def test_a_machine_that_waits_for_room_is_not_resumed_by_hand(lab: Lab) -> None:
    """It would stop again at its next write, and be told to run."""
    lab.machine.life.state, lab.machine.paused = "paused", "disk"
    lab.machine.life.reason = "the host's disk below /x is full; free some space"
    line = "cannot resume: the host's disk below /x is full; free some space; it goes on by itself then"
    assert run("resume", "lab") == f"error: {line}"
    assert lab.machine.life.state == "paused"


def test_a_machine_that_is_going_down(lab: Lab) -> None:
    lab.machine.life.ask_stop()
    assert run("checkpoint", "lab") == "error: cannot save the machine: it is stopping"
    assert run("reset", "lab") == "error: cannot set the machine back: it is stopping"


def test_one_change_at_a_time(lab: Lab) -> None:
    async def take() -> None:
        await lab.machine._alone.acquire()

    lab.call(take())
    for words in (["pause", "lab"], ["checkpoint", "lab"], ["reset", "lab"], ["checkpoint", "lab", "x", "--rm"]):
        assert run(*words) == "error: not now: another change of this machine is under way"
    lab.machine._alone.release()


def test_no_room_and_a_full_disk_keep_the_old_one(lab: Lab) -> None:
    run("checkpoint", "lab", "one")
    before = lab.machine.prepared.checkpoints.find("one")
    lab.machine.prepared.checkpoints._limit = 1
    said = run("checkpoint", "lab", "one")
    assert said.startswith("error: no room for the checkpoint: it may take ")
    assert said.endswith("; remove another checkpoint, or raise volumes.vmData.sizeLimit")
    lab.machine.prepared.checkpoints._limit = 0
    lab.vmm.fault = OSError(28, "No space left on device")
    assert run("checkpoint", "lab", "one") == "error: the checkpoint cannot be written: No space left on device"
    assert lab.machine.prepared.checkpoints.ls() == [before]
    assert row() == ["running", ""]


def test_no_copy_of_the_clean_disk(lab: Lab) -> None:
    lab.machine.prepared.disk.clean.unlink()
    line = "no copy of the clean disk was kept: end the session and start it anew"
    assert run("reset", "lab") == f"error: {line}"


VERBS = (["pause"], ["resume"], ["checkpoint"], ["checkpoint", "one", "--rm"], ["reset"])


@pytest.mark.parametrize("words", VERBS[:3] + VERBS[4:])
def test_a_session_that_does_not_run(layout: Layout, words: list[str]) -> None:
    words = [words[0], "lab", *words[1:]]
    assert run(*words) == "error: session lab is not running; start it: dozlab up lab"


@pytest.mark.parametrize("words", VERBS)
def test_a_session_without_a_machine_yet(layout: Layout, words: list[str]) -> None:
    with files.locked(layout.lock):
        assert run(words[0], "lab", *words[1:]) == "error: session lab has no machine now; see it: dozlab status lab"


@pytest.mark.parametrize("words", VERBS)
def test_no_such_session(layout: Layout, words: list[str]) -> None:
    with pytest.raises(NoSuchSession, match="no session 'other'"):
        CliRunner().invoke(cli, [words[0], "other", *words[1:]], catch_exceptions=False)


# The checkpoints of a session that was stopped with --keep


def keep(layout: Layout, name: str) -> Path:
    folder = layout.vm_data / "disk/checkpoints" / name
    folder.mkdir(parents=True)
    for file in (snapshots.STATE, snapshots.DISK, snapshots.TOKEN):
        (folder / file).write_bytes(b"x" * 4096)
    snapshots.describe(folder, {"base": "b" * 64})
    return folder


def test_a_stopped_sessions_checkpoints_are_listed_and_removed(layout: Layout) -> None:
    files.write_json(layout.end, {"state": "stopped", "reason": "stopped from outside"})
    kept = keep(layout, "one")
    lines = run("status", "lab").splitlines()
    assert lines[0] == "lab: stopped (stopped from outside)"
    assert lines[-1].startswith("  checkpoint one: 12.0 KiB, ")
    assert [each["name"] for each in json.loads(run("ls", "-o", "json"))[0]["vm"]["checkpoints"]] == ["one"]
    assert run("checkpoint", "lab", "two", "--rm") == "error: no checkpoint two; there are: one"
    assert run("checkpoint", "lab", "one", "--rm") == "removed checkpoint one of lab\n"
    assert not kept.exists()
    assert json.loads(run("status", "lab", "-o", "json"))["vm"] == {}


@pytest.mark.parametrize("where", ["vm-data/disk/checkpoints", "vm-data/disk", "vm-data"])
def test_no_link_of_the_vmms_leads_elsewhere(layout: Layout, tmp_path: Path, where: str) -> None:
    """Its uid owned these folders while it ran, and root must not remove what it likes."""
    keep(layout, "one")
    (layout.state / where).rename(tmp_path / "elsewhere")
    (layout.state / where).symlink_to(tmp_path / "elsewhere")
    assert "is not where it should be" in run("checkpoint", "lab", "one", "--rm")
    assert list((tmp_path / "elsewhere").rglob("one/snapshot.json"))


def test_a_session_that_is_being_started_meanwhile_keeps_its_checkpoints(layout: Layout) -> None:
    kept = keep(layout, "one")
    with files.locked(layout.lock), pytest.raises(DozlabError, match="is being started"):
        state.forget(layout, "one")
    assert kept.exists()
