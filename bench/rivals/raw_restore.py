"""`unshare --net -- python raw_restore.py FOLDER SNAPSHOT ACCEL`: what QEMU alone needs to load a prepared snapshot.

As one would do it by hand: a tap, QEMU with `-incoming`, `cont`. Prints the seconds from QEMU's start until Docker in
the guest answered GET /_ping. FOLDER holds `disk`, a copy of the snapshot's.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

from dozlab.firecracker_vm.machine import Drive, Spec
from dozlab.firecracker_vm.vmm.qemu import QemuOptions, build_argv
from dozlab.images import kit
from dozlab.images.snapshots import Snapshots
from dozlab.images.store import Store
from dozlab.lib import paths
from dozlab.lib.proc import need

GUEST = ("172.16.0.2", 2375)


def docker_answers() -> bool:
    """Tell whether Docker answers."""
    try:
        with socket.create_connection(GUEST, timeout=2) as sock:
            sock.sendall(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")
            return b"200 OK" in sock.recv(4096)
    except OSError:
        return False


def main() -> int:
    """Measure once."""
    folder, snapshot, accel = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    for line in (
        "tuntap add dev tap0 mode tap vnet_hdr",
        "link set tap0 address 06:01:ac:10:00:01",  # what the guest's ARP cache has
        "address add 172.16.0.1/24 dev tap0",
        "link set tap0 up",
    ):
        subprocess.run(["ip", *line.split()], check=True)
    (found,) = (each for each in Snapshots(snapshot.parent).ls() if each.folder == snapshot)
    needs = found.needs
    boot = kit.Kit.load(kit.ensure(paths.cache() / "kit"))
    drives = (
        Drive("vda", Store(paths.cache() / "store").path(str(needs["base"])), True),
        Drive("vdb", boot.disk, True), Drive("vdc", folder / "disk", False),
    )  # fmt: skip
    spec = Spec(boot.vmlinuz, boot.initramfs, str(needs["cmdline"]), drives, int(needs["cpus"]), int(needs["memory"]),
                "tap0", "06:00:ac:10:00:02")  # fmt: skip
    options = QemuOptions(need("qemu-system-x86_64", "qemu-system-x86"), "kvm" if accel == "kvm" else "tcg", "raw")
    ours, theirs = socket.socketpair()
    with found.state.open("rb") as state, ours, theirs:
        argv = build_argv(options, spec, theirs.fileno(), state.fileno())
        begun = time.monotonic()
        child = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=(theirs.fileno(), state.fileno())
        )
        try:
            channel = ours.makefile("rw")

            def ask(verb: str) -> dict[str, object]:
                channel.write(json.dumps({"execute": verb}) + "\n")
                channel.flush()
                while True:
                    answer = json.loads(channel.readline())
                    if "return" in answer:
                        return dict(answer["return"])

            ask("qmp_capabilities")
            while ask("query-status")["status"] == "inmigrate":
                time.sleep(0.01)
            ask("cont")
            while not docker_answers():
                time.sleep(0.05)
            sys.stdout.write(f"{time.monotonic() - begun:.3f}\n")
        finally:
            child.kill()
            child.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
