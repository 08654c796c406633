"""What the cluster changes on the machine and how it is undone: link, rules, sysctls, mounts, cgroups, folders.

Every function that undoes works on whatever it finds: nothing, half or all.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from tools.cluster import config, layout, processes

from dozlab.lib import proc
from dozlab.lib.errors import DozlabError

_libc = ctypes.CDLL(None, use_errno=True)
_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8


def sysctls() -> dict[str, str]:
    """Return the present values of layout.SYSCTLS, without those that this kernel has not."""
    values = {}
    for name in layout.SYSCTLS:
        with contextlib.suppress(OSError):
            values[name] = _sysctl(name).read_text().strip()
    return values


def set_sysctls(values: Mapping[str, str]) -> None:
    """Write the values that differ."""
    for name, value in values.items():
        with contextlib.suppress(OSError):
            if _sysctl(name).read_text().strip() != value:
                _sysctl(name).write_text(value)


def _sysctl(name: str) -> Path:
    return Path("/proc/sys", *name.split("."))


def add_link() -> None:
    """Give the machine the node's address, on a link of its own."""
    proc.run(["ip", "link", "add", layout.LINK, "type", "bridge"])
    proc.run(["ip", "address", "add", f"{layout.NODE_IP}/32", "dev", layout.LINK])
    proc.run(["ip", "link", "set", layout.LINK, "up"])


def delete_links() -> None:
    """Delete that link, and links that still lead to Pods (they go with the Pods' namespaces, but a moment later)."""
    proc.run(["ip", "link", "delete", layout.LINK], check=False)
    routes = proc.run(["ip", "-json", "route", "show", "root", layout.POD_NET], check=False)
    for route in json.loads(routes.out or "[]"):
        if str(route.get("dev", "")).startswith("veth"):
            proc.run(["ip", "link", "delete", route["dev"]], check=False)


def add_rules() -> None:
    """Let Pods out and Services in."""
    proc.run(["nft", "-f", "-"], input=config.masquerade().encode())
    set_sysctls({"net.ipv4.ip_forward": "1"})


def tables() -> set[str]:
    """Return the nftables tables, as `ip filter`."""
    listed = proc.run(["nft", "list", "tables"], check=False).out
    return {line.removeprefix("table ").strip() for line in listed.splitlines() if line.startswith("table ")}


def delete_rules(before: Iterable[str] | None) -> None:
    """Delete our table; kube-proxy's too, and tables that iptables made meanwhile and that hold no rule.

    :param before: the tables that were there before `up`; None when that is not known: only our own goes then
    """
    ours = {f"ip {layout.NFT_TABLE}"}
    if before is not None:
        ours |= {"ip kube-proxy", "ip6 kube-proxy"}
    present = tables()
    for table in (present - set(before or ())) | (present & ours):
        iptables = before is not None and table.split()[0] in {"ip", "ip6"}
        if table in ours or (iptables and _empty(table)):
            proc.run(["nft", "delete", "table", *table.split()], check=False)


def _empty(table: str) -> bool:
    shown = proc.run(["nft", "list", "table", *table.split()], check=False).out
    lines = [line.strip() for line in shown.splitlines()]
    return all(line == "}" or line == "" or line.endswith("{") or line.startswith(("type ", "#")) for line in lines)


def mounts_under(folders: Iterable[Path]) -> list[str]:
    """Return the mount points at or below `folders`, the newest first."""
    roots = [str(folder) for folder in folders]
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = line.split()[4].encode().decode("unicode_escape").encode("latin-1").decode()
        if any(point == root or point.startswith(f"{root}/") for root in roots):
            found.append(point)
    return found[::-1]


def unmount(folders: Iterable[Path]) -> None:
    """Unmount everything at or below `folders`.

    :raises DozlabError: when something stays mounted; nothing there may be deleted then
    """
    folders = list(folders)
    for _ in range(3):
        for point in mounts_under(folders):
            _libc.umount2(os.fsencode(point), _MNT_DETACH | _UMOUNT_NOFOLLOW)
    if left := mounts_under(folders):
        raise DozlabError(f"cannot unmount {left[0]}", hint=f"run: sudo umount -l {left[0]}; then again")


def cgroups() -> list[Path]:
    """Return the cgroup folders of Pods, one for each hierarchy (cgroup v1) or the one (v2)."""
    top = Path("/sys/fs/cgroup")
    return [path for path in (top / layout.CGROUP, *top.glob(f"*/{layout.CGROUP}")) if path.is_dir()]


def other_kubernetes() -> str:
    """Return what shows that a Kubernetes other than ours is here; empty when nothing does. Ask when ours is down."""
    top = Path("/sys/fs/cgroup")
    slices = [path for path in (top / "kubepods.slice", *top.glob("*/kubepods.slice")) if path.exists()]
    return str(next(iter([*cgroups(), *slices]), ""))


def delete_cgroups(within: float = 60.0) -> None:
    """Kill what still runs in the Pods' cgroups and remove these.

    :raises DozlabError: when a cgroup cannot be removed
    """
    deadline = time.monotonic() + within
    while found := cgroups():
        processes.kill({p.pid: p for folder in found for p in processes.in_cgroup(folder)}.values())
        for folder in found:
            for place, _, _ in os.walk(folder, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(place)
        if time.monotonic() > deadline:
            raise DozlabError(f"cannot remove {found[0]}", hint="a process in it does not end: see its cgroup.procs")
        time.sleep(0.05 if cgroups() else 0)


def absent() -> list[str]:
    """Return those of layout.OUTSIDE that are not there now."""
    return [str(path) for path in layout.OUTSIDE if not path.exists()]


def delete_outside(made: Iterable[str]) -> None:
    """Delete those of layout.OUTSIDE that `up` did not find when it began."""
    for path in layout.OUTSIDE:
        if str(path) in set(made):
            unmount([path])
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
