"""What is laid over the installed system, as one tar with uid 0 and exact modes.

In this order, the later ones winning: downloads and what commands made (`Piece`), the recipes' `files/`, container
images, and our own hooks.
"""

from __future__ import annotations

import fnmatch
import io
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import IO, Any, Literal, Protocol, cast

from dozlab.images import hello
from dozlab.images.recipe import Recipe
from dozlab.lib.errors import DozlabError

BUILD_DIR = ".dozlab-build"
IMAGES_DIR = "usr/share/dozlab-vm/images"


@dataclass(frozen=True)
class Piece:
    """Something of this host that goes into the image.

    :param kind: a file that becomes `to`; an archive whose members go below `to`; a folder whose content does
    :param mode: of the file
    :param only: members of the archive to take (names or patterns), all where empty
    :param strip: leading parts of their names to leave out
    """

    kind: Literal["file", "archive", "tree"]
    source: Path
    to: str
    mode: int = 0o644
    only: tuple[str, ...] = ()
    strip: int = 0
    leave: tuple[str, ...] = ()
    """Files of the folder that are not laid over."""


class Sink(Protocol):
    """What a tar is written to."""

    def write(self, data: bytes, /) -> Any:
        """Take some bytes."""


def write_tar(out: Sink, recipe: Recipe, pieces: Sequence[Piece] = (), containers: Sequence[Path] = ()) -> None:
    """Write the tar for `mmdebstrap --customize-hook='tar-in ...'`; the same bytes for the same recipe and files.

    :param containers: archives of container images
    :raises DozlabError: when an archive cannot be read or has not what it should
    """
    with tarfile.open(fileobj=cast(IO[bytes], out), mode="w|", format=tarfile.GNU_FORMAT) as tar:
        for piece in pieces:
            _add_piece(tar, piece)
        for folder in recipe.files:
            add_tree(tar, folder)
        if recipe.hello_world or containers:
            _add_dirs(tar, IMAGES_DIR)
        if recipe.hello_world:
            _add(tar, f"{IMAGES_DIR}/hello-world.tar", hello.archive(), 0o644)
        for path in containers:
            _add_file(tar, f"{IMAGES_DIR}/{path.name}", path, 0o644)
        _add_dirs(tar, BUILD_DIR)
        for name in ("adapt" if recipe.source else "customize", "check"):
            _add(tar, f"{BUILD_DIR}/{name}", data_file(name), 0o755)
        _add(tar, f"{BUILD_DIR}/services.enable", _lines(recipe.enable), 0o644)
        _add(tar, f"{BUILD_DIR}/services.mask", _lines(recipe.mask), 0o644)
        _add(tar, f"{BUILD_DIR}/checks", _lines(recipe.build_checks), 0o644)


def add_tree(tar: tarfile.TarFile, folder: Path) -> None:
    """Add every file below a folder: owner root, 0755 where git has the executable bit, else 0644, links as links.

    Folders are not added: tar makes missing ones, and the system's own keep their modes.
    """
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            _add_link(tar, name, str(path.readlink()))
        elif path.is_file():
            _add_file(tar, name, path, 0o755 if path.stat().st_mode & 0o100 else 0o644)


def members(archive: tarfile.TarFile, only: Sequence[str], strip: int) -> Iterator[tuple[tarfile.TarInfo, str]]:
    """Yield the members of an archive that are wanted, each with its name below the target.

    :raises DozlabError: when one would lie outside, or something of `only` is not there
    """
    missing = set(only)
    for member in archive:
        name = member.name.removeprefix("./")
        if name.startswith("/") or ".." in name.split("/"):
            raise DozlabError(f"a member of the archive lies outside of it: {member.name}")
        fits = {pattern for pattern in only if name == pattern or fnmatch.fnmatchcase(name, pattern)}
        missing -= fits
        rest = "/".join(name.split("/")[strip:])
        if rest and (fits or not only):
            yield member, rest
    if missing:
        raise DozlabError(f"the archive has no {', '.join(sorted(missing))}")


def lean_patterns() -> list[str]:
    """Return dpkg's path-exclude patterns for a lean image."""
    return data_file("lean.list").decode().split()


def data_file(name: str) -> bytes:
    """Return a file of the package's `buildfiles/`."""
    return (resources.files("dozlab.images") / "buildfiles" / name).read_bytes()


def _add_piece(tar: tarfile.TarFile, piece: Piece) -> None:
    to = piece.to.strip("/")
    try:
        if piece.kind == "file":
            _add_file(tar, to, piece.source, piece.mode)
        elif piece.kind == "archive":
            _add_archive(tar, piece, to)
        else:
            _add_made(tar, piece, to)
    except (OSError, tarfile.TarError, EOFError) as error:
        raise DozlabError(f"{piece.source.name} for {piece.to} cannot be read: {error}") from error


def _add_archive(tar: tarfile.TarFile, piece: Piece, to: str) -> None:
    with tarfile.open(piece.source) as archive:
        for member, rest in members(archive, piece.only, piece.strip):
            name = f"{to}/{rest}" if to else rest
            if member.issym():
                _add_link(tar, name, member.linkname)
            elif member.isfile() or member.islnk():  # a hard link is given as the file that it is
                file = archive.extractfile(member)
                assert file is not None
                info = tarfile.TarInfo(name)
                info.mode = member.mode & 0o777
                info.size = archive.getmember(member.linkname).size if member.islnk() else member.size
                tar.addfile(info, file)
            elif not member.isdir():
                raise DozlabError(f"{member.name} of {piece.to} is neither a file nor a link")


def _add_made(tar: tarfile.TarFile, piece: Piece, to: str) -> None:
    """Add what a command made: modes kept; of folders those that are empty, or have a mode of their own."""
    for path in sorted(piece.source.rglob("*")):
        relative = path.relative_to(piece.source).as_posix()
        name, mode = f"{to}/{relative}" if to else relative, path.lstat().st_mode & 0o7777
        if relative in piece.leave:
            continue
        if path.is_symlink():
            _add_link(tar, name, str(path.readlink()))
        elif path.is_file():
            _add_file(tar, name, path, mode)
        elif path.is_dir() and (mode != 0o755 or not any(path.iterdir())):
            _add_dir(tar, name, mode)


def _lines(words: tuple[str, ...]) -> bytes:
    return "".join(f"{word}\n" for word in words).encode()


def _add(tar: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), mode
    tar.addfile(info, io.BytesIO(data))


def _add_file(tar: tarfile.TarFile, name: str, path: Path, mode: int) -> None:
    info = tarfile.TarInfo(name)
    with path.open("rb") as file:
        info.size, info.mode = path.stat().st_size, mode
        tar.addfile(info, file)


def _add_link(tar: tarfile.TarFile, name: str, target: str) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    tar.addfile(info)


def _add_dir(tar: tarfile.TarFile, name: str, mode: int) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, mode
    tar.addfile(info)


def _add_dirs(tar: tarfile.TarFile, path: str) -> None:
    parts = path.split("/")
    for count in range(1, len(parts) + 1):
        if count == 1 and parts[0] in ("usr", "etc", "root", "var"):
            continue
        _add_dir(tar, "/".join(parts[:count]), 0o755)
