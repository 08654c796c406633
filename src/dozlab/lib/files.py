"""Files that are either whole or absent, whatever happens in between."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import mmap
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


def write_atomic(
    path: Path, data: bytes | str, *, mode: int = 0o644, sync: bool = False, owner: int | None = None
) -> None:
    """Write `data` beside `path` and rename over it, so that readers see the old file or the new one.

    :param mode: permission bits, exact whatever the umask; secrets use 0o600
    :param sync: fsync file and folder, for what must survive a power cut
    :param owner: user and group that it shall belong to, before anybody sees it; None: us
    """
    raw = data.encode() if isinstance(data, str) else data
    # As mkstemp(3) does; the module tempfile takes 0.4 MiB of every long-lived process.
    name = path.parent / f".{path.name}.{os.urandom(8).hex()}"
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(raw)
            file.flush()
            os.fchmod(file.fileno(), mode)
            if owner is not None:
                os.fchown(file.fileno(), owner, owner)
            if sync:
                os.fsync(file.fileno())
        os.rename(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise
    if sync:
        sync_dir(path.parent)


def write_json(path: Path, value: Any, *, mode: int = 0o644, sync: bool = False) -> None:
    """Write `value` as indented JSON, atomically."""
    write_atomic(path, json.dumps(value, indent=2, sort_keys=True) + "\n", mode=mode, sync=sync)


def read_json(path: Path) -> Any:
    """Return the parsed file, or None where it does not exist.

    :raises ValueError: when the file is not JSON
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None


def sync_dir(path: Path) -> None:
    """Flush a folder's own entries (fsync(2): a rename is durable only after this)."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def allocated(path: Path) -> int:
    """Return the bytes a file takes on its disk: fewer than its length where it has holes (stat(2), st_blocks)."""
    return path.stat().st_blocks * 512


def versions(paths: Iterable[str | Path]) -> tuple[tuple[int, int, int], ...]:
    """Return what changes when one of the files does: inode, time (ns) and size; zeros for one that is not there.

    A Kubernetes volume swaps a symbolic link, which stat(2) follows.
    """
    found = []
    for path in paths:
        try:
            status = os.stat(path)
        except OSError:
            found.append((0, 0, 0))
            continue
        found.append((status.st_ino, status.st_mtime_ns, status.st_size))
    return tuple(found)


def scratch(folder: Path, size: int) -> mmap.mmap:
    """Return `size` bytes of memory that is a file without a name: its room is taken now, and free once nobody has it.

    :raises OSError: the folder cannot be written, or has not so much room
    """
    name = folder / f".scratch.{os.urandom(8).hex()}"
    file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        name.unlink()
        os.posix_fallocate(file, 0, size)  # a write to memory that has no room is a SIGBUS
        return mmap.mmap(file, size)
    finally:
        os.close(file)


def copy_sparse(source: Path, target: Path) -> None:
    """Copy a file, holes stay holes; blocks are shared where the file system can (ioctl_ficlone(2)). `target` is new.

    :raises OSError: what went wrong; `target` is gone again
    """
    with source.open("rb") as read, open(target, "xb", opener=_private) as write:
        try:
            _copy_data(read.fileno(), write.fileno(), os.fstat(read.fileno()).st_size)
        except BaseException:
            target.unlink()
            raise


_FICLONE = 0x40049409
_CHUNK = 1 << 20


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _copy_data(read: int, write: int, size: int) -> None:
    with contextlib.suppress(OSError):
        fcntl.ioctl(write, _FICLONE, read)
        return
    os.ftruncate(write, size)
    at = 0
    while at < size:
        try:
            at = os.lseek(read, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole is left
                return
            raise
        end = os.lseek(read, at, os.SEEK_HOLE)
        while at < end:
            done = _copy_range(read, write, end - at, at)
            if not done:
                raise OSError(errno.EIO, "the file became shorter while it was copied")
            at += done


def _copy_range(read: int, write: int, size: int, at: int) -> int:
    try:
        return os.copy_file_range(read, write, size, at, at)
    except OSError as error:
        if error.errno != errno.EXDEV:  # copy_file_range(2): another file system, Linux 5.19 and later
            raise
    return os.pwrite(write, os.pread(read, min(size, _CHUNK), at), at)


def hold(path: Path) -> int | None:
    """Take flock(2) on a file, shared; return a descriptor that has it until it is closed, None where the file is gone.

    Needs no write access. Who removes the file asks for the lock first, alone.
    """
    while True:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            with contextlib.suppress(OSError):  # a file system without locks has nobody who removes either
                fcntl.flock(fd, fcntl.LOCK_SH)
            if os.path.samestat(os.fstat(fd), os.stat(path)):
                return fd
        except FileNotFoundError:
            pass
        os.close(fd)


class Busy(Exception):
    """Another process holds the lock."""


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True, shared: bool = False) -> Iterator[int]:
    """Hold flock(2) on `path` (made when missing); yields the descriptor. The kernel releases it when we die.

    :raises Busy: when `wait` is False and somebody else holds it
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(fd, how | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise Busy(str(path)) from error
        yield fd
    finally:
        os.close(fd)
