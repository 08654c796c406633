"""Runs a container of an unpacked image with runc as a Pod does: uid 1000, no capabilities, read-only root.

For checks on a developer's machine and in CI. Needs root and runc. Sources: runtime-spec config.md, runc(8).
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dozlab.lib.proc import die_with_parent, need

FS_GROUP = 1000


@dataclass(frozen=True)
class Conditions:
    """What a container gets beside its image."""

    env: Mapping[str, str] = field(default_factory=dict)
    mounts: Mapping[str, Path] = field(default_factory=dict)
    """Place in the container -> folder here, writable."""
    uid: int = 1000
    capabilities: tuple[str, ...] = ()
    tun: bool = False
    own_network: bool = False


def specification(rootfs: Path, config: Mapping[str, Any], argv: Sequence[str], given: Conditions) -> dict[str, Any]:
    """Return runc's config.json for a command in an image. Pure.

    :param config: the image's configuration; its environment counts, its entry point does not
    """
    inside = dict(entry.split("=", 1) for entry in config["config"].get("Env", []))
    env = {**inside, "HOME": "/nonexistent", **given.env}
    mounts: list[dict[str, Any]] = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666"]},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["mode=1777", "size=64m"]},  # noqa: S108
    ]
    mounts += [
        {"destination": place, "type": "bind", "source": str(folder), "options": ["bind", "rw", "nosuid"]}
        for place, folder in given.mounts.items()
    ]
    kinds = ["pid", "ipc", "uts", "mount", *(["network"] if given.own_network else [])]
    devices = [{"path": "/dev/net/tun", "type": "c", "major": 10, "minor": 200, "fileMode": 0o666, "uid": 0, "gid": 0}]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": given.uid, "gid": given.uid, "additionalGids": [FS_GROUP]},
            "args": list(argv),
            "env": [f"{name}={value}" for name, value in env.items()],
            "cwd": config["config"].get("WorkingDir") or "/",
            "capabilities": {
                name: list(given.capabilities) for name in ("bounding", "effective", "permitted", "inheritable")
            },
            "noNewPrivileges": True,
        },
        "root": {"path": str(rootfs), "readonly": True},
        "hostname": "check",
        "mounts": mounts,
        "linux": {
            "namespaces": [{"type": kind} for kind in kinds],
            "devices": devices if given.tun else [],
            "resources": {"devices": [{"allow": True, "access": "rwm"}] if given.tun else []},
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/sys/firmware"],
            "readonlyPaths": ["/proc/sys", "/proc/sysrq-trigger"],
        },
    }  # fmt: skip


@contextlib.contextmanager
def running(folder: Path, name: str, spec: Mapping[str, Any], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a container while the block lasts; its output goes to `log`. It is ended and removed on every path."""
    runc = [need("runc", "runc"), f"--root={folder / 'runc'}"]
    bundle = folder / f"bundle-{name}"
    bundle.mkdir(parents=True, exist_ok=True)
    (bundle / "config.json").write_text(json.dumps(spec))
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*runc, "run", f"--bundle={bundle}", name], stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
            preexec_fn=die_with_parent, start_new_session=True,
        )  # fmt: skip
        try:
            yield process
        finally:
            if process.poll() is None:
                subprocess.run([*runc, "kill", name, "TERM"], capture_output=True, check=False)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(15)
            subprocess.run([*runc, "delete", "--force", name], capture_output=True, check=False)
            process.wait()


def run(folder: Path, name: str, spec: Mapping[str, Any], timeout: float = 120.0) -> tuple[int, str]:
    """Run a container to its end; return exit status and output."""
    log = folder / f"{name}.log"
    with running(folder, name, spec, log) as process:
        code = process.wait(timeout)
    return code, log.read_text(errors="replace")


def folder_for(path: Path) -> Path:
    """Make a folder as a Pod's emptyDir is under `fsGroup: 1000`: root's, and the group may write; return it."""
    path.mkdir(parents=True, exist_ok=True)
    os.chown(path, 0, FS_GROUP)
    path.chmod(0o2777)
    return path
