"""Preparing an image: what the hidden session is, which snapshots fit, what stays of it; no VM is started."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dozlab import values
from dozlab.firecracker_vm import snapshot
from dozlab.firecracker_vm.machine import Drive, Spec
from dozlab.firecracker_vm.probe import Decision
from dozlab.images import snapshots
from dozlab.lib import files
from dozlab.lib.errors import DozlabError
from dozlab.session import environment, image_choice, operations, planning, preflight, preparing, state
from dozlab.session.layout import Layout
from dozlab.session.plan import Plan
from dozlab.session.ports import Ports

pytestmark = pytest.mark.usefixtures("home")

MACHINE: snapshots.Needs = {
    "base": "b" * 64, "kit": "k", "vmm": "qemu", "binary": "1 2", "accel": "tcg", "cpu": "max",
}  # fmt: skip


def needs(**changes: str | int) -> snapshots.Needs:
    """Return the needs of a snapshot for the default values."""
    cmdline = "console=ttyS0 dozlab.ip=172.16.0.2/24 dozlab.gw=172.16.0.1 dozlab.ws=0"
    return {**MACHINE, "cpus": 2, "memory": 2048, "disk": 4 << 30, "cmdline": cmdline, **changes}


def entry(folder: Path, needs: snapshots.Needs, size: int = 4096) -> Path:
    """Make a whole snapshot of a few KiB and return its folder."""
    folder.mkdir(parents=True)
    for name in (snapshots.STATE, snapshots.DISK, snapshots.TOKEN):
        (folder / name).write_bytes(b"x" * size)
    snapshots.describe(folder, needs)
    return folder


def facts(uid: int | None = None) -> state.Facts:
    return state.Facts("lab", Ports(1, 2, 3), "127.0.0.1", uid, 0, 0.0)


def test_a_session_is_told_where_snapshots_are_unless_it_is_to_boot() -> None:
    parsed = values.parse({})
    assert environment.firecracker_vm(parsed)["SNAPSHOTS_DIR"] == "/mnt/kernels/snapshots"
    assert environment.firecracker_vm(parsed, cold=True)["SNAPSHOTS_DIR"] == ""
    plans = [planning.make_plan(Layout("lab"), facts(), parsed, cold=cold) for cold in (False, True)]
    assert [bool(plan.environments["firecracker-vm"]["SNAPSHOTS_DIR"]) for plan in plans] == [True, False]


def test_a_saving_session_writes_to_a_folder_of_its_own(tmp_path: Path) -> None:
    parsed = values.parse(preparing.hidden_values({"vm": {"idlePause": "1m"}}))
    plan = planning.saving(planning.make_plan(Layout("lab"), facts(), parsed, cold=True), tmp_path / "out")
    assert set(plan.environments) == {"init-rootfs", "network-setup", "firecracker-vm"}
    assert plan.environments["firecracker-vm"]["SNAPSHOT_OUT"] == "/mnt/snapshot"
    assert plan.environments["firecracker-vm"]["SNAPSHOTS_DIR"] == ""
    assert plan.environments["firecracker-vm"]["IDLE_PAUSE"] == "0"  # nobody uses it, and it is not to be paused
    assert plan.writable["snapshot"] == str(tmp_path / "out")


def test_the_hidden_session_has_the_same_machine_and_nothing_for_people() -> None:
    raw: dict[str, Any] = {
        "session": {"id": "lab"}, "vm": {"cpuCount": 4, "memory": 512}, "rootfs": {"diskSize": "2G"},
        "publish": {"address": "0.0.0.0", "ssh": 2222}, "ssh": {"authorizedKeys": ["ssh-ed25519 AAAA me"]},
        "codeServer": {"password": "hunter2"}, "terminal": {"basePath": "/x"},
    }  # fmt: skip
    hidden = values.parse(preparing.hidden_values(raw))
    asked = values.parse(raw)
    assert (hidden.vm, hidden.rootfs, hidden.network) == (asked.vm, asked.rootfs, asked.network)
    assert not hidden.terminal.enabled and not hidden.code_server.enabled
    assert hidden.publish == values.Publish() and hidden.ssh.authorized_keys == []
    assert "hunter2" not in json.dumps(preparing.hidden_values(raw))


@pytest.mark.parametrize(
    ("change", "raw"),
    [
        ({}, {"vm": {"memory": 1024}}),
        ({}, {"vm": {"cpuCount": 1}}),
        ({}, {"rootfs": {"diskSize": "2G"}}),
        ({}, {"network": {"vmIp": "172.16.0.22"}}),
        ({"base": "other"}, {}),
        ({"kit": "older"}, {}),
        ({"binary": "3 4"}, {}),
        ({"accel": "kvm"}, {}),
        ({"vmm": "firecracker"}, {}),
        ({"cmdline": ""}, {}),
    ],
)
def test_a_snapshot_of_another_machine_does_not_fit(change: dict[str, str | int], raw: dict[str, Any]) -> None:
    assert preparing.fits(needs(), values.parse({}), MACHINE)
    assert preparing.fits(needs(), values.parse({"codeServer": {"enabled": False}}), MACHINE)
    assert not preparing.fits(needs(**change), values.parse(raw), MACHINE)


NOW = preparing.Machine(frozenset(["b" * 64]), "k", {"qemu": "1 2"}, {"tcg": "max", "kvm": "host"})


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({}, ""),
        ({"memory": 1, "cpus": 7, "disk": 3, "cmdline": "x"}, ""),  # a session may well be given these
        ({"vmm": "firecracker", "binary": "3 4", "accel": "kvm", "cpu": "host"}, ""),  # not known: it is not installed
        ({"base": "c" * 64}, "its image is gone"),
        ({"kit": "older"}, "it is for another boot kit"),
        ({"binary": "3 4"}, "it is for another build of the VMM"),
        ({"accel": "kvm", "cpu": "another"}, "it is for another CPU"),
    ],
)
def test_what_no_start_here_can_use(change: dict[str, str | int], why: str) -> None:
    assert preparing.stale(needs(**change), NOW) == why


def test_this_machine_says_what_firecracker_vm_says(tmp_path: Path) -> None:
    """Otherwise all that is prepared would be of no use, or nothing."""
    session = tmp_path / "session.ext4"
    session.write_bytes(b"x")
    (tmp_path / "manifest.json").write_text('{"id": "kit"}')
    for vmm, accel, binary in (("qemu", "tcg", shutil.which("qemu-system-x86_64")), ("qemu", "kvm", "/bin/sh")):
        decision = Decision(vmm, accel, str(binary), "")  # type: ignore[arg-type]
        spec = Spec(session, session, "", (Drive("vdc", session, False),), 1, 1)
        told = snapshot.needs(decision, spec, base="b" * 64, kit=tmp_path, told_kernel=False)
        machine = preparing.this_machine()
        assert machine.cpus[accel] == told["cpu"]
        assert (machine.binaries["qemu"] == told["binary"]) == (binary != "/bin/sh")


def test_words_for_a_snapshot(tmp_path: Path) -> None:
    made = snapshots.Snapshot(tmp_path, needs(), 0.0, 412 << 20)
    assert preparing.describe(made) == "2 vCPU 2048 MiB (412 MiB)"


@pytest.mark.parametrize(
    ("end", "told"),
    [
        (None, (0, "its supervisor was killed")),
        ({"state": "failed", "reason": "no snapshot was made", "code": 1}, (1, "no snapshot was made")),
        ({"state": "stopped", "reason": "stopped from outside"}, (0, "stopped from outside")),
        ({"state": "stopped", "reason": "the guest powered off"}, (0, "qemu ended: status 0")),
    ],
)
def test_why_there_is_no_snapshot(end: dict[str, Any] | None, told: tuple[int, str]) -> None:
    layout = Layout("prepare-1")
    layout.logs.mkdir(parents=True)
    layout.log("firecracker-vm").write_text("2026-01-01T00:00:00Z firecracker-vm INFO qemu ended: status 0\n")
    if end:
        files.write_json(layout.end, end)
    assert preparing.reason(layout) == told


def test_a_session_that_somebody_removed_is_named() -> None:
    assert preparing.reason(Layout("prepare-1")) == (0, "session prepare-1 was removed meanwhile")


def test_what_the_sessions_uid_wrote_is_ours_and_readable_by_all(tmp_path: Path) -> None:
    folder = entry(tmp_path / "made", needs())
    (folder / "token").chmod(0o600)
    folder.chmod(0o700)
    preparing.take_over(folder)
    assert folder.stat().st_mode & 0o777 == 0o755
    for path in folder.iterdir():
        assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (os.geteuid(), 0o644)


def test_a_link_or_a_pipe_in_place_of_a_snapshots_file_is_refused(tmp_path: Path) -> None:
    """The writer's uid is the guest's VMM: root must not open up what it points to."""
    secret = tmp_path / "secret"
    secret.write_text("x")
    secret.chmod(0o600)
    ways: list[Callable[[Path], None]] = [
        lambda path: path.symlink_to(secret),
        lambda path: path.hardlink_to(secret),
        os.mkfifo,
    ]
    for number, make in enumerate(ways):
        folder = tmp_path / str(number)
        folder.mkdir()
        make(folder / "token")
        with pytest.raises(DozlabError, match=r"^the snapshot's token "):
            preparing.take_over(folder)
    assert secret.stat().st_mode & 0o777 == 0o600


# The whole way, with a session that only writes what firecracker-vm would


def session(layout: Layout, make_plan: planning.PlanMaker, end: dict[str, Any] | None) -> Plan:
    """Make the folders of a session that has ended."""
    for folder in (layout.logs, layout.run.parent, layout.run, layout.shared):
        folder.mkdir(parents=True, exist_ok=True)
    plan = make_plan(layout, facts(), values.parse({"session": {"id": layout.id}}))
    if end:
        files.write_json(layout.end, end)
    return plan


def left(home: Path) -> list[str]:
    """Return what of attempts is left on this machine."""
    folders = (home / "state/dozlab/sessions", home / "run/dozlab", preparing.store() / "tmp")
    return [path.name for folder in folders if folder.exists() for path in folder.iterdir() if "prepare-" in path.name]


def attempt(monkeypatch: pytest.MonkeyPatch, outcome: Any, free: int = 1 << 40) -> preparing.Prepared:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=free))
    monkeypatch.setattr(preflight, "check", lambda _values: None)
    monkeypatch.setattr(image_choice, "choose", lambda *_: ("file:///x", "b" * 64))
    monkeypatch.setattr(preparing, "_there", lambda *_: None)
    monkeypatch.setattr(operations, "start", outcome)
    return preparing.prepare({}, image="", again=False, progress=lambda _line: None, stages=lambda _entries: None)


def test_a_good_attempt_leaves_a_snapshot_and_nothing_else(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    def start(name: str, _raw: Any, *, make_plan: planning.PlanMaker, **_: Any) -> None:
        plan = session(Layout(name), make_plan, {"state": "stopped", "reason": "the guest powered off"})
        out = Path(plan.writable["snapshot"])
        out.rmdir()
        entry(out, needs())

    done = attempt(monkeypatch, start)
    assert done.new and done.gone == ()
    assert preparing.snapshots().ls() == [done.snapshot] == preparing.of_base("b" * 64)
    assert left(home) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), DozlabError("no")])
def test_an_attempt_that_is_cut_short_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, home: Path, error: BaseException
) -> None:
    def start(name: str, _raw: Any, *, make_plan: planning.PlanMaker, **_: Any) -> None:
        session(Layout(name), make_plan, None)
        raise error

    with pytest.raises(type(error)):
        attempt(monkeypatch, start)
    assert left(home) == [] and preparing.snapshots().ls() == []


def test_a_full_disk_is_told_before_anything_is_booted(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    started: list[object] = []
    with pytest.raises(DozlabError, match=r"has 2\.0 GiB free, .* may take 2\.5 GiB; free some space: dozlab image gc"):
        attempt(monkeypatch, started.append, free=2 << 30)
    assert started == [] and left(home) == []


def test_a_vm_that_fails_is_one_line_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    def start(name: str, _raw: Any, *, make_plan: planning.PlanMaker, **_: Any) -> None:
        session(Layout(name), make_plan, {"state": "failed", "reason": "the VM failed: no init"})

    with pytest.raises(DozlabError) as caught:
        attempt(monkeypatch, start)
    assert str(caught.value) == "the image could not be prepared: the VM failed: no init"
    assert caught.value.exit_code == 1
    assert left(home) == []


def test_the_next_attempt_removes_what_a_killed_one_left_and_no_learners_session(
    monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    orphan, learner, elsewhere = Layout("prepare-0a0a0a"), Layout("prepare-facade"), Layout("prepare-0b0b0b")
    for layout in (orphan, learner, elsewhere):
        layout.state.mkdir(parents=True)
    files.write_json(orphan.state / preparing.MARK, {"store": str(preparing.store())})
    files.write_json(elsewhere.state / preparing.MARK, {"store": "/another/store"})
    (preparing.store() / "tmp" / orphan.id).mkdir(parents=True)

    def start(*_: Any, **__: Any) -> None:
        raise DozlabError("enough")

    with pytest.raises(DozlabError, match="enough"):
        attempt(monkeypatch, start)
    assert sorted(left(home)) == ["prepare-0b0b0b", "prepare-facade"]


def test_older_snapshots_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    preparing.snapshots().add(entry(preparing.store() / "tmp/old", needs(memory=512)))
    monkeypatch.setattr(preparing, "SIZE_LIMIT", 16 << 10)

    def start(name: str, _raw: Any, *, make_plan: planning.PlanMaker, **_: Any) -> None:
        out = Path(session(Layout(name), make_plan, {"state": "stopped", "reason": "x"}).writable["snapshot"])
        out.rmdir()
        entry(out, needs())

    done = attempt(monkeypatch, start)
    assert [each.needs["memory"] for each in done.gone] == [512]
    assert preparing.snapshots().ls() == [done.snapshot]


def test_what_is_prepared_beside_gives_way_and_tells_in_its_log(home: Path) -> None:
    preparing.store().mkdir(parents=True)
    preparing.log().write_text("of another time\n")

    def work() -> int:
        os.write(1, f"{os.nice(0)} {os.getsid(0) == os.getpid()}\n".encode())
        return 3

    nice = os.nice(0)
    pid = preparing.beside(work)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
    assert preparing.log().read_text() == f"{min(nice + 10, 19)} True\n"
    assert preparing.log().stat().st_mode & 0o777 == 0o600
