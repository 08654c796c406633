"""Name servers out of a resolv.conf(5), as far as a guest behind our NAT can use them. Pure but for the one file."""

from __future__ import annotations

import ipaddress
from pathlib import Path

RESOLV_CONF = Path("/etc/resolv.conf")


def nameservers(text: str, *, loopback: bool = False) -> list[ipaddress.IPv4Address]:
    """Return the IPv4 servers in order, each once.

    :param loopback: keep loopback ones too (systemd-resolved's 127.0.0.53): they mean the host, in a guest the guest
    """
    found: list[ipaddress.IPv4Address] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or words[0] != "nameserver":
            continue
        try:
            address = ipaddress.IPv4Address(words[1])
        except ValueError:
            continue
        if (loopback or not address.is_loopback) and not address.is_unspecified and address not in found:
            found.append(address)
    return found


def host_nameservers(path: Path = RESOLV_CONF) -> list[ipaddress.IPv4Address]:
    """Return `nameservers()` of this machine (or Pod); empty where there is no such file."""
    try:
        return nameservers(path.read_text(errors="replace"))
    except OSError:
        return []
