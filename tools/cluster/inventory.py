"""What is on this machine that a cluster could leave behind: taken before `up` and after `down`, and compared.

before = inventory.take(); ...; assert inventory.differences(before, inventory.take()) == []
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from tools.cluster import host, layout

from dozlab.lib import proc

Inventory = dict[str, list[str]]

PROGRAMS = {
    "etcd", "containerd", "containerd-shim-runc-v2", "containerd-shim", "docker-registry", "kube", "kube-apiserver",
    "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl", "device-plugin", "pause", "runc",
    "ctr",
}  # fmt: skip


def take() -> Inventory:
    """Return kind -> what there is of it, sorted."""
    found: dict[str, set[str]] = {
        "process": _processes(),
        "mount": {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()},
        "cgroup": _cgroups(),
        "link": {link["ifname"] for link in _ip("link")},
        "address": {f"{link['ifname']} {a['local']}" for link in _ip("address") for a in link.get("addr_info", ())},
        "route": {line.strip() for line in proc.run(["ip", "route", "show", "table", "all"]).out.splitlines()},
        "netns": _names(Path("/run/netns")) | _names(Path("/var/run/netns")),
        "nft": _rules(),
        "sysctl": {f"{name}={value}" for name, value in host.sysctls().items()},
        "socket": _sockets(),
        "listener": _listeners(),
        "path": {str(path) for path in layout.OUTSIDE if path.exists()},
    }
    return {kind: sorted(values) for kind, values in found.items()}


def differences(before: Inventory, after: Inventory) -> list[str]:
    """Return a line for each thing that came (+) or went (-). Pure."""
    lines = []
    for kind in sorted(before.keys() | after.keys()):
        old, new = set(before.get(kind, ())), set(after.get(kind, ()))
        lines += [f"+ {kind}: {value}" for value in sorted(new - old)]
        lines += [f"- {kind}: {value}" for value in sorted(old - new)]
    return lines


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def _processes() -> set[str]:
    """Return programs of the cluster and everything in a Pod's cgroup or with our mark."""
    found = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            name = Path(os.readlink(entry / "exe")).name
            marked = f"{layout.MARK}=".encode() in (entry / "environ").read_bytes()
            in_pod = f"/{layout.CGROUP}" in (entry / "cgroup").read_text()
            if (name in PROGRAMS or marked or in_pod) and int(entry.name) != os.getpid():
                found.add(f"{name} {entry.name}")
    return found


def _cgroups() -> set[str]:
    found = set()
    for top in (Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()):
        if top.is_dir():
            found |= {str(path) for path in top.iterdir() if path.is_dir() and path.name == layout.CGROUP}
    return found


def _ip(what: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(proc.run(["ip", "-json", what, "show"]).out or "[]")
    return found


def _rules() -> set[str]:
    """Return tables and chains, those of iptables-nft included."""
    found, table = set(host.tables()), ""
    for line in proc.run(["nft", "list", "chains"], check=False).out.splitlines():
        words = line.split()
        if words[:1] == ["table"]:
            table = " ".join(words[1:3])
        elif words[:1] == ["chain"]:
            found.add(f"{table} {words[1]}")
    return found


def _sockets() -> set[str]:
    lines = Path("/proc/net/unix").read_text().splitlines()[1:]
    return {parts[7] for line in lines if len(parts := line.split(maxsplit=7)) == 8 and parts[3] == "00010000"}


def _listeners() -> set[str]:
    found = set()
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A":
                found.add(f"{name} {int(words[1].rpartition(':')[2], 16)}")
    return found
