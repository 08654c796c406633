"""What is known of the sessions on this machine, from disk, locks and control sockets. Never starts one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dozlab.lib import control, files, proc
from dozlab.lib.errors import DozlabError, NoSuchSession
from dozlab.lib.timeline import Timeline
from dozlab.session.layout import Layout, check_id, sessions_dir
from dozlab.session.ports import Ports
from dozlab.session.privileges import UID_BASE, UID_COUNT

if TYPE_CHECKING:
    from dozlab.firecracker_vm.checkpoints import Checkpoints

_ORPHAN_ENDS = 5.0
"""Seconds a process may take to end that was killed, and to let go of its files."""


@dataclass(frozen=True)
class Facts:
    """What was chosen when a session was started."""

    id: str
    ports: Ports
    address: str
    uid: int | None
    """uid of the components; None: the user's own."""
    pid: int
    """The launcher, later pasta: ending it ends the session."""
    created: float
    resources: dict[str, str] = field(default_factory=dict)
    """Name below /mnt -> path on the host of what the components use read-only: kit, code-server, docker-cli."""

    def save(self, path: Path) -> None:
        """Write them down."""
        files.write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> Facts | None:
        """Return the facts, or None where there are none."""
        raw = files.read_json(path)
        return None if raw is None else cls(**{**raw, "ports": Ports(**raw["ports"])})


@dataclass(frozen=True)
class Status:
    """One session as it is now."""

    id: str
    state: str
    """starting, running, paused, stopping, stopped, failed, or dead (its supervisor was killed)."""
    reason: str = ""
    """Why it ended, or why its machine stands still."""
    urls: dict[str, str] = field(default_factory=dict)
    components: dict[str, Any] = field(default_factory=dict)
    vm: dict[str, Any] = field(default_factory=dict)
    """What firecracker-vm answers to `status`; of a session that has ended its `checkpoints` alone, where there are."""
    created: float = 0.0
    supervisor: int = 0
    """The supervisor's pid as seen from here; 0 where there is none."""


def urls(facts: Facts, base_path: str = "", *, tls: bool = False) -> dict[str, str]:
    """Return where the session is reached; empty where nothing is published.

    :param tls: the terminal speaks it
    """
    if not facts.ports.pairs():
        return {}
    host = "127.0.0.1" if facts.address in ("0.0.0.0", "127.0.0.1") else facts.address  # noqa: S104
    return {
        "terminal": f"{'https' if tls else 'http'}://{host}:{facts.ports.terminal}{base_path}/",
        "vscode": f"http://{host}:{facts.ports.vscode}/",
        "ssh": f"ssh -p {facts.ports.ssh} root@{host}",
    }


def ids() -> list[str]:
    """Return the ids of all sessions, stopped ones included."""
    root = sessions_dir()
    if not root.is_dir():
        return []
    return sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def find(session_id: str) -> Layout:
    """Return the layout of an existing session.

    :raises NoSuchSession: with the ones there are
    """
    layout = Layout(check_id(session_id))
    if not layout.state.is_dir():
        there = ", ".join(ids()) or "none"
        raise NoSuchSession(f"no session {session_id!r} (there is: {there})", hint=f"start one: dozlab up {session_id}")
    return layout


def alive(layout: Layout) -> bool:
    """Tell whether somebody holds the session's lock: a launcher, or the session itself.

    A pasta's orphan, which holds it for nobody, is ended.
    """
    if not layout.lock.exists():
        return False
    try:
        with files.locked(layout.lock, wait=False):
            return False
    except files.Busy:
        return not _end_orphan(layout)


def _end_orphan(layout: Layout) -> bool:
    """End what a pasta that was killed early leaves behind; tell whether that was all there was of the session.

    Its child waits for a signal of its parent's before it becomes the supervisor (design.md D9), and so would hold the
    session's lock for ever. Nobody else can be meant: the child of a pasta that lives has it as its parent.
    """
    facts = Facts.load(layout.facts)
    if facts is None or facts.pid <= 1 or proc.stat(facts.pid)[0] not in ("", "Z"):
        return False
    found = members(facts.pid)
    if not found or not all(_is_pasta(pid) for pid in found):
        return False
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + _ORPHAN_ENDS
    while members(facts.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return True


def members(leader: int) -> list[int]:
    """Return the processes of the session (setsid(2)) that our launcher leads: it or pasta, its child, the supervisor.

    A pasta that ends early leaves its child waiting for ever (design.md D9), so its pid alone is not enough. While the
    session's lock is held one of them lives, and the kernel gives the leader's number to nobody else (setsid(2)).
    """
    if leader <= 1:  # not recorded yet: session 0 is the kernel's own
        return []
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if (found := proc.stat(pid))[2] == leader and found[0] != "Z"]


