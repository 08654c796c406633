"""Gathers what a recipe brings beside Debian's packages: downloads, what its commands make, container images."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from dozlab.images import downloads, logged
from dozlab.images.entry import Part
from dozlab.images.overlay import Piece
from dozlab.images.recipe import Download, Generate, Recipe
from dozlab.lib.errors import BadUsage
from dozlab.lib.proc import run

RUN_TIMEOUT = 3600.0
KEY_TIMEOUT = 120.0
REPORT = 15.0
"""Seconds between two lines that say a command is still at work."""

Progress = Callable[[str], None]


@dataclass
class Collected:
    """What was gathered: for the tar that is laid over, and for the list of what the image holds."""

    pieces: list[Piece] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    containers: list[Path] = field(default_factory=list)


def collect(recipe: Recipe, cache: Path, work: Path, *, progress: Progress, network: bool = True) -> Collected:
    """Fetch the downloads, run the commands whose files are wanted, and find the container images.

    Downloads with the same `otherwise` are had all, or that command makes what they would have brought.

    :param work: an empty folder for what commands make
    :raises BadUsage: when a container image is nowhere
    :raises DozlabError: when a download is refused or cannot be had, or a command fails
    """
    found, fallen = Collected(), dict[str, str]()
    got: list[tuple[Download, Path, str]] = []
    for download in recipe.downloads:
        if download.otherwise in fallen:
            continue
        try:
            got.append((download, *_download(download, cache, progress, network)))
        except downloads.Unreachable as error:
            if not download.otherwise:
                hint = "check its address and this machine's network"
                raise downloads.Unreachable(error.message, hint=hint) from error
            fallen[download.otherwise] = error.message
    for download, path, sha256 in got:
        if download.otherwise not in fallen:
            found.pieces.append(_piece(download, path))
            found.parts.append(Part(name_of(download), to=download.to, url=download.url, sha256=sha256))
    made = []
    for generate in recipe.generate:
        if why := fallen.get(generate.name):
            progress(f"{recipe.name}: {why}: made here instead, by [[generate]] {generate.name}")
        if generate.always or why:
            made.append(_generated(generate, work, recipe.name, progress))
            found.parts.append(Part(generate.name, to="/", by=" ".join(generate.run)))
    moved = {path: _container(path, recipe, made) for path in recipe.containers}
    found.containers = [found for found, _ in moved.values()]
    for out in made:
        leave = tuple(path for path, (_, where) in moved.items() if where == out)
        found.pieces.append(Piece("tree", out, "/", leave=leave))
    return found


def missing(recipe: Recipe, cache: Path) -> list[str]:
    """Return one line per file that a build without a network lacks; what a command can make instead is not missing."""
    needed = (download for download in recipe.downloads if not download.otherwise)
    return [f"{each.url}: not in {folder(cache)}" for each in needed if not downloads.cached(each, folder(cache))]


def folder(cache: Path) -> Path:
    """Return where downloads are kept."""
    return cache / "downloads"


def own_containers(recipe: Recipe) -> list[Path]:
    """Return the archives of container images that lie in the recipes' folders."""
    places = (
        next((folder / path for folder in reversed(recipe.folders) if (folder / path).is_file()), None)
        for path in recipe.containers
    )
    return [place for place in places if place]


def key(generate: Generate) -> str:
    """Return what tells whether a command would make other files than before; empty where it has no `key`.

    :raises DozlabError: with the command's last words
    """
    if not generate.key:
        return ""
    return run(argv(generate.key, generate), timeout=KEY_TIMEOUT, cwd=checkout()).out


def argv(words: tuple[str, ...], generate: Generate, out: Path | None = None) -> list[str]:
    """Return a command of a recipe with what `{python}`, `{recipe}` and `{out}` stand for. Pure."""
    stands = {"{python}": sys.executable, "{recipe}": str((generate.folder or Path()).absolute()), "{out}": str(out)}
    filled = []
    for word in words:
        for name, value in stands.items():
            word = word.replace(name, value)
        filled.append(word)
    return filled


def checkout() -> Path:
    """Return the folder that a recipe's commands run in."""
    return Path(__file__).resolve().parents[3]


def name_of(download: Download) -> str:
    """Return the last part of a download's address. Pure."""
    return download.url.partition("?")[0].rpartition("/")[2]


def _download(download: Download, cache: Path, progress: Progress, network: bool) -> tuple[Path, str]:
    if network:
        return downloads.fetch(download, folder(cache), progress=progress)
    there = downloads.cached(download, folder(cache))
    if there is None:
        raise downloads.Unreachable(f"{download.url}: not in {folder(cache)}")
    return there


def _piece(download: Download, path: Path) -> Piece:
    kind = "archive" if download.unpack else "file"
    return Piece(kind, path, download.to, download.mode, download.only, download.strip)  # type: ignore[arg-type]


def _container(archive: str, recipe: Recipe, made: list[Path]) -> tuple[Path, Path]:
    """Return where a container image lies and the folder that it was looked for in; the nearest recipe counts."""
    for place in (*reversed(recipe.folders), *made):
        if (place / archive).is_file():
            return place / archive, place
    raise BadUsage(
        f"{recipe.name}: containers.archive: no {archive} in the recipe's folder, and no [[generate]] makes it"
    )


def _generated(generate: Generate, work: Path, name: str, progress: Progress) -> Path:
    """Run a command and return the folder that it has filled."""
    out = work / f"made-{generate.name}"
    out.mkdir()
    progress(f"{name}: [[generate]] {generate.name}")
    logged.run(
        argv(generate.run, generate, out), out.with_suffix(".log"), name=f"generate {generate.name}",
        timeout=RUN_TIMEOUT, progress=lambda step: progress(f"{name}: {generate.name}: {step}"),
        doing=logged.last_line, every=REPORT, env={"PYTHONUNBUFFERED": "1"}, cwd=checkout(),
    )  # fmt: skip
    return out
