"""Starting, knowing again and ending the cluster's processes. Knows nothing of what they are.

A process is known by pid and start time, so a pid that the kernel has given to somebody else is never touched, and
signals go through a pidfd. `down` after a crash also finds what was never recorded: by the mark in its environment.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dozlab.lib.errors import DozlabError


@dataclass(frozen=True)
class Process:
    """A process, by pid and start time (clock ticks since boot, field 22 of proc_pid_stat(5))."""

    pid: int
    start: int

    @property
    def alive(self) -> bool:
        """Tell whether it still runs (a zombie does not)."""
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)
        found = _stat(self.pid)
        return found is not None and found[1] == self.start and found[0] not in "ZX"


def _stat(pid: int) -> tuple[str, int] | None:
    """Return state letter and start time, or None where there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], int(fields[19])


def known(pid: int) -> Process | None:
    """Return the process that has this pid now."""
    found = _stat(pid)
    return Process(pid, found[1]) if found else None


def start(argv: Sequence[str], log: Path, env: Mapping[str, str]) -> Process:
    """Start a program that outlives us, in a session of its own, with its output in `log`.

    :raises DozlabError: when it cannot be started
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        try:
            child = subprocess.Popen(
                argv, env=dict(env), cwd="/", stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
            )
        except OSError as error:
            raise DozlabError(f"cannot start {argv[0]}: {error.strerror}") from error
    child.returncode = 0  # it is not ours to wait for: the interpreter would warn of a child left running
    process = known(child.pid)
    assert process
    return process


def send(process: Process, number: signal.Signals) -> None:
    """Send a signal to it, if it still runs."""
    with contextlib.suppress(ProcessLookupError):
        fd = os.pidfd_open(process.pid)
        try:
            if process.alive:
                signal.pidfd_send_signal(fd, number)
        finally:
            os.close(fd)


def kill(processes: Iterable[Process], *, within: float = 10.0) -> list[Process]:
    """SIGKILL all of them and wait until they have gone; return those that have not."""
    waiting: dict[int, Process] = {}
    poll = select.poll()
    for process in processes:
        try:
            fd = os.pidfd_open(process.pid)
        except ProcessLookupError:
            continue
        if not process.alive:
            os.close(fd)
            continue
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(fd, signal.SIGKILL)
        waiting[fd] = process
        poll.register(fd, select.POLLIN)
    deadline = time.monotonic() + within
    while waiting and (left := deadline - time.monotonic()) > 0:
        for fd, _ in poll.poll(left * 1000):
            poll.unregister(fd)
            os.close(fd)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(waiting[fd].pid, os.WNOHANG)
            del waiting[fd]
    for fd in waiting:
        os.close(fd)
    return list(waiting.values())


def marked(variable: str, value: str) -> list[Process]:
    """Return all processes whose environment has `variable=value`."""
    mark = f"{variable}={value}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if mark in (entry / "environ").read_bytes().split(b"\0") and (process := known(int(entry.name))):
                found.append(process)
    return found


def in_cgroup(folder: Path) -> list[Process]:
    """Return all processes in a cgroup and those below it."""
    found = {}
    for place, _, _ in os.walk(folder):
        with contextlib.suppress(OSError):
            for pid in (Path(place) / "cgroup.procs").read_text().split():
                if process := known(int(pid)):
                    found[process.pid] = process
    return list(found.values())
