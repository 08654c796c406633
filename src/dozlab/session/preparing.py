"""Makes prepared snapshots: boots an image once, in a session of its own whose VM is saved as soon as it is ready.

That session has no terminal and no editor, and is gone when the snapshot is made or the attempt has failed. A killed
attempt leaves it behind, marked; the next attempt removes it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dozlab import values as values_module
from dozlab.images.snapshots import DESCRIPTION, SIZE_LIMIT, WORDS, Needs, Snapshot, Snapshots
from dozlab.lib import files, paths, proc
from dozlab.lib.errors import BadUsage, DozlabError
from dozlab.lib.log import last_line
from dozlab.lib.timeline import Entry
from dozlab.lib.units import MIB, format_seconds, format_size, parse_size
from dozlab.session import image_choice, operations, planning, preflight, resources, state
from dozlab.session.layout import Layout, sessions_dir
from dozlab.session.plan import Plan
from dozlab.values import Values

PREPARE_LIMIT = 1200.0
"""Seconds until an attempt is given up; booting and saving an emulated guest on a busy machine takes a few minutes."""
_NICE = 10
"""Added to the niceness (nice(2)) of what is prepared beside a session that somebody uses."""
MARK = "preparing.json"
"""File in the state folder of a session of ours: no learner's session is ever taken for one."""

Stages = Callable[[list[Entry]], None]


@dataclass(frozen=True)
class Prepared:
    """What there is now. `new`: it was made just now, in `seconds`; `gone`: what had to make room for it."""

    snapshot: Snapshot
    new: bool
    seconds: float = 0.0
    gone: tuple[Snapshot, ...] = ()


def store() -> Path:
    """Return the image store of this machine."""
    return paths.cache() / "store"


def snapshots() -> Snapshots:
    """Return the prepared snapshots of this machine."""
    return Snapshots(store() / "snapshots")


def of_base(digest: str) -> list[Snapshot]:
    """Return the snapshots of one base image, the newest first."""
    return [each for each in snapshots().ls() if each.needs.get("base") == digest]


def describe(snapshot: Snapshot) -> str:
    """Return in a few words for which machines a snapshot is, and what it takes."""
    needs = snapshot.needs
    return f"{needs.get('cpus')} vCPU {needs.get('memory')} MiB ({format_size(snapshot.size)})"


def prepare(raw: dict[str, Any], *, image: str, again: bool, progress: operations.Progress, stages: Stages) -> Prepared:
    """Make a snapshot that `dozlab up` with the same image and values starts from, unless there is one.

    :param raw: values with the chart's names
    :param image: as for `operations.start`
    :param again: make it even where there is one
    :param stages: gets the timeline's entries as they come
    :raises DozlabError: in one line, why there is none now
    """
    wanted = values_module.parse(raw)
    preflight.check(wanted)
    _, digest = image_choice.choose(image or wanted.rootfs.image_url, wanted.rootfs.sha256, store())
    raw = image_choice.with_defaults(raw, digest, store())
    wanted = values_module.parse(raw)
    with _alone(progress):
        _sweep(progress)
        found = None if again else _there(wanted, digest, progress)
        if found:
            return Prepared(found, new=False)
        _check_room(wanted)
        return _make(raw, image, progress, stages)


@dataclass(frozen=True)
class Machine:
    """What this machine's next start brings; an empty text is not known. Binaries by VMM, processors by accelerator."""

    bases: frozenset[str]
    kit: str
    binaries: dict[str, str]
    cpus: dict[str, str]


def this_machine() -> Machine:
    """Look at it; nothing is built or probed."""
    from dozlab.firecracker_vm.snapshot import cpu
    from dozlab.firecracker_vm.vmm.qemu import BINARY
    from dozlab.images import kit
    from dozlab.images.store import Store

    folder = kit.find(paths.cache() / "kit")
    programs = {"qemu": shutil.which(BINARY), "firecracker": resources.firecracker_binary(paths.cache())}
    cpuinfo, kernel = Path("/proc/cpuinfo").read_text(), os.uname().release
    return Machine(
        frozenset(each.digest for each in Store(store()).ls()),
        kit.Kit.load(folder).id if folder else "",
        {vmm: _build(path) for vmm, path in programs.items() if path},
        {"kvm": cpu("kvm", cpuinfo, kernel), "tcg": cpu("tcg", cpuinfo, kernel)},
    )


