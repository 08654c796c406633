"""What a session's start needs of this machine, checked before anything is made. `doctor` tells more."""

from __future__ import annotations

import os
from pathlib import Path

from dozlab.lib.errors import DozlabError
from dozlab.lib.proc import need
from dozlab.session.host import online
from dozlab.values import Values

TUN = Path("/dev/net/tun")

PROGRAMS = {
    "pasta": "passt",
    "unshare": "util-linux",
    "setpriv": "util-linux",
    "nft": "nftables",
    "mke2fs": "e2fsprogs",
}
EDITOR_PROGRAMS = {"bwrap": "bubblewrap", "/usr/lib/openssh/sftp-server": "openssh-sftp-server"}


def check(values: Values) -> None:
    """Raise the first lack that would make the start fail later and less clearly.

    :raises DozlabError: naming what is missing and the command that fixes it
    """
    for program, package in (PROGRAMS | (EDITOR_PROGRAMS if values.code_server.enabled else {})).items():
        need(program, package)
    if values.firecracker.vmm != "firecracker":
        need("qemu-system-x86_64", "qemu-system-x86")
    check_tun()
    if not online():
        raise DozlabError(
            "this machine has no IPv4 default route, and pasta gives a session its network through one",
            hint="connect it to any network, or add one: sudo ip route add default via ADDRESS",
        )


def check_tun() -> None:
    """Check that a tap can be made.

    :raises DozlabError: no device, or no right to open it
    """
    if not TUN.exists():
        raise DozlabError(f"{TUN} does not exist", hint="run: sudo modprobe tun")
    if os.getuid() != 0 and not os.access(TUN, os.R_OK | os.W_OK):
        raise DozlabError(f"no right to open {TUN}", hint=f"run: sudo chmod 0666 {TUN} (Debian's default)")
