"""The kernel's own count, on a real tap in a network namespace of its own."""

from __future__ import annotations

import subprocess
import sys
from ipaddress import IPv4Address

import pytest

from dozlab.code_server import link

_PROGRAM = """
import fcntl, os, struct, subprocess
from ipaddress import IPv4Address
from dozlab.code_server import link

gateway = IPv4Address("172.16.0.1")

def opened(flags=0x1002 | 0x4000):  # IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", b"tap9", flags))  # TUNSETIFF
    return fd

found = [link.downs(gateway)]
fd = opened()
fcntl.ioctl(fd, 0x400454CB, 1)  # TUNSETPERSIST
subprocess.run(["ip", "addr", "add", "172.16.0.1/24", "dev", "tap9"], check=True)
subprocess.run(["ip", "link", "set", "tap9", "up"], check=True)
found.append(link.downs(gateway))
os.close(fd)  # the VMM has ended
found.append(link.downs(gateway))
fd = opened()  # the next one
found.append(link.downs(gateway))
os.close(fd)
found.append(link.downs(gateway))
print(*found)
"""


@pytest.mark.root
def test_each_vmm_that_ends_is_counted_and_none_that_begins() -> None:
    argv = ["unshare", "--net", sys.executable, "-c", _PROGRAM]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    before, *counts = done.stdout.split()
    assert before == "None", done.stderr
    first = int(counts[0])
    assert [int(count) - first for count in counts] == [0, 1, 1, 2]


def test_no_device_has_that_address() -> None:
    assert link.downs(IPv4Address("192.0.2.77")) is None