def _is_pasta(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return os.path.basename(os.readlink(f"/proc/{pid}/exe")).startswith(("passt", "pasta"))
    return False


def died(layout: Layout) -> str:
    """Return why a session ended that could not say so itself: pasta's last complaint, else that it was killed."""
    path = layout.log("pasta")
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    complaints = [line.partition("ERROR:")[2].strip() for line in lines if "ERROR:" in line]
    return f"pasta, its network, ended: {complaints[-1]}" if complaints else "its supervisor was killed"


async def status(layout: Layout) -> Status:
    """Return the truth about one session, whatever happened to it."""
    facts = Facts.load(layout.facts)
    where = urls(facts, _base_path(layout), tls=_tls(layout)) if facts else {}
    created = facts.created if facts else 0.0
    if alive(layout):
        try:
            reply = await control.call(layout.control, "status", timeout=5)
        except DozlabError:
            return Status(layout.id, "starting", urls=where, created=created)
        vm = reply.get("vm", {})
        return Status(
            layout.id, reply["state"], stands_still(layout.id, vm) or reply.get("reason", ""), where,
            reply["components"], vm, created, peer_pid(layout.control),
        )  # fmt: skip
    saved = _saved(layout)
    end = files.read_json(layout.end) or {"state": "dead", "reason": died(layout)}
    kept: dict[str, Any] = {"checkpoints": saved} if saved else {}
    return Status(layout.id, end["state"], end["reason"], where, vm=kept, created=created)


def stands_still(session_id: str, vm: dict[str, Any]) -> str:
    """Return why a machine stands still and what lets it go on; empty where it does not. Pure.

    :param vm: what firecracker-vm answers to `status`
    """
    words = {
        "asked": f"by dozlab pause; go on: dozlab resume {session_id}",
        "idle": "nobody uses it; the next visitor wakes it",
        "saving": "a checkpoint is being saved",
        "disk": str(vm.get("reason", "")),
    }
    return words.get(str(vm.get("paused", "")), "")


def _checkpoints(layout: Layout) -> Checkpoints:
    from dozlab.firecracker_vm.checkpoints import Checkpoints  # a start needs none

    return Checkpoints(layout.vm_data / "disk/checkpoints", 0)


def _saved(layout: Layout) -> list[dict[str, object]]:
    """Return the checkpoints of a session that has ended, as firecracker-vm tells them of one that runs."""
    from dozlab.firecracker_vm.checkpoints import shown

    return shown(_checkpoints(layout).ls())


def forget(layout: Layout, name: str) -> None:
    """Remove a checkpoint of a session that does not run.

    :raises DozlabError: when there is none of this name, or the session is being started
    """
    folder = _checkpoints(layout).folder
    if folder.resolve() != sessions_dir().resolve() / folder.relative_to(sessions_dir()):
        # Its VMM owned these folders: root must not remove what a link points to.
        raise DozlabError(f"{folder} is not where it should be")
    try:
        with files.locked(layout.lock, wait=False):
            _checkpoints(layout).rm(name)
    except files.Busy as error:
        raise DozlabError(
            f"session {layout.id} is being started by somebody else", hint=f"see it: dozlab status {layout.id}"
        ) from error


def _terminal(layout: Layout) -> dict[str, Any]:
    raw = files.read_json(layout.values) or {}
    return dict(raw.get("terminal", {}))


def _base_path(layout: Layout) -> str:
    return str(_terminal(layout).get("basePath", ""))


def _tls(layout: Layout) -> bool:
    return bool(_terminal(layout).get("tls", {}).get("certFile"))


def peer_pid(path: Path) -> int:
    """Return the pid, in our PID namespace, of who listens on a unix socket (SO_PEERCRED, unix(7)); 0 if nobody."""
    import socket
    import struct

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(2)
        try:
            sock.connect(str(path))
            raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        except OSError:
            return 0
    return int(struct.unpack("3i", raw)[0])


def all_status() -> list[Status]:
    """Return the status of every session."""

    async def gather() -> list[Status]:
        return list(await asyncio.gather(*(status(Layout(name)) for name in ids())))

    return asyncio.run(gather())


def promised_ports() -> set[int]:
    """Return host ports that live sessions have been given (one that is still fetching does not listen yet)."""
    taken: set[int] = set()
    for name in ids():
        layout = Layout(name)
        facts = Facts.load(layout.facts)
        if facts and alive(layout):
            taken |= {host for host, _ in facts.ports.pairs()}
    return taken


def free_uid() -> int:
    """Return the lowest session uid that no session has."""
    taken = {facts.uid for name in ids() if (facts := Facts.load(Layout(name).facts))}
    return next(uid for uid in range(UID_BASE, UID_BASE + UID_COUNT) if uid not in taken)


def who_needs(digest: str) -> str:
    """Return the sessions, stopped ones included, whose disk lies over the base image of that digest."""
    users = [
        name
        for name in ids()
        if (files.read_json(Layout(name).vm_data / "disk/base.json") or {}).get("digest") == digest
    ]
    return ", ".join(users)


def remove(layout: Layout) -> None:
    """Delete everything of a session that is not alive. Folders a learner made unreadable are opened first."""
    _remove_tree(layout.run)
    for left in sessions_dir().glob(".gone-*"):  # somebody was killed at what follows
        _remove_tree(left)
    if layout.state.exists():
        # At once or not at all: half a session would be one that nobody knows, and nobody removes.
        layout.state.rename(gone := sessions_dir() / f".gone-{layout.id}")
        _remove_tree(gone)
    with contextlib.suppress(FileNotFoundError):
        layout.lock.unlink()
    with contextlib.suppress(OSError):
        layout.run.parent.rmdir()


def _remove_tree(folder: Path) -> None:
    def reopen(_function: Any, path: str, _error: Any) -> None:
        parent = os.path.dirname(path)
        os.chmod(parent, 0o700)
        if os.path.isdir(path) and not os.path.islink(path):
            os.chmod(path, 0o700)
            shutil.rmtree(path)
        else:
            os.unlink(path)

    if folder.exists():
        shutil.rmtree(folder, onerror=reopen)


@contextlib.contextmanager
def registry() -> Iterator[None]:
    """Hold the lock under which sessions are created and removed."""
    sessions_dir().mkdir(parents=True, exist_ok=True, mode=0o700)
    with files.locked(sessions_dir() / ".registry.lock"):
        yield


def timeline(layout: Layout) -> Timeline:
    """Return the session's timeline, as the host sees it."""
    return Timeline(layout.shared)


def now() -> float:
    """Return seconds since the epoch, rounded for people who read the files."""
    return round(time.time(), 3)
