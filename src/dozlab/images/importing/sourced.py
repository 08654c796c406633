"""A recipe's `[source]`: a container image is the system, the recipe's own files are its last layer."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from dozlab.images import logged
from dozlab.images.entry import Part
from dozlab.images.importing import archive, base, dockerfile
from dozlab.images.importing.archive import Layer
from dozlab.images.making.work import as_root
from dozlab.images.recipe import Recipe, Source
from dozlab.lib.errors import BadUsage, DozlabError
from dozlab.lib.proc import need, run

ADAPT_TIMEOUT = 1800.0
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_KEPT = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "SETGID", "SETUID", "KILL", "SETFCAP")
"""Capabilities (capabilities(7)) of what runs in the system: none that reaches out of it."""

Progress = Callable[[str], None]
Pull = Callable[[str, Path, int], None]
"""Writes a registry's image as an OCI layout: address, folder to make, most bytes of its layers."""


def check(recipe: Recipe) -> None:
    """Raise when a program is not installed, or what the recipe names is not there."""
    base.check_programs()
    need("bwrap", "bubblewrap")
    source = recipe.source
    if source is None or source.kind == "oci":
        return
    there = (source.path / "Dockerfile").is_file() if source.kind == "dockerfile" else source.path.exists()
    if not there:
        what = "no Dockerfile in" if source.kind == "dockerfile" else "no such file:"
        raise BadUsage(f"{recipe.name}: source.{source.kind}: {what} {source.path}")


def key(source: Source) -> list[str]:
    """Return what changes when the source does; a registry's image counts as the same while its address is."""
    if source.kind == "oci":
        return [source.kind, source.at]
    digest = hashlib.sha256()
    for path in [source.path] if source.path.is_file() else sorted(source.path.rglob("*")):
        told = path.lstat()
        digest.update(f"{path.relative_to(source.path)}\0{told.st_mode}\0".encode())
        if path.is_symlink():
            digest.update(os.fsencode(path.readlink()))
        elif path.is_file():
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return [source.kind, source.at, digest.hexdigest()]


def part(recipe: Recipe, source: Source) -> Part:
    """Return what the list of the image's contents says of it. Pure."""
    if source.kind == "oci":
        return Part(source.at.rpartition("/")[2], to="/", url=source.at)
    by = "docker build" if source.kind == "dockerfile" else "an archive"
    return Part(recipe.name if source.at == "." else source.at.rpartition("/")[2], to="/", by=f"{by}: {source.at}")


def unpack(
    recipe: Recipe, source: Source, work: Path, extra: Path, *, pull: Pull | None, progress: Progress
) -> tuple[Path, dict[str, str]]:  # fmt: skip
    """Return the folder of the finished system, and its packages.

    :param extra: tar that is laid over (`overlay.write_tar`)
    :raises DozlabError: when the source cannot be had, lacks what a machine needs, or fails a check of the recipe
    """
    most = base.OVERLAP * recipe.size_limit
    contents = archive.read(_fetch(recipe, source, work, most, pull), work / "archive.tar", most)
    own = Layer(str(extra), 0, extra.stat().st_size, whiteouts=False)
    tree = work / "tree"
    tree.mkdir()
    contents = replace(contents, layers=(*contents.layers, own))
    found = base.unpack(contents, tree, most, lambda line: progress(f"{recipe.name}: {line}"))
    base.check(found, source.at if source.kind == "oci" else str(source.path))
    _adapt(recipe, tree, work, progress)
    return tree, found.packages


def _fetch(recipe: Recipe, source: Source, work: Path, most: int, pull: Pull | None) -> Path:
    if source.kind == "archive":
        return source.path
    path = work / "source"
    if source.kind == "dockerfile":
        dockerfile.save(source.path, path, work)
    elif pull is None:
        raise DozlabError(f"{recipe.name}: {source.at}: is fetched by dozlab image build")
    else:
        pull(source.at, path, most)
    return path


def argv(tree: Path) -> list[str]:
    """Return the command that runs `adapt` in a system: its root, no network, nothing of this machine. Pure."""
    capabilities = [word for name in _KEPT for word in ("--cap-add", f"CAP_{name}")]
    return [
        *as_root(), need("bwrap", "bubblewrap"), "--bind", str(tree), "/", "--dev", "/dev", "--proc", "/proc",
        "--tmpfs", "/run", "--unshare-net", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--die-with-parent",
        "--new-session", "--clearenv", "--setenv", "PATH", _PATH, "--setenv", "SYSTEMD_OFFLINE", "1",
        "--cap-drop", "ALL", *capabilities, "/bin/sh", "/.dozlab-build/adapt",
    ]  # fmt: skip


def _adapt(recipe: Recipe, tree: Path, work: Path, progress: Progress) -> None:
    def doing(text: str) -> str:
        steps = [line[3:] for line in text.splitlines() if line.startswith("I: ")]
        return steps[-1] if steps else ""

    try:
        logged.run(
            argv(tree), work / "adapt.log", name="the recipe's own steps", timeout=ADAPT_TIMEOUT, doing=doing,
            progress=lambda step: progress(f"{recipe.name}: {step}"),
        )  # fmt: skip
    except logged.Failed as error:
        reasons = [line[3:] for line in error.output.splitlines() if line.startswith("E: ")]
        raise DozlabError(f"{recipe.name}: {reasons[0]}") if reasons else error from error
    run([*as_root(), "rm", "-rf", "--one-file-system", tree / ".dozlab-build"], timeout=60)
