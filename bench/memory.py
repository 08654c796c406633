"""What a session costs beside its guest and its editor: memory (PSS) and idle processor time of our own processes.

Measured once SSH, Docker, terminal and editor are ready and SETTLE seconds have passed. PSS is proc(5)'s smaps_rollup:
a page that several processes share is counted in parts, so the sum is what the session really takes.
Rivals, for scale: QEMU's own memory (its guest's RAM apart) and code-server's node processes, in the same session.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench.common import Goal, Report, machine, main, say, sessions

from dozlab.lib.errors import DozlabError

MEMORY_GOAL, CPU_GOAL = 100.0, 1.0
MEMORY = 1024
"""MiB of the guest."""
MODULES = {
    "dozlab.session.supervisor": "supervisor",
    "dozlab.firecracker_vm": "firecracker-vm",
    "dozlab.terminal_sidecar": "terminal-sidecar",
    "dozlab.code_server": "code-server's launcher and bridge",
}
Side = Literal["ours", "guest", "editor"]


@dataclass(frozen=True)
class Process:
    """One process. Memory in MiB, processor time in seconds; `guest_ram` is that part of a VMM's PSS."""

    pid: int
    role: str
    side: Side
    pss: float
    guest_ram: float
    cpu: float


def role_of(argv: list[str]) -> tuple[str, Side]:
    """Return what a process is, and whose account it is on. Pure. What is unknown is ours."""
    name = Path(argv[0]).name if argv else ""
    if "-m" in argv[:3] and (module := argv[argv.index("-m") + 1 :][:1]) and module[0] in MODULES:
        return MODULES[module[0]], "ours"
    if name.startswith("qemu-system") or name == "firecracker":
        return name, "guest"
    if name == "node":
        return "code-server (node)", "editor"
    return name.removesuffix(".avx2"), "ours"


def fields(text: str, name: str) -> list[int]:
    """Return every value of a field of smaps (proc(5)), in KiB. Pure."""
    return [int(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name}:")]


def tree(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(word) for word in task.read_text().split()]
        except OSError:
            continue
        for child in children:
            found += tree(child)
    return found


def look(pid: int) -> Process | None:
    """Return a process as it is now, None when it has gone."""
    folder = Path(f"/proc/{pid}")
    try:
        argv = (folder / "cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
        role, side = role_of(argv)
        pss = fields((folder / "smaps_rollup").read_text(), "Pss")[0]
        # The guest's RAM is the one mapping that is as large.
        text = (folder / "smaps").read_text() if side == "guest" else ""
        sizes = zip(fields(text, "Size"), fields(text, "Pss"), strict=True)
        ram = sum(part for size, part in sizes if size >= MEMORY << 10)
        words = (folder / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    ticks = sum(int(word) for word in words[11:15])  # utime, stime and those of children it has waited for
    return Process(pid, role, side, pss / 1024, ram / 1024, ticks / os.sysconf("SC_CLK_TCK"))


def processes(pid: int) -> list[Process]:
    """Return every process of a session."""
    return [found for each in tree(pid) if (found := look(each))]


def by_role(found: list[Process], then: dict[int, float], seconds: float) -> dict[str, dict[str, Any]]:
    """Return role -> `{"side", "processes", "pss": MiB, "cpu": percent of one core since `then`}`. Pure."""
    roles: dict[str, dict[str, Any]] = {}
    for each in found:
        row = roles.setdefault(each.role, {"side": each.side, "processes": 0, "pss": 0.0, "guest_ram": 0.0, "cpu": 0.0})
        row["processes"] += 1
        row["pss"] += each.pss
        row["guest_ram"] += each.guest_ram
        row["cpu"] += (each.cpu - then.get(each.pid, 0.0)) / seconds * 100
    return {
        role: {key: round(value, 2) if isinstance(value, float) else value for key, value in row.items()}
        for role, row in roles.items()
    }


def measure(options: argparse.Namespace) -> Report:
    """Run one session and look at it."""
    load = machine()["load"]
    with sessions() as command:
        session = f"bench-memory-{os.getpid()}"
        say("starting a session with everything on")
        command.run("up", session, "--set", f"vm.memory={MEMORY}")
        status = json.loads(command.run("status", session, "-o", "json"))
        if not (status["vm"].get("ssh") and status["vm"].get("docker")):
            raise DozlabError(f"the session is not ready: {status['vm']}")
        say(f"settling for {options.settle:g} s, then watching for {options.seconds:g} s")
        time.sleep(options.settle)
        pid = int(json.loads((command.state / "dozlab/sessions" / session / "session.json").read_text())["pid"])
        before = {each.pid: each.cpu for each in processes(pid)}
        begun = time.monotonic()
        time.sleep(options.seconds)
        found = processes(pid)
        roles = by_role(found, before, time.monotonic() - begun)
    facts = {**machine(status["vm"]["accel"]), "load": load}

    def total(side: Side, key: str) -> float:
        return round(sum(float(row[key]) for row in roles.values() if row["side"] == side), 2)

    ours, editor, guest_ram = total("ours", "pss"), total("editor", "pss"), total("guest", "guest_ram")
    vmm, cpu = round(total("guest", "pss") - guest_ram, 2), total("ours", "cpu")
    lines = [f"{'process':<36} {'number':>6} {'PSS':>11} {'idle':>8}"]
    for role, row in sorted(roles.items(), key=lambda item: (item[1]["side"] != "ours", -item[1]["pss"])):
        pss, mark = row["pss"] - row["guest_ram"], "" if row["side"] == "ours" else "  (not ours)"
        lines.append(f"{role:<36} {row['processes']:>6} {pss:>7.1f} MiB {row['cpu']:>6.2f} %{mark}")
    lines.append(
        f"ours {ours:.1f} MiB; for scale: the VMM without its guest's RAM {vmm:.1f} MiB (ours / it = {ours / vmm:.2f}),"
        f" code-server idle {editor:.1f} MiB (ours / it = {ours / editor:.2f}), the guest's RAM {guest_ram:.0f} MiB"
    )
    return Report(
        claim="our own processes take little memory and next to no processor time",
        rival="QEMU's own memory and code-server's, in the same session",
        machine=facts,
        goals=[
            Goal("our processes' memory for one session, PSS", ours, MEMORY_GOAL, unit="MiB"),
            Goal("their idle processor time, percent of one core", cpu, CPU_GOAL, unit="%"),
        ],
        figures={
            "roles": roles,
            "ours": ours, "vmm": vmm, "editor": editor, "guest_ram": guest_ram, "idle_cpu_percent": cpu,
            "ratio": {"ours_to_vmm": round(ours / vmm, 2), "ours_to_editor": round(ours / editor, 2)},
            "settle": options.settle, "watched": options.seconds,
        },
        lines=lines,
    )  # fmt: skip


if __name__ == "__main__":
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--settle", type=float, default=20, help="seconds to wait once everything is ready (20)")
    arguments.add_argument("--seconds", type=float, default=30, help="seconds of idleness to watch (30)")
    sys.exit(main(__doc__, measure, arguments))
