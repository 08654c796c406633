"""From a recipe to a base image in the store: mmdebstrap, the recipe's files, `mke2fs -d`, digest.

As root mmdebstrap works in a folder; as an ordinary user it works in a user namespace (subuids) and gives a tar,
which is unpacked and made into the image inside a user namespace again: `mke2fs -d` records the owners it sees.
Needs: mmdebstrap, e2fsprogs, and uidmap for ordinary users. Sources: mmdebstrap(1), mke2fs(8), unshare(1).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from dozlab.images import collect, logged, overlay, packages
from dozlab.images.importing import sourced
from dozlab.images.making.filesystem import EPOCH, image_from_tree, mke2fs_argv
from dozlab.images.making.work import as_root, work_folder
from dozlab.images.recipe import Recipe, find, load
from dozlab.images.store import Manifest, Store, sha256_file
from dozlab.lib import debs, paths
from dozlab.lib.errors import DozlabError
from dozlab.lib.proc import need, run
from dozlab.lib.units import MIB, format_seconds, format_size

BUILD_TIMEOUT = 1800.0
FORMAT = 1
"""Counts up when the same recipe is to give another image."""
_TOLD = ("running apt-get update", "downloading packages", "extracting", "installing", "check: ")
_ROOM = 4096 * MIB  # what a build needs at most: packages, the unpacked system and the image

Progress = Callable[[str], None]
log = logging.getLogger(__name__)


def build(
    name_or_dir: str | Path,
    *,
    store: Store,
    progress: Progress = log.info,
    cache: Path | None = None,
    again: bool = False,
    network: bool = True,
    pull: sourced.Pull | None = None,
) -> Manifest:
    """Build a base image and put it into the store under the recipe's name; return its manifest.

    An image that was built from the very same recipe is taken as it is, unless `again`.

    :param progress: called with a line per step, and now and then within a long one
    :param cache: folder for what is downloaded (default `~/.cache/dozlab`)
    :param network: False: only with what is in the cache
    :param pull: fetches a registry's image, for a recipe with one as its source
    :raises BadUsage: for a faulty recipe
    :raises DozlabError: when a program is missing, the network or the disk fails, a check fails, the image is too
        large, or (a line each) files are not in the cache
    """
    recipe = load(find(name_or_dir))
    if recipe.source:
        sourced.check(recipe)
    identity = recipe_id(recipe)
    there = store.by_name(recipe.name)
    if there and there.recipe == identity and not again:
        progress(f"{recipe.name}: already built from this recipe (--again builds it anew, with newer packages)")
        return there
    cache = cache or paths.cache()
    if not recipe.source:
        _need_programs()
    if not network and (missing := [*collect.missing(recipe, cache), *_missing(recipe, cache)]):
        lines = "\n".join(f"{recipe.name}: {line}" for line in missing)
        raise DozlabError(lines, hint="build it once with a network")
    started = time.monotonic()
    steps = _Steps(recipe, progress)
    with work_folder(cache, "build") as work, store.begin() as image:
        _check_room(work)
        if steps.collects:
            steps.next("downloads and generated files")
        extra = work / "extra.tar"
        found = collect.collect(recipe, cache, work, progress=progress, network=network)
        with extra.open("wb") as out:
            overlay.write_tar(out, recipe, found.pieces, found.containers)
        if source := recipe.source:
            steps.next(f"the system of {source.at if source.kind == 'oci' else source.path}")
            tree, installed = sourced.unpack(recipe, source, work, extra, pull=pull, progress=progress)
            found.parts.append(sourced.part(recipe, source))
        else:
            steps.next(f"Debian {recipe.suite}, {len(recipe.packages)} packages and what they need")
            tree, installed = _bootstrap(recipe, work, cache, extra, progress, network=network)
        extra.unlink()
        steps.next(f"file system of {len(installed)} packages" if installed else "file system")
        image_from_tree(tree, image, label=recipe.name, headroom=recipe.headroom)
        size = image.stat().st_size
        if size > recipe.size_limit:
            limit = format_size(recipe.size_limit)
            raise DozlabError(
                f"{recipe.name} came out at {format_size(size)}, over its size_limit of {limit}",
                hint="take packages out of the recipe or raise the limit",
            )
        steps.next(f"digest of {format_size(size)}")
        manifest = store.commit(
            image, sha256_file(image), name=recipe.name, packages=installed, recipe=identity, kernel=recipe.modules,
            cpus=recipe.cpus, memory=recipe.memory, parts=tuple(found.parts),
        )  # fmt: skip
    progress(f"{recipe.name}: sha256 {manifest.digest} ({format_seconds(time.monotonic() - started)})")
    return manifest


def recipe_id(recipe: Recipe) -> str:
    """Return a digest over all of a recipe that makes an image what it is, with the recipes that it extends.

    Boot checks are not in it: they change no image.

    :raises DozlabError: when the `key` of a `[[generate]]` cannot be had, or a file cannot be read
    """
    nowhere = Path("/")
    told = {
        "format": FORMAT,
        "bootstrap": mmdebstrap_argv(
            recipe, mirror="", keyring=nowhere, target=nowhere, root=True, archives=nowhere, extra=nowhere,
            packages_out=nowhere, lists=nowhere, apt_options={}, lean=overlay.lean_patterns() if recipe.lean else [],
        ),
        "image": [recipe.size_limit, recipe.headroom, mke2fs_argv(nowhere, nowhere, 0, label=recipe.name)[1:]],
        "downloads": [asdict(each) for each in recipe.downloads],
        "generate": [[each.name, each.run, each.always, collect.key(each)] for each in recipe.generate],
        "containers": recipe.containers,
        "machine": [recipe.cpus, recipe.memory, recipe.modules],
    }  # fmt: skip
    if recipe.source:
        told["source"] = sourced.key(recipe.source)
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    overlay.write_tar(_Hashing(digest), recipe, containers=collect.own_containers(recipe))
    return digest.hexdigest()


def _missing(recipe: Recipe, cache: Path) -> list[str]:
    if recipe.source is None:
        return packages.missing(recipe, cache)
    return [f"{recipe.source.at}: is fetched by each build"] if recipe.source.kind == "oci" else []


class _Hashing:
    """A file that is only hashed."""

    def __init__(self, digest: hashlib._Hash) -> None:
        self._digest = digest

    def write(self, data: bytes) -> None:
        self._digest.update(data)


class _Steps:
    """Says which step of how many begins."""

    def __init__(self, recipe: Recipe, progress: Progress) -> None:
        self.collects = bool(recipe.downloads or any(each.always for each in recipe.generate))
        self._recipe, self._progress, self._at = recipe, progress, 0

    def next(self, text: str) -> None:
        self._at += 1
        self._progress(f"{self._recipe.name}: {self._at}/{3 + self.collects} {text}")


def _need_programs() -> None:
    for program, package in (("mmdebstrap", "mmdebstrap"), ("mke2fs", "e2fsprogs"), ("tar", "tar")):
        need(program, package)
    need("unshare", "util-linux")
    if os.geteuid() != 0:
        need("newuidmap", "uidmap")


def mmdebstrap_argv(
    recipe: Recipe, *, mirror: str, keyring: Path, target: Path, root: bool, archives: Path, extra: Path,
    packages_out: Path, lists: Path, apt_options: dict[str, str], lean: list[str], network: bool = True,
) -> list[str]:  # fmt: skip
    """Return mmdebstrap's command line. Pure.

    :param extra: tar laid over the system (`overlay.build_tar`), holding `/.dozlab-build/customize`
    :param packages_out: host file for the list of installed packages
    :param lists: folder for apt's package lists, to be taken from there without a network
    """
    argv = [
        "mmdebstrap",
        f"--mode={'root' if root else 'unshare'}",
        f"--format={'directory' if root else 'tar'}",
        "--variant=important" if not recipe.lean else "--variant=apt",
        f"--include={','.join(recipe.packages)}",
        f"--keyring={keyring}",
        # Keep the downloaded packages until they are copied out.
        f"--skip=essential/unlink{'' if network else ',update'}",
        '--aptopt=APT::Install-Recommends "false"',
        '--aptopt=Acquire::Languages "none"',
        '--aptopt=Acquire::Retries "3"',
    ]
    argv += [f'--aptopt={name} "{value}"' for name, value in apt_options.items()]
    if lean:
        argv += [f"--dpkgopt=path-exclude={pattern}" for pattern in lean]
        argv += ["--dpkgopt=path-include=/usr/share/doc/*/copyright"]
    argv += [f"--dpkgopt=path-exclude={pattern}" for pattern in recipe.exclude]
    argv += [
        '--setup-hook=mkdir -p "$1"/var/cache/apt/archives',
        f"--setup-hook=sync-in {archives} /var/cache/apt/archives",
        f"--customize-hook=sync-out /var/cache/apt/archives {archives}",
        *_lists_hooks(lists, network),
        f"--customize-hook=tar-in {extra} /",
        '--customize-hook=chroot "$1" /.dozlab-build/customize',
        f"--customize-hook=download /.dozlab-build/packages {packages_out}",
        '--customize-hook=unshare --net -- chroot "$1" /.dozlab-build/check',
        '--customize-hook=rm -rf "$1"/.dozlab-build',
    ]
    # A mirror that is old enough to have expired is still a signed one; the signature stays checked.
    source = f"deb {mirror} {recipe.suite} main"
    return [*argv, recipe.suite, str(target), source]


def _lists_hooks(lists: Path, network: bool) -> list[str]:
    if network:
        return [f"--customize-hook=sync-out /var/lib/apt/lists {lists}"]
    return ['--setup-hook=mkdir -p "$1"/var/lib/apt/lists', f"--setup-hook=sync-in {lists} /var/lib/apt/lists"]


def host_apt_options(dump: str) -> dict[str, str]:
    """Return the host's proxy, TLS and validity options from `apt-config dump`. Pure."""
    kept = {}
    for line in dump.splitlines():
        name, _, value = line.rstrip(";").partition(" ")
        value = value.strip('"')
        lower = name.lower()
        wanted = lower.startswith(("acquire::http", "acquire::check-valid-until", "acquire::check-date"))
        if wanted and value and "::pipeline" not in lower and '"' not in value and "proxy-auto" not in lower:
            kept[name] = value
    return kept


