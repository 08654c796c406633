"""A tar laid into a folder as one layer of an image, or as the whole of it; nothing is ever written outside the folder.

Sources: OCI image-spec 1.1, layer.md (whiteouts, attributes as SCHILY.xattr), tar(5), pax (POSIX.1-2008). Links on the
way to a file are followed inside the folder, as the machine will see them; one that climbs out of it is refused.
Whiteouts hide what lower layers have, never what comes in the same layer, wherever it stands in the tar. Device nodes
are skipped: the kernel fills /dev.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import tarfile
from pathlib import Path
from typing import Any, BinaryIO

from dozlab.lib.errors import DozlabError
from dozlab.lib.units import format_size

WHITEOUT, OPAQUE, RESERVED = ".wh.", ".wh..wh..opq", ".wh..wh."
_XATTR = "SCHILY.xattr."
_KEPT = ("security.capability", "system.posix_acl_", "user.")
_LINKS = 40  # path_resolution(7): ELOOP after so many
_BLOCK = 1 << 20
_ENTRY = 512  # bytes an entry counts beside its data


class _Info(tarfile.TarInfo):
    """A header; a damaged one is an error, where tarfile would take it for the end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Info:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if not buf.strip(b"\0"):  # the end
                raise
            raise tarfile.ReadError(str(error)) from error


def members(stream: BinaryIO) -> tarfile.TarFile:
    """Return the tar in a stream, to be read once from the front.

    :raises tarfile.TarError: when it is none
    """
    return tarfile.open(
        fileobj=stream, mode="r|", bufsize=1 << 16, tarinfo=_Info, encoding="utf-8", errors="surrogateescape"
    )


class Tree:
    """The folder that is being filled.

    :param most: bytes that may be written in all
    """

    def __init__(self, root: Path, most: int) -> None:
        self._root = str(root)
        self._most = self._left = most
        self._fresh: set[str] = set()
        """What this layer has brought, by its path without links."""
        self._known: dict[tuple[str, ...], str] = {}
        self._times: dict[str, int] = {}
        self.entries = 0

    def apply(self, stream: BinaryIO, *, whiteouts: bool) -> None:
        """Lay a tar over what is there.

        :param whiteouts: it is a layer: `.wh.` names hide
        :raises DozlabError: when it is no tar, damaged, or would leave the folder
        """
        self._fresh, self._known, self._times = set(), {}, {}
        try:
            with members(stream) as tar:
                for member in tar:
                    tar.members = []  # type: ignore[attr-defined]  # it keeps them all otherwise
                    self._spend(_ENTRY)
                    try:
                        self._put(tar, member, whiteouts)
                    except OSError as error:
                        raise _failed(error, member) from error
                    self.entries += 1
        except (tarfile.TarError, UnicodeError, ValueError) as error:
            raise DozlabError(f"the archive is damaged: {error}", hint="make or copy it again") from error
        except RecursionError as error:
            raise DozlabError("the archive has folders nested too deep") from error
        for path, when in self._times.items():
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                os.utime(self._at(path), ns=(when, when), follow_symlinks=False)

    def _put(self, tar: tarfile.TarFile, member: tarfile.TarInfo, whiteouts: bool) -> None:
        parts = _parts(member.name, member.name)
        if not parts:
            if member.isdir():
                os.chmod(self._root, stat.S_IMODE(member.mode) | 0o755)  # noqa: S103  (users of the machine enter it)
            return
        name = parts[-1]
        folder = self._folder(parts[:-1], member.name)
        if whiteouts and name.startswith(WHITEOUT):
            if name == OPAQUE:
                self._hide_inside(folder)
            elif not name.startswith(RESERVED):
                hidden = name.removeprefix(WHITEOUT)
                if hidden in ("", ".", ".."):
                    raise _refused(member.name, "hides nothing that could be there")
                self._hide(_join(folder, hidden))
            return
        self._make(tar, member, _join(folder, name))

    def _make(self, tar: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
        at = self._at(path)
        if member.isdir():
            if not _is_dir(at):
                self._remove(path)
                os.mkdir(at, 0o700)
            self._times[path] = _when(member)
        elif member.issym():
            self._remove(path)
            os.symlink(member.linkname, at)
        elif member.islnk():
            parts = _parts(member.linkname, member.name)
            if not parts:
                raise _refused(member.name, "is a hard link to no file")
            source = _join(self._folder(parts[:-1], member.name), parts[-1])
            if source != path:
                os.lstat(self._at(source))
                self._remove(path)
                os.link(self._at(source), at, follow_symlinks=False)
            self._fresh.add(path)
            return
        elif member.isfifo():
            self._remove(path)
            os.mkfifo(at, 0o600)
        elif member.isreg():
            self._remove(path)
            self._write(tar, member, at)
        elif member.isdev():
            return
        else:
            raise _refused(member.name, f"is of an unknown kind ({member.type!r})")
        self._fresh.add(path)
        os.chown(at, member.uid, member.gid, follow_symlinks=False)
        if not member.issym():
            os.chmod(at, stat.S_IMODE(member.mode))
        _attributes(at, member.pax_headers)
        os.utime(at, ns=(_when(member), _when(member)), follow_symlinks=False)

    def _write(self, tar: tarfile.TarFile, member: tarfile.TarInfo, at: str) -> None:
        """Write a file's content; the holes of a sparse one stay holes."""
        opened = tar.extractfile(member)
        assert opened is not None
        source: Any = getattr(opened, "raw")  # noqa: B009  (its buffer asks a stream whether it can seek)
        pieces: list[tuple[int, int]] = getattr(member, "sparse", None) or [(0, member.size)]
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(at, flags, 0o600), "wb", buffering=0) as target:
            for offset, size in pieces:
                self._spend(size)
                source.seek(offset)
                target.seek(offset)
                while size > 0:
                    block = source.read(min(size, _BLOCK))
                    if not block:
                        raise tarfile.ReadError(f"{member.name!r} is cut off")
                    size -= target.write(block)
            target.truncate(member.size)

    def _spend(self, size: int) -> None:
        self._left -= max(size, 0)
        if self._left < 0:
            raise DozlabError(
                f"the archive unpacks to more than {format_size(self._most)}", hint="raise --size-limit if it is right"
            )

    # -- where things are

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}"

    def _folder(self, parts: tuple[str, ...], name: str) -> str:
        """Return the path without links of a folder of the tree, made where it is missing."""
        known = self._known.get(parts)
        if known is not None:
            return known
        todo, done, links = list(reversed(parts)), list[str](), 0
        while todo:
            part = todo.pop()
            if part in ("", "."):
                continue
            if part == "..":
                if not done:
                    raise _refused(name, "lies behind a link that leads out of the image")
                done.pop()
                continue
            at = self._at("/".join([*done, part]))
            try:
                mode = os.lstat(at).st_mode
            except FileNotFoundError:
                os.mkdir(at, 0o755)
                mode = stat.S_IFDIR
            if stat.S_ISLNK(mode):
                links += 1
                if links > _LINKS:
                    raise _refused(name, "lies behind links that go round in circles")
                target = os.readlink(at)
                if target.startswith("/"):
                    done = []
                todo += reversed(target.split("/"))
            elif stat.S_ISDIR(mode):
                done.append(part)
            else:
                raise _refused(name, f"lies in {'/'.join([*done, part])!r}, which is no folder")
        found = self._known[parts] = "/".join(done)
        return found

    def _remove(self, path: str) -> None:
        """Remove what is there, a folder with all of it."""
        at = self._at(path)
        try:
            mode = os.lstat(at).st_mode
        except FileNotFoundError:
            return
        if stat.S_ISDIR(mode):
            self._known.clear()
            shutil.rmtree(at)
        else:
            if stat.S_ISLNK(mode):
                self._known.clear()
            os.unlink(at)

    def _hide(self, path: str) -> None:
        """Remove what lower layers have at a path and below."""
        if _is_dir(self._at(path)):
            self._hide_inside(path)
            if path not in self._fresh:
                with contextlib.suppress(OSError):  # something of this layer is in it
                    os.rmdir(self._at(path))
                    self._known.clear()
        elif path not in self._fresh:
            self._remove(path)

    def _hide_inside(self, folder: str) -> None:
        for name in os.listdir(self._at(folder)):
            self._hide(_join(folder, name))


