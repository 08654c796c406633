"""A guest that boots in a few seconds: the default image with an init of our own, sshd, and no Docker.

Everything else is the product's: kernel, initramfs, identity, and the kit's `adopt` service. It is what the fault tests
boot dozens of times. While it is prepared its clock goes a year wrong, so that whoever begins with it has to set it.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from dozlab.lib.files import copy_sparse

YEAR = 365 * 86400
BALLAST = 48
"""MiB on the session disk of the saved machine: a restored session needs this much room, a booted one does not."""

INIT = f"""#!/bin/sh
export PATH=/run/stand-in:/usr/sbin:/usr/bin
mkdir -p /run/stand-in /run/sshd /dev/pts
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /tmp
cat > /run/stand-in/systemctl <<'END'
#!/bin/sh
[ "$1" != show ] || cat /run/sshd.pid
END
chmod 755 /run/stand-in/systemctl
read -r name < /etc/hostname
case $name in prepare-*)
    now=$(date +%s)
    date -s "@$((now - {YEAR}))" > /dev/null
    dd if=/dev/urandom of=/root/ballast bs=1M count={BALLAST} 2> /dev/null ;;
esac
systemd-socket-activate -l 0.0.0.0:5541 /usr/bin/python3 -I -S /usr/lib/dozlab/adopt.py &
/usr/sbin/sshd -D -o PidFile=/run/sshd.pid &
echo 0 > /proc/sys/kernel/ctrl-alt-del
trap 'for key in s u b; do echo $key > /proc/sysrq-trigger; done' INT
while :; do sleep 1 & wait $!; done
"""


def quick_guest(base: Path, folder: Path) -> Path:
    """Return such an image, made of the default one."""
    path, init = folder / "quick.ext4", folder / "init"
    copy_sparse(base, path)
    init.write_text(INIT)
    commands = [
        *(f"rm /{name}" for name in ("usr/lib/systemd/system/docker.service", "etc/docker/daemon.json")),
        "rm /usr/sbin/init",
        f"write {init} /usr/sbin/init",
        "set_inode_field /usr/sbin/init mode 0100755",
    ]
    done = subprocess.run(
        ["debugfs", "-w", "-f", "-", str(path)], input="\n".join(commands), capture_output=True, text=True, check=True
    )
    assert "not found" not in done.stderr, done.stderr
    return path
