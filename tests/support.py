"""What tests of real sessions share: the `dozlab` command as a user runs it, and an inventory."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parent.parent
EVIDENCE = REPOSITORY / "evidence"
CONSOLE_LINES = 30
"""Of a console in a failure's own words; the rest is in the evidence."""


@dataclass(frozen=True)
class Inventory:
    """Everything a session could leave behind, as comparable sets."""

    processes: dict[int, tuple[int, str]]
    """pid -> (parent's pid, command line)."""
    mounts: frozenset[str]
    links: frozenset[str]
    namespaces: frozenset[str]
    sockets: frozenset[str]
    tables: str
    files: frozenset[str]

    @classmethod
    def take(cls) -> Inventory:
        """Look at this machine, from outside every session."""
        return cls(
            processes=_processes(),
            mounts=frozenset(Path("/proc/self/mountinfo").read_text().splitlines()),
            links=frozenset(os.listdir("/sys/class/net")),
            namespaces=frozenset(os.listdir("/run/netns")) if os.path.isdir("/run/netns") else frozenset(),
            sockets=frozenset(_sockets()),
            tables=subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=False).stdout,
            files=frozenset(_temporary()),
        )

    def new_since(self, before: Inventory) -> dict[str, list[str]]:
        """Return what is here and was not before; empty when nothing is left."""
        found = {
            "processes": [f"{pid} {self.processes[pid][1]}" for pid in sorted(self._strangers(before))],
            "mounts": sorted(self.mounts - before.mounts),
            "links": sorted(self.links - before.links),
            "namespaces": sorted(self.namespaces - before.namespaces),
            "sockets": sorted(self.sockets - before.sockets),
            "tables": [] if self.tables == before.tables else [self.tables],
            "files": sorted(self.files - before.files),
        }
        return {kind: items for kind, items in found.items() if items}

    def _strangers(self, before: Inventory) -> list[int]:
        """Return new processes that did not come from one that was there before and still is (another session's).

        An orphan's parent is init: it is never excused.
        """
        found = []
        for pid in self.processes.keys() - before.processes.keys():
            parent = self.processes[pid][0]
            while parent in self.processes and parent not in before.processes:
                parent = self.processes[parent][0]
            if parent in (0, 1) or parent not in before.processes:
                found.append(pid)
        return found


def _processes() -> dict[int, tuple[int, str]]:
    """Return every process but kernel threads, our own test runner and what it runs just now."""
    ours = {os.getpid(), *_descendants(os.getpid())}
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) not in ours:
            try:
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if words:
                found[int(entry.name)] = (parent, words[:120])
    return found


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # ended while we looked
            for word in task.read_text().split():
                found += [int(word), *_descendants(int(word))]
    return found


def _sockets() -> list[str]:
    unix = [line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines()[1:] if len(line.split()) == 8]
    listening = [
        line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if line.split()[3] == "0A"
    ]
    return [name for name in unix if "dozlab" in name] + listening


def _temporary() -> list[str]:
    places = [Path("/tmp"), Path("/dev/shm"), Path("/run/dozlab"), Path("/var/tmp")]
    return [str(path) for place in places if place.is_dir() for path in place.iterdir() if "pytest" not in path.name]


@dataclass
class Dozlab:
    """The command line as a user types it, with session state in a folder of the test's own."""

    state: Path
    as_user: str = ""
    env: dict[str, str] = field(default_factory=dict)

    def argv(self, *words: str) -> list[str]:
        """Return the whole command line."""
        python = self.env.get("DOZLAB_TEST_PYTHON", sys.executable)
        command = [python, "-c", "from dozlab.cli.main import main; main()", *words]
        return ["runuser", "-u", self.as_user, "--", *command] if self.as_user else command

    def environment(self) -> dict[str, str]:
        """Return the environment of the command."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("XDG_", "PYTEST"))}
        return {**kept, "XDG_STATE_HOME": str(self.state), **self.env}

    def run(self, *words: str, timeout: float = 300, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a verb to its end; with `check` a failure fails the test with the command's own words.

        A session that does not come up tells why (`save_evidence`) before it is removed, and so does one that a failing
        test removes on its way out.
        """
        fault = sys.exc_info()[1]
        if words[0] == "down" and fault is not None:
            for name in set(words[1:]) & set(self.sessions()):
                fault.add_note(self.save_evidence(name))
        must_start = words[0] == "up" and check
        done = self._run(*words, *(["--keep-failed"] if must_start else []), timeout=timeout)
        if check and done.returncode != 0:
            told = f"dozlab {' '.join(words)}: exit {done.returncode}\n{done.stdout}{done.stderr}"
            if must_start:
                told += self.save_evidence(words[1])
                self._run("down", words[1])
            raise AssertionError(told)
        return done

    def _run(self, *words: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.argv(*words), env=self.environment(), capture_output=True, text=True, timeout=timeout, check=False,
            stdin=subprocess.DEVNULL, cwd=self.env.get("HOME"),
        )  # fmt: skip

    def json(self, *words: str) -> Any:
        """Run a verb with -o json and return what it printed."""
        return json.loads(self.run(*words, "-o", "json").stdout)

    def popen(self, *words: str) -> subprocess.Popen[str]:
        """Start a verb and return it running."""
        return subprocess.Popen(
            self.argv(*words), env=self.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            stdin=subprocess.DEVNULL, cwd=self.env.get("HOME"), preexec_fn=_hear_ctrl_c,
        )  # fmt: skip

    def ssh(self, session: str, command: str, *, timeout: float = 300, check: bool = True) -> str:
        """Run a command in the guest and return what it printed."""
        return self.run("ssh", session, "--", command, timeout=timeout, check=check).stdout

    def save_evidence(self, session: str) -> str:
        """Keep a session's logs and status where CI's artefacts and people find them.

        :return: the last lines of its console, with a heading
        """
        logs, status = self._run("logs", session), self._run("status", session)
        test = os.environ.get("PYTEST_CURRENT_TEST", "no test").rpartition(" ")[0]
        folder = EVIDENCE / re.sub(r"[^A-Za-z0-9]+", "-", test.removeprefix("tests/"))[:100] / session
        folder.mkdir(parents=True, exist_ok=True)
        for name, done in (("logs", logs), ("status", status)):
            (folder / f"{name}.txt").write_text(done.stdout + done.stderr)
        console = [line for line in logs.stdout.splitlines() if line.startswith("[firecracker-vm] ")][-CONSOLE_LINES:]
        first = (status.stdout.splitlines() or ["no status"])[0]
        return "\n".join([f"--- {first}; all of it in {folder.relative_to(REPOSITORY)}", *console, ""])

    def sessions(self) -> list[str]:
        """Return the ids of all sessions of this state folder, stopped ones included; none where `ls` fails."""
        done = self._run("ls", "-o", "json")
        return [str(each["id"]) for each in json.loads(done.stdout)] if done.returncode == 0 else []


def _hear_ctrl_c() -> None:
    """Begin as at a terminal: a test run in a shell's background would hand on an ignored SIGINT (POSIX, 2.11)."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port of an address of this machine that nobody listens on now.

    Below those that the kernel gives away by itself (ip_local_port_range, 32768 and up), so that no connection gets it
    before who asked listens; drawn at random, so that tests side by side do not get the same.
    """
    while True:
        port = 12_000 + secrets.randbelow(20_000)
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind((host, port))
            except OSError:
                continue
            return port


def until(condition: Callable[[], Any], *, what: str, seconds: float) -> Any:
    """Poll until the condition returns something true and return it; a failure names what was missing."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.1)
