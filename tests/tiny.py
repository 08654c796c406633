"""Small base images for tests: an ext4 file system, and machines that lack what a session needs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from dozlab.lib.files import copy_sparse


def small_ext4(folder: Path, name: str = "small.ext4", content: Path | None = None) -> Path:
    """Return a small file system, holding a folder where one is given."""
    path = folder / name
    source = ["-d", str(content)] if content else []
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", *source, str(path), "32M"], check=True)
    return path


def without_init(folder: Path) -> Path:
    """Return an image that has no /sbin/init."""
    return small_ext4(folder, "bare.ext4", _tree(folder / "bare"))


def without_services(folder: Path) -> Path:
    """Return an image that has neither sshd nor Docker: busybox running a shell script that never ends."""
    tree = _tree(folder / "deaf")
    shutil.copy("/bin/busybox", tree / "usr/bin/busybox")
    for name in ("sh", "cat", "chmod", "mkdir", "mv", "rm", "sleep"):
        (tree / "usr/bin" / name).symlink_to("busybox")
    (tree / "usr/sbin/init").write_text("#!/bin/sh\nwhile :; do sleep 1; done\n")
    (tree / "usr/sbin/init").chmod(0o755)
    return small_ext4(folder, "deaf.ext4", tree)


def without_docker(base: Path, folder: Path) -> Path:
    """Return a copy of an image whose Docker is gone, sshd and all else there."""
    path = folder / "no-docker.ext4"
    copy_sparse(base, path)
    for name in ("usr/lib/systemd/system/docker.service", "etc/docker/daemon.json", "usr/bin/dockerd"):
        subprocess.run(["debugfs", "-w", "-R", f"rm /{name}", str(path)], check=True, capture_output=True)
    return path


def _tree(folder: Path) -> Path:
    """Return a folder with a merged /usr."""
    for name in ("usr/lib", "usr/bin", "usr/sbin", "etc", "var/lib", "root", "proc", "sys", "dev", "run", "tmp"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for link in ("lib", "bin", "sbin"):
        (folder / link).symlink_to(f"usr/{link}")
    return folder
