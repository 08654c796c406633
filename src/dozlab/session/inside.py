"""Running a command where a component runs: its namespaces, its environment, its rights (`dozlab exec`)."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from dozlab.lib import proc
from dozlab.lib.errors import BadUsage, DozlabError
from dozlab.session import privileges, state
from dozlab.session.layout import COMPONENTS, Layout

SANDBOX_UID = 1000
"""The editor's uid inside its sandbox."""


def exec_argv(layout: Layout, component: str, command: list[str]) -> list[str]:
    """Return the command line that runs `command` beside a running component (nsenter(1)).

    For code-server that is inside its sandbox, as it would be inside its container.

    :raises BadUsage: no such component, or one that has ended (an init container)
    :raises DozlabError: the session does not run
    """
    if component not in COMPONENTS:
        raise BadUsage(f"no component {component!r}; there are: {', '.join(COMPONENTS)}")
    status = asyncio.run(state.status(layout))
    if not status.supervisor:
        raise DozlabError(f"session {layout.id} is {status.state}", hint=f"start it: dozlab up {layout.id}")
    facts = state.Facts.load(layout.facts)
    assert facts is not None
    entry = status.components.get(component)
    if not entry or not entry["running"]:
        running = [name for name, item in status.components.items() if item["running"]]
        raise BadUsage(f"{component} is not running; running are: {', '.join(running)}")
    process = _host_pid(status.supervisor, entry["pid"])
    nsenter = proc.need("nsenter", "util-linux")
    words = [nsenter, "--target", str(status.supervisor), "--net", "--mount", "--pid"]
    if facts.uid is None:  # a user's session has a user namespace, in which we are its root
        words += ["--user", "--preserve-credentials"]
    if component == "code-server" and (editor := _sandboxed(process)):
        # A second step from there: the sandbox's own namespaces belong to a user namespace below the session's.
        # There a user is the editor's uid already; root, who is nobody there, becomes it.
        become = ["--setuid", str(SANDBOX_UID), "--setgid", str(SANDBOX_UID)]
        inner = [
            "/usr/bin/nsenter", "--target", str(_inner_pid(editor)), "--user", "--mount", "--pid", "--ipc", "--uts",
            *(["--preserve-credentials"] if facts.uid is None else become), "--",
            "/usr/bin/env", "-i", "-C", "/workspace", *_environment(editor), *command,
        ]  # fmt: skip
        return [*words, "--", *inner]
    inner = ["/usr/bin/env", "-i", *_environment(process), *command]
    return [*words, "--", *privileges.argv("/usr/bin/setpriv", inner, uid=facts.uid)]


def _environment(pid: int) -> list[str]:
    return [f"{key}={value}" for key, value in _environ(pid).items() if "PASSWORD" not in key]


def _host_pid(supervisor: int, inner: int) -> int:
    """Return our view of a pid of the session's PID namespace (proc(5), NSpid)."""
    for pid in _descendants(supervisor):
        if _inner_pid(pid) == inner:
            return pid
    raise DozlabError(f"process {inner} of the session has ended")


def _inner_pid(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("NSpid:"):
                return int(line.split()[2])
    except (OSError, IndexError):
        pass
    return 0


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    waiting = [pid]
    while waiting:
        parent = waiting.pop()
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                children = [int(word) for word in task.read_text().split()]
            except OSError:
                continue
            found += children
            waiting += children
    return found


def _sandboxed(pid: int) -> int:
    """Return the first descendant that lives in another mount namespace: the editor inside bwrap; 0 if none."""
    own = os.readlink(f"/proc/{pid}/ns/mnt")
    for child in _descendants(pid):
        try:
            if os.readlink(f"/proc/{child}/ns/mnt") != own and _environ(child).get("HOME", "").startswith("/home"):
                return child
        except OSError:
            continue
    return 0


def _environ(pid: int) -> dict[str, str]:
    raw = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    return dict(entry.split("=", 1) for entry in raw.split("\0") if "=" in entry)