def _parts(path: str, name: str) -> tuple[str, ...]:
    """Return the parts of a path in an archive. Pure.

    :raises DozlabError: when it starts at the root or climbs
    """
    if path.startswith("/"):
        raise _refused(name, "is an absolute path")
    parts = tuple(part for part in path.split("/") if part not in ("", "."))
    if ".." in parts:
        raise _refused(name, "has .. in it")
    return parts


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _is_dir(at: str) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(at).st_mode)
    except FileNotFoundError:
        return False


def _when(member: tarfile.TarInfo) -> int:
    return int(max(0.0, min(float(member.mtime), 2.0**33))) * 10**9


def _attributes(at: str, headers: Any) -> None:
    """Set capabilities, access lists and user attributes; the others belong to the machine it was made on."""
    for key, value in headers.items():
        name = key.removeprefix(_XATTR)
        if name == key or not name.startswith(_KEPT):
            continue
        try:
            os.setxattr(at, name, value.encode("utf-8", "surrogateescape"), follow_symlinks=False)
        except OSError:
            if name == "security.capability":
                raise


def _refused(name: str, why: str) -> DozlabError:
    return DozlabError(f"the archive is refused: {name!r} {why}")


def _failed(error: OSError, member: tarfile.TarInfo) -> DozlabError:
    if error.errno == errno.ENOSPC:
        return DozlabError("the disk is full", hint="free some space, and import it again")
    if error.errno == errno.EINVAL:
        return DozlabError(
            f"{member.name!r} belongs to {member.uid}:{member.gid}, which is not among your subordinate ids",
            hint="import it as root, or give yourself more of them in /etc/subuid and /etc/subgid",
        )
    if member.islnk() and error.errno == errno.ENOENT:
        return _refused(member.name, f"is a hard link to {member.linkname!r}, which is not there")
    return DozlabError(f"cannot unpack {member.name!r}: {error.strerror}")
