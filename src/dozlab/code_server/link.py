"""How often the guest's link went down: each VMM that ends closes its tap, and the kernel counts that. No policy here.

This needs no file and no other component: a Pod's editor shares nothing but the network namespace with the VM.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from ipaddress import IPv4Address

_SIOCGIFADDR = 0x8915  # netdevice(7)
_RTM_NEWLINK, _RTM_GETLINK, _NLM_F_REQUEST = 16, 18, 1  # linux/rtnetlink.h, linux/netlink.h
_IFLA_CARRIER_DOWN_COUNT = 48  # linux/if_link.h
_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_LINK = struct.Struct("=BxHiII")  # ifinfomsg: family, type, index, flags, change


def downs(gateway: IPv4Address) -> int | None:
    """Return how often the device with that address lost its carrier; None where there is none (yet)."""
    try:
        index = _index(gateway)
        return None if index is None else _down_count(index)
    except OSError:
        return None


def _index(address: IPv4Address) -> int | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for index, name in socket.if_nameindex():
            try:
                reply = fcntl.ioctl(sock.fileno(), _SIOCGIFADDR, struct.pack("16s24x", os.fsencode(name)))
            except OSError:
                continue  # no IPv4 address
            if reply[20:24] == address.packed:
                return index
    return None


def _down_count(index: int) -> int | None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        sock.settimeout(1.0)
        body = _LINK.pack(0, 0, index, 0, 0)
        sock.send(_HEADER.pack(_HEADER.size + len(body), _RTM_GETLINK, _NLM_F_REQUEST, 1, 0) + body)
        message = sock.recv(65536)
    if _HEADER.unpack_from(message)[1] != _RTM_NEWLINK:
        return None
    at = _HEADER.size + _LINK.size
    while at + 4 <= len(message):
        length, kind = struct.unpack_from("=HH", message, at)
        if kind == _IFLA_CARRIER_DOWN_COUNT:
            return int(struct.unpack_from("=I", message, at + 4)[0])
        at += max(4, (length + 3) & ~3)
    return None