def stale(needs: Needs, machine: Machine) -> str:
    """Return why no start on this machine can use a snapshot any more; empty where one may. Pure."""
    if needs.get("base") not in machine.bases:
        return "its image is gone"
    now = {
        "kit": machine.kit,
        "binary": machine.binaries.get(str(needs.get("vmm"))),
        "cpu": machine.cpus.get(str(needs.get("accel"))),
    }
    for name, value in now.items():
        if value and needs.get(name, value) != value:
            return f"it is for another {WORDS[name]}"
    return ""


def _build(path: str | Path) -> str:
    """Return what tells two builds of a VMM apart, as firecracker-vm does."""
    found = os.stat(path)
    return f"{found.st_size} {int(found.st_mtime)}"


def log() -> Path:
    """Return the file that tells of the newest preparing in the background."""
    return store() / "prepare.log"


def beside(work: Callable[[], int]) -> int:
    """Prepare in a process of its own, which gives way to all that people do here; return its pid.

    :param work: what it does; what that prints is in `log()`
    """
    store().mkdir(parents=True, exist_ok=True)
    files.write_atomic(log(), "", mode=0o600)

    def run() -> int:
        os.nice(_NICE)
        return work()

    return proc.fork(run, output=log(), detached=True)


def hidden_values(raw: dict[str, Any]) -> dict[str, Any]:
    """Return the values of the session that is saved: the same guest, and nothing for people. Pure."""
    kept = {name: value for name, value in raw.items() if name not in ("session", "publish", "ssh")}
    return {**kept, "terminal": {"enabled": False}, "codeServer": {"enabled": False}}


def fits(needs: Needs, values: Values, machine: Needs) -> bool:
    """Tell whether a snapshot is for these values on this machine, as far as that is known out here. Pure.

    :param machine: base, boot kit, VMM and processor, as firecracker-vm names them
    """
    same = {
        **machine,
        "cpus": values.vm.cpu_count,
        "memory": values.vm.memory,
        "disk": parse_size(values.rootfs.disk_size) // 4096 * 4096,
    }
    words = {f"dozlab.ip={values.network.vm_ip}/24", f"dozlab.gw={values.network.gateway_ip}"}
    told = words <= set(str(needs.get("cmdline", "")).split())
    return told and all(needs.get(name) == value for name, value in same.items())


def _there(values: Values, base: str, progress: operations.Progress) -> Snapshot | None:
    """Return a snapshot that fits; of an image from a URL or a file nobody knows the base beforehand."""
    candidates = of_base(base) if base else []
    if not candidates:
        return None
    from dozlab.firecracker_vm.snapshot import cpu
    from dozlab.images.kit import Kit, ensure
    from dozlab.session import vmm_choice

    kit = Kit.load(ensure(paths.cache() / "kit", progress=progress))
    found = vmm_choice.decide(kit.folder, vmm=values.firecracker.vmm, require_kvm=values.firecracker.require_kvm)
    machine: Needs = {
        "base": base,
        "kit": kit.id,
        "vmm": found.vmm,
        "binary": _build(found.binary),
        "accel": found.accel,
        "cpu": cpu(found.accel, Path("/proc/cpuinfo").read_text(), os.uname().release),
    }
    return next((each for each in candidates if fits(each.needs, values, machine)), None)


def _check_room(values: Values) -> None:
    """Check that the store has room for an attempt, which else fails after minutes.

    :raises DozlabError: when it has not
    """
    from dozlab.firecracker_vm.prepare import ROOM

    free, most = shutil.disk_usage(store()).free, values.vm.memory * MIB + ROOM
    if free < most:
        raise DozlabError(
            f"{store()} has {format_size(free)} free, and to prepare this machine may take {format_size(most)}",
            hint="free some space: dozlab image gc",
        )


def _make(raw: dict[str, Any], image: str, progress: operations.Progress, stages: Stages) -> Prepared:
    begun = time.monotonic()
    layout = Layout(f"prepare-{secrets.token_hex(3)}")
    folder = _folder(layout)

    def make_plan(of: Layout, facts: state.Facts, values: Values) -> Plan:
        folder.mkdir(parents=True, mode=0o700)
        if facts.uid is not None:
            os.chown(folder, facts.uid, facts.uid)
        return planning.saving(planning.make_plan(of, facts, values, cold=True), folder)

    try:
        _mark(layout)
        progress(f"session {layout.id} boots it once")
        operations.start(
            layout.id, hidden_values(raw), image=image, progress=progress, make_plan=make_plan, publish=False
        )
        _wait(layout, progress, stages)
        if not (folder / DESCRIPTION).exists():
            code, why = reason(layout)
            raise (BadUsage if code == BadUsage.exit_code else DozlabError)(f"the image could not be prepared: {why}")
        operations.down(layout, keep=False, progress=progress)
        take_over(folder)
        made = snapshots().add(folder)
        gone = snapshots().limit(SIZE_LIMIT)
        return Prepared(made, True, time.monotonic() - begun, tuple(gone))
    finally:
        _remove(layout, progress)


