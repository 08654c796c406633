"""The components' view of the file system: a private tmpfs on /mnt with what each of them may see bound into it.

Runs in the supervisor only, in a mount namespace of its own (unshare(1) --mount): nothing here is visible outside and
the kernel takes it all away when the session ends.
"""

from __future__ import annotations

import ctypes
import os
import stat
from pathlib import Path

from dozlab.lib.errors import DozlabError
from dozlab.session.layout import POD

_libc = ctypes.CDLL(None, use_errno=True)

# mount(2) flags
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC = 1, 2, 4, 32, 4096, 16384


def _mount(source: str, target: Path, kind: str, flags: int, data: str = "") -> None:
    if _libc.mount(source.encode(), os.fsencode(target), kind.encode(), flags, data.encode()) != 0:
        number = ctypes.get_errno()
        raise DozlabError(f"cannot mount {source} on {target}: {os.strerror(number)}")


def _bind(source: Path, name: str, *, read_only: bool) -> None:
    target = POD / name
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    _mount(str(source), target, "", MS_BIND | MS_REC)
    if read_only:
        # A user namespace may not clear flags its parent set (mount_namespaces(7)): keep those the source has.
        kept = os.statvfs(target).f_flag & (os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC | os.ST_NOATIME | 0x400 | 0x800)
        flags = MS_NOSUID | (kept & (os.ST_NODEV | os.ST_NOEXEC))
        for st, ms in ((os.ST_NOATIME, 1024), (0x800, 2048), (0x1000, 1 << 21)):
            flags |= ms if kept & st else 0
        _mount("none", target, "", MS_REMOUNT | MS_BIND | MS_RDONLY | flags)


def set_up(*, writable: dict[str, Path], read_only: dict[str, Path], devices: list[Path]) -> None:
    """Mount the view.

    :param writable: name below /mnt -> folder or file on the host
    :param read_only: the same, mounted read-only
    :param devices: device nodes that the session uid may open, such as /dev/net/tun; only root can give any
    :raises DozlabError: when the kernel refuses a mount
    """
    _mount("tmpfs", POD, "tmpfs", MS_NOSUID, "mode=0755,size=16m")
    for name, source in read_only.items():
        _bind(source, name, read_only=True)
    for name, source in writable.items():
        _bind(source, name, read_only=False)
    for device in devices:
        node = POD / "dev" / device.name
        node.parent.mkdir(exist_ok=True)
        os.mknod(node, stat.S_IFCHR | 0o666, os.stat(device).st_rdev)
        node.chmod(0o666)
        _mount(str(node), device, "", MS_BIND)
