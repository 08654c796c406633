"""The whole way: what a source holds is unpacked, checked, made into a base image and put into the store."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dozlab.images.importing import archive
from dozlab.images.importing.archive import Contents
from dozlab.images.importing.system import FOR_DOCKER, Facts
from dozlab.images.making.filesystem import image_from_tree
from dozlab.images.making.work import as_root, work_folder
from dozlab.images.store import Manifest, Store, sha256_file
from dozlab.lib.errors import BadUsage, DozlabError
from dozlab.lib.proc import die_with_parent, need
from dozlab.lib.units import GIB, format_seconds, format_size

SIZE_LIMIT = 4 * GIB
HEADROOM = 16 << 20
"""Bytes left free in the file system, which is mounted read-only."""

Progress = Callable[[str], None]
OVERLAP = 4
"""Layers may write what later ones replace: so many times the limit are unpacked at most."""
_NAME = re.compile(r"[^a-z0-9.-]+")

_PACKAGES = {
    "debian": {"systemd": "systemd systemd-sysv", "udev": "udev", "sshd": "openssh-server", "merged-usr": "usrmerge",
               "sh": "dash", "iptables": "iptables", "modprobe": "kmod"},
    "fedora": {"systemd": "systemd", "udev": "systemd-udev", "sshd": "openssh-server", "sh": "bash",
               "iptables": "iptables-nft", "modprobe": "kmod"},
    "suse": {"systemd": "systemd-sysvinit", "udev": "udev", "sshd": "openssh-server", "sh": "bash",
             "iptables": "iptables", "modprobe": "kmod"},
    "arch": {"systemd": "systemd-sysvcompat", "udev": "systemd", "sshd": "openssh", "sh": "bash",
             "iptables": "iptables", "modprobe": "kmod"},
}  # fmt: skip
_INSTALL = {
    "debian": "apt-get update && apt-get install -y --no-install-recommends",
    "fedora": "dnf install -y",
    "suse": "zypper --non-interactive install",
    "arch": "pacman -Sy --noconfirm",
}
_WORDS = {
    "systemd": "systemd as /sbin/init", "udev": "udev", "sshd": "sshd", "sshd.enabled": "an sshd that starts at boot",
    "sshd.root": "an sshd that takes root's key", "sh": "/bin/sh",
    "merged-usr": "a merged /usr (/lib as a link to usr/lib)",
    "iptables": "iptables, which its Docker needs", "modprobe": "modprobe, which its Docker needs",
}  # fmt: skip
_LET_ROOT_IN = (
    r"printf 'PermitRootLogin prohibit-password\nPubkeyAuthentication yes\n' > /etc/ssh/sshd_config.d/00-root.conf"
)
_WITHOUT = {
    "docker": "no Docker in the machine", "python3": "no start from a snapshot", "sshfs": "no files at /workspace",
}  # fmt: skip


def check_programs() -> None:
    """Raise when a program that importing needs is not installed."""
    for program, package in (("mke2fs", "e2fsprogs"), ("du", "coreutils"), ("find", "findutils")):
        need(program, package)
    if os.geteuid() != 0:
        need("newuidmap", "uidmap")
        need("unshare", "util-linux")


def bring(
    source: Path, *, store: Store, cache: Path, name: str, where: str = "", size_limit: int = SIZE_LIMIT,
    progress: Progress,
) -> Manifest:  # fmt: skip
    """Make a base image of what a source holds and put it into the store; return its manifest.

    :param source: an OCI layout, an archive of images, or a root file system's tar
    :param cache: folder for what is unpacked meanwhile
    :param where: how people know the source, where that is not its path
    :param size_limit: most bytes of the finished image
    :param progress: called with one line per step
    :raises BadUsage: when the source is nothing of the kind
    :raises DozlabError: when it is damaged, lacks what a machine needs, or is too large; then nothing is stored
    """
    check_programs()
    begun = time.monotonic()
    most = OVERLAP * size_limit
    with work_folder(cache, "import") as work, store.begin() as image:
        contents = archive.read(source, work / "archive.tar", most)
        count = f", {len(contents.layers)} layers" if len(contents.layers) > 1 else ""
        progress(f"{where or source}: a {contents.kind}{count}")
        tree = work / "tree"
        tree.mkdir()
        found = unpack(contents, tree, most, progress)
        check(found, where or str(source))
        for line in notes(found):
            progress(line)
        image_from_tree(tree, image, label=name, headroom=HEADROOM)
        size = image.stat().st_size
        if size > size_limit:
            raise DozlabError(
                f"{name} came out at {format_size(size)}, over the limit of {format_size(size_limit)}",
                hint="make it smaller or raise --size-limit",
            )
        progress(f"file system of {format_size(size)} ({format_seconds(time.monotonic() - begun)})")
        return store.commit(image, sha256_file(image), name=name, packages=found.packages)


def check(found: Facts, where: str) -> None:
    """Raise with one line that names all that a machine would lack, and how to add it in a Dockerfile. Pure."""
    if found.foreign:
        raise DozlabError(f"{where} is for another processor; a machine is linux/amd64")
    if not found.missing:
        return
    lacks = ", ".join(_WORDS[each] for each in found.missing)
    raise DozlabError(f"{where} lacks what a machine needs: {lacks}", hint=advice(found))


def advice(found: Facts) -> str:
    """Return what to write in a Dockerfile. Pure."""
    if found.family == "alpine":
        return "Alpine has no systemd: build FROM debian or ubuntu"
    known = _PACKAGES.get(found.family)
    if known is None:
        return "begin with an image of Debian or Ubuntu and add: " + ", ".join(
            name for what, name in _PACKAGES["debian"].items() if what in found.missing or what not in FOR_DOCKER
        )
    steps = []
    if packages := [known[each] for each in found.missing if each in known]:
        steps.append(f"{_INSTALL[found.family]} {' '.join(packages)}")
    if "sshd.enabled" in found.missing or ("sshd" in found.missing and found.family != "debian"):
        unit = "ssh" if found.family == "debian" else "sshd"
        steps.append(f"systemctl unmask {unit} && systemctl enable {unit}")
    if "sshd.root" in found.missing:
        steps.append(_LET_ROOT_IN)
    if not steps:
        return "begin with a newer image"
    return "add to its Dockerfile: RUN " + " && ".join(steps)


def notes(found: Facts) -> list[str]:
    """Return a line for each thing that the machine would be better off with. Pure."""
    return [f"the image has no {name}: {_WITHOUT[name]}" for name in found.absent]


def name_for(source: str) -> str:
    """Return a name for the image of a source: the last part of its path or address without endings. Pure.

    :raises BadUsage: when that gives none
    """
    last = source.rstrip("/").rpartition("/")[2].partition("@")[0]
    if source.startswith("oci://"):
        last = last.partition(":")[0]
    last = re.sub(r"(\.(tar|tgz|txz|tbz2?|gz|xz|zst|bz2|oci|docker))+$", "", last.lower())
    name = _NAME.sub("-", last).strip("-.")[:63].strip("-.")
    if not name:
        raise BadUsage(f"no name can be told from {source}; give one with --name")
    return name


def unpack(contents: Contents, tree: Path, most: int, progress: Progress) -> Facts:
    """Let `worker.py` unpack, in a process of its own that cannot leave the folder.

    :raises DozlabError: when a layer is damaged, refused or too large
    """
    job = {
        "tree": str(tree.resolve()), "layers": [asdict(each) for each in contents.layers],
        "environment": contents.environment, "most": most,
    }  # fmt: skip
    argv = [*as_root(), sys.executable, "-m", f"{__package__}.worker"]
    told: dict[str, Any] = {}
    with tempfile.TemporaryFile() as errors, subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, preexec_fn=die_with_parent
    ) as process:  # fmt: skip
        try:
            assert process.stdin and process.stdout
            with contextlib.suppress(BrokenPipeError), process.stdin:
                process.stdin.write(json.dumps(job))
            for line in process.stdout:
                told = json.loads(line)
                if "say" in told:
                    progress(told["say"])
        except BaseException:
            process.kill()
            raise
        process.wait()
        if "fault" in told:
            raise DozlabError(told["fault"], hint=told["hint"])
        if "facts" not in told:
            errors.seek(0)
            last = errors.read().decode(errors="replace").strip().rpartition("\n")[2]
            raise DozlabError(f"unpacking failed: {last or f'exit status {process.returncode}'}")
    facts = told["facts"]
    return Facts(**{**facts, "missing": tuple(facts["missing"]), "absent": tuple(facts["absent"])})
