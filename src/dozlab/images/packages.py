"""Debian's package lists and packages in the cache: kept by every build, and what one without a network lacks.

Lists and packages are apt's own files: signatures were checked when they were fetched, and apt holds each package to
its list again. Sources: apt-get(8) (--print-uris names what is not in the cache yet), apt-patterns(7).
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from dozlab.images.recipe import Recipe
from dozlab.lib import debs
from dozlab.lib.files import locked
from dozlab.lib.proc import run


def archives(cache: Path, suite: str) -> Path:
    """Return the folder of a suite's packages."""
    return cache / "debs" / suite


def lists(cache: Path, suite: str) -> Path:
    """Return the folder of a suite's lists, as of the last build."""
    return cache / "debs" / f"{suite}.lists"


@contextlib.contextmanager
def lock(cache: Path, suite: str) -> Iterator[None]:
    """Hold a suite's packages and lists: one build at a time uses them."""
    folder = archives(cache, suite)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "dozlab.lock"):
        yield


def keep_lists(made: Path, cache: Path, suite: str) -> None:
    """Put the lists of a build that has succeeded into the cache. The lock is held."""
    for each in ("partial", "auxfiles"):
        shutil.rmtree(made / each, ignore_errors=True)
    (made / "lock").unlink(missing_ok=True)
    shutil.rmtree(lists(cache, suite), ignore_errors=True)
    shutil.move(made, lists(cache, suite))


def missing(recipe: Recipe, cache: Path) -> list[str]:
    """Return one line per package that a build without a network lacks; one for the lists where they are not there.

    :raises DozlabError: apt's last words, when the lists do not know a package
    """
    known, there = lists(cache, recipe.suite), archives(cache, recipe.suite)
    if not known.is_dir():
        return [f"the package lists of Debian {recipe.suite}: not in {known}"]
    with lock(cache, recipe.suite), tempfile.TemporaryDirectory(prefix="dozlab-apt.") as folder:
        private = Path(folder)
        (private / "status").touch()
        (private / "sources.list").write_text(f"deb [signed-by={debs.KEYRING}] {debs.mirror()} {recipe.suite} main\n")
        settings = {
            "Dir::Etc::SourceList": private / "sources.list", "Dir::Etc::SourceParts": "/dev/null",
            "Dir::Etc::Preferences": "/dev/null", "Dir::Etc::PreferencesParts": "/dev/null", "Dir::State": private,
            "Dir::State::Lists": known.resolve(), "Dir::State::Status": private / "status", "Dir::Cache": private,
            "Dir::Cache::Archives": there.resolve(), "Debug::NoLocking": "1", "APT::Install-Recommends": "false",
        }  # fmt: skip
        options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
        listed = run(
            ["apt-get", "-q", "-y", *options, "--print-uris", "install", *wanted(recipe)], timeout=120
        )  # fmt: skip
    return [f"{name}: not in {there}" for name in names(listed.out)]


def wanted(recipe: Recipe) -> list[str]:
    """Return what a build installs: the variant's set, as mmdebstrap(1) says it, and the recipe's own. Pure."""
    base = ["?essential", "apt"] if recipe.lean else ["?essential", "?priority(required)", "?priority(important)"]
    return [*base, *recipe.packages]


def names(uris: str) -> list[str]:
    """Return the file names from lines of `'URI' NAME SIZE HASH`. Pure."""
    return [unquote(line.split()[1]) for line in uris.splitlines() if line.startswith("'")]