def parse_packages(text: str) -> dict[str, str]:
    """Return name -> version from lines of `name TAB version`. Pure."""
    return dict(line.split("\t", 1) for line in text.splitlines() if "\t" in line)


def _bootstrap(
    recipe: Recipe, work: Path, cache: Path, extra: Path, progress: Progress, *, network: bool
) -> tuple[Path, dict[str, str]]:  # fmt: skip
    """Return the folder of the finished system, and its packages."""
    root = os.geteuid() == 0
    archives, listed = packages.archives(cache, recipe.suite), work / "packages"
    lists = work / "lists" if network else packages.lists(cache, recipe.suite)
    lists.mkdir(parents=True, exist_ok=True)
    lean = overlay.lean_patterns() if recipe.lean else []
    tree = work / "tree"
    target = tree if root else work / "tree.tar"
    argv = mmdebstrap_argv(
        recipe, mirror=debs.mirror(), keyring=debs.KEYRING, target=target, root=root, archives=archives, extra=extra,
        packages_out=listed, lists=lists, lean=lean, network=network,
        apt_options=host_apt_options(run(["apt-config", "dump"]).out),
    )  # fmt: skip
    (work / "tmp").mkdir()
    (work / "tmp").chmod(0o1777)  # mmdebstrap's own root is one of our subuids
    env = {"SOURCE_DATE_EPOCH": EPOCH, "TMPDIR": str(work / "tmp"), "LC_ALL": "C.UTF-8"}
    with packages.lock(cache, recipe.suite):
        try:
            logged.run(
                argv, work / "mmdebstrap.log", name="mmdebstrap", timeout=BUILD_TIMEOUT, env=env, doing=doing,
                progress=lambda step: progress(f"{recipe.name}: {step}"),
            )  # fmt: skip
        except logged.Failed as error:
            raise DozlabError(f"mmdebstrap failed: {reason(error.output)}") from error
        if network:
            packages.keep_lists(lists, cache, recipe.suite)
    if not root:
        tree.mkdir()
        # Device nodes cannot be made in a user namespace, nor are they wanted: the kernel fills /dev (devtmpfs).
        # Attributes: file capabilities, such as ping's.
        unpack = ["tar", "-xf", str(target), "--numeric-owner", "--xattrs", "--xattrs-include=*", "--exclude=./dev/*"]
        run([*as_root(), *unpack, "-C", tree], timeout=BUILD_TIMEOUT)
        target.unlink()
    return tree, parse_packages(listed.read_text())


def doing(log_text: str) -> str:
    """Return what mmdebstrap is at, from its output so far; hooks are ours and of no interest. Pure."""
    steps = [line[3:].rstrip(". ") for line in log_text.splitlines() if line.startswith("I: ")]
    told = [step for step in steps if step.startswith(_TOLD)]
    return told[-1].removeprefix("running ") if told else ""


def reason(log_text: str) -> str:
    """Return the one line of mmdebstrap's output that says why. Pure."""
    lines = [line.strip() for line in log_text.splitlines() if line.strip()]
    if failed := [line for line in lines if line.startswith("E: the image fails")]:
        return failed[0].removeprefix("E: ")
    for mark in ("No space left on device", "Unable to locate package", "has no installation candidate", "E: ", "Err:"):
        for line in lines:
            if mark in line and "run_chroot" not in line:
                return "the disk is full" if mark.startswith("No space") else line.removeprefix("E: ")
    return lines[-1] if lines else "no output"


def _check_room(work: Path) -> None:
    free = shutil.disk_usage(work).free
    if free < _ROOM // 2:
        raise DozlabError(
            f"building needs {format_size(_ROOM // 2)} of free space in {work.parent}, {format_size(free)} there"
        )