def _wait(layout: Layout, progress: operations.Progress, stages: Stages) -> None:
    """Wait until the session has ended by itself.

    :raises DozlabError: when that takes too long
    """
    watch = operations.Watch(layout)
    deadline = time.monotonic() + PREPARE_LIMIT
    saving = False
    while state.alive(layout):
        stages(watch.new())
        if not saving and watch.done("sshd") and (watch.done("dockerd") or watch.failed("dockerd")):
            saving = True
            progress("saving the running machine")
        if time.monotonic() > deadline:
            raise DozlabError(
                f"the image is not prepared after {format_seconds(PREPARE_LIMIT)}",
                hint="see how far it comes: dozlab up --cold",
            )
        time.sleep(0.05)
    stages(watch.new())


def reason(layout: Layout) -> tuple[int, str]:
    """Return why an ended session made no snapshot: an exit status, 0 where there is none, and one line."""
    end = files.read_json(layout.end)
    if not end:
        return 0, state.died(layout) if layout.state.exists() else f"session {layout.id} was removed meanwhile"
    if end["state"] == "stopped" and end["reason"] == "the guest powered off":  # firecracker-vm ended with status 0
        return 0, last_line(layout.log("firecracker-vm"))
    return int(end.get("code", 0)), str(end["reason"])


def take_over(folder: Path) -> None:
    """Make a folder that the session's uid wrote ours, readable by every session. Its session has ended.

    :raises DozlabError: when something else than plain files is in it
    """
    uid, gid = os.geteuid(), os.getegid()
    os.chown(folder, uid, gid)
    folder.chmod(0o755)
    for path in folder.iterdir():
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise DozlabError(f"the snapshot's {path.name} cannot be read: {error.strerror}") from error
        try:
            facts = os.fstat(fd)
            if not stat.S_ISREG(facts.st_mode) or facts.st_nlink != 1:
                raise DozlabError(f"the snapshot's {path.name} is no plain file")
            os.fchown(fd, uid, gid)
            os.fchmod(fd, 0o644)
        finally:
            os.close(fd)


# What must not stay


def _folder(layout: Layout) -> Path:
    """Return where a session of ours writes: on the store's file system, so that a rename is enough."""
    return store() / "tmp" / layout.id


def _mark(layout: Layout) -> None:
    """Make the session's folder with the mark in it, both at once: a killed attempt is known for what it is."""
    new = layout.state.with_name(f".new-{layout.id}")
    sessions_dir().mkdir(mode=0o700, parents=True, exist_ok=True)
    new.mkdir(mode=0o700)
    files.write_json(new / MARK, {"store": str(store())})
    new.rename(layout.state)


def _remove(layout: Layout, progress: operations.Progress) -> None:
    if layout.state.exists():
        operations.down(layout, keep=False, progress=progress)
    shutil.rmtree(_folder(layout), ignore_errors=True)


@contextlib.contextmanager
def _alone(progress: operations.Progress) -> Iterator[None]:
    """Let one attempt at a time use this store: a second one then finds what the first has made."""
    store().mkdir(parents=True, exist_ok=True)
    lock = store() / "prepare.lock"
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(files.locked(lock, wait=False))
        except files.Busy:
            progress("waiting for another dozlab image prepare")
            stack.enter_context(files.locked(lock))
        yield


def _sweep(progress: operations.Progress) -> None:
    """Mend what a killed attempt has left; no other attempt is under way on this store."""
    snapshots().recover()
    for name in state.ids():
        layout = Layout(name)
        mark = files.read_json(layout.state / MARK)
        if mark and mark.get("store") == str(store()):
            _remove(layout, progress)
    for folder in (*(store() / "tmp").glob("prepare-*"), *sessions_dir().glob(".new-prepare-*")):
        shutil.rmtree(folder, ignore_errors=True)
