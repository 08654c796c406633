"""Checks of the tap before a VMM opens it: each fault as one clear line, where a VMM would say EPERM or make a new one.

Source: Linux Documentation/networking/tuntap.rst, netdevice(7).
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import socket
import struct
import time
from pathlib import Path

from dozlab.lib.errors import DozlabError

_TUNSETIFF = 0x400454CA
_SIOCGIFFLAGS = 0x8913
_SIOCGIFMTU = 0x8921
_IFF_UP = 0x1
_TAP_FLAGS = 0x0002 | 0x1000 | 0x4000  # IFF_TAP | IFF_NO_PI | IFF_VNET_HDR: what both VMMs ask for
ETHERNET_MTU = 1500
_TUN = "/dev/net/tun"
_SETUP = "run network-setup first"


def guest_mac(shared: Path) -> str:
    """Return the guest's MAC address out of network.json: network-setup decides on it.

    :raises DozlabError: when the file is not there or is not network-setup's
    """
    path = shared / "network.json"
    try:
        return str(json.loads(path.read_text())["mac"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DozlabError(f"{path} does not tell the guest's MAC address", hint=_SETUP) from error


async def wait_set_up(shared: Path, tap: str, seconds: float) -> None:
    """Return when network-setup has made the tap and written network.json, its last step, or after `seconds`.

    In a Pod with a new sandbox the file is there from before, and the tap is what one waits for.
    Nothing is raised: what is missing then is found, and named, by `check_tap`.
    """
    deadline = time.monotonic() + seconds
    file = shared / "network.json"
    while time.monotonic() < deadline and not (_exists(tap) and file.exists()):  # noqa: ASYNC110  (another process)
        await asyncio.sleep(0.02)


def _exists(name: str) -> bool:
    try:
        socket.if_nametoindex(name)
    except OSError:
        return False
    return True


def check_tap(name: str) -> None:
    """Check that the tap exists, is up, is ours to open and is free.

    :raises DozlabError: naming what is wrong and what to do
    """
    if not _exists(name):
        raise DozlabError(f"tap device {name} does not exist in this network namespace", hint=_SETUP)
    if not _flags(name) & _IFF_UP:
        raise DozlabError(f"tap device {name} is down", hint=_SETUP)
    try:
        fd = os.open(_TUN, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise DozlabError(
            f"cannot open {_TUN}: {error.strerror}", hint=f"run: sudo chmod 0666 {_TUN} (or give it to this user)"
        ) from error
    try:
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _TAP_FLAGS))
    except OSError as error:
        raise DozlabError(_why_not(name, error), hint="" if error.errno == errno.EBUSY else _SETUP) from error
    finally:
        os.close(fd)


def mtu(name: str) -> int:
    """Return the device's MTU in bytes."""
    return int(struct.unpack_from("i", _ask(name, _SIOCGIFMTU), 16)[0])


def _flags(name: str) -> int:
    return int(struct.unpack_from("H", _ask(name, _SIOCGIFFLAGS), 16)[0])


def _ask(name: str, request: int) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        return fcntl.ioctl(sock, request, struct.pack("16s24x", name.encode()))


def _why_not(name: str, error: OSError) -> str:
    if error.errno == errno.EBUSY:
        return f"tap device {name} is in use by another process"
    if error.errno == errno.EPERM:
        return f"tap device {name} belongs to another user than uid {os.getuid()} (TAP_UID)"
    if error.errno == errno.EINVAL:
        return f"{name} is not a plain tap device (a tun, a multi-queue tap, or something else)"
    return f"cannot open tap device {name}: {error.strerror}"
