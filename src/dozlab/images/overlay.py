"""What is laid over the installed system, as one tar with uid 0 and exact modes: the recipe's files and our hooks."""

from __future__ import annotations

import io
import tarfile
from importlib import resources
from pathlib import Path

from dozlab.images import hello
from dozlab.images.recipe import Recipe

BUILD_DIR = ".dozlab-build"
IMAGES_DIR = "usr/share/dozlab-vm/images"


def build_tar(recipe: Recipe) -> bytes:
    """Return the tar for `mmdebstrap --customize-hook='tar-in ...'`; the same bytes for the same recipe and files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        if recipe.files is not None:
            add_tree(tar, recipe.files)
        if recipe.hello_world:
            _add_dirs(tar, IMAGES_DIR)
            _add(tar, f"{IMAGES_DIR}/hello-world.tar", hello.archive(), 0o644)
        _add_dirs(tar, BUILD_DIR)
        _add(tar, f"{BUILD_DIR}/customize", data_file("customize"), 0o755)
        _add(tar, f"{BUILD_DIR}/services.enable", _lines(recipe.enable), 0o644)
        _add(tar, f"{BUILD_DIR}/services.mask", _lines(recipe.mask), 0o644)
    return out.getvalue()


def add_tree(tar: tarfile.TarFile, folder: Path) -> None:
    """Add every file below a folder: owner root, 0755 where git has the executable bit, else 0644, links as links.

    Folders are not added: tar makes missing ones, and the system's own keep their modes.
    """
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, str(path.readlink())
            tar.addfile(info)
        elif path.is_file():
            _add(tar, name, path.read_bytes(), 0o755 if path.stat().st_mode & 0o100 else 0o644)


def lean_patterns() -> list[str]:
    """Return dpkg's path-exclude patterns for a lean image."""
    return data_file("lean.list").decode().split()


def data_file(name: str) -> bytes:
    """Return a file of the package's `buildfiles/`."""
    return (resources.files("dozlab.images") / "buildfiles" / name).read_bytes()


def _lines(words: tuple[str, ...]) -> bytes:
    return "".join(f"{word}\n" for word in words).encode()


def _add(tar: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), mode
    tar.addfile(info, io.BytesIO(data))


def _add_dirs(tar: tarfile.TarFile, path: str) -> None:
    parts = path.split("/")
    for count in range(1, len(parts) + 1):
        if count == 1 and parts[0] in ("usr", "etc", "root", "var"):
            continue
        info = tarfile.TarInfo("/".join(parts[:count]))
        info.type, info.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(info)
