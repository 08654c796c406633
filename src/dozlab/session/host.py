"""Facts about the host that a session's start depends on. Reads only."""

from __future__ import annotations

from pathlib import Path

from dozlab.lib.resolv import RESOLV_CONF, nameservers


def host_dns(resolv_conf: Path = RESOLV_CONF) -> bool:
    """Tell whether the host has an IPv4 name server that pasta can forward to; one on its own loopback will do."""
    try:
        return bool(nameservers(resolv_conf.read_text(errors="replace"), loopback=True))
    except OSError:
        return False


def online(route: Path = Path("/proc/net/route")) -> bool:
    """Tell whether the host has an IPv4 default route (proc_pid_net(5): destination and mask are zero)."""
    try:
        rows = [line.split() for line in route.read_text().splitlines()[1:]]
    except OSError:
        return False
    return any(len(row) > 7 and row[1] == "00000000" and row[7] == "00000000" for row in rows)
