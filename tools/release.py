"""`python -m tools.release [--push REGISTRY]`: images, charts and base images of this version in dist/, with checksums.

What is pushed: `REGISTRY/<image>:<version>` and `REGISTRY/charts/<chart>:<version>`. Base images go to any web server.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tools import images, kubetools
from tools.images import say
from tools.images_context import FIRECRACKER_VARIABLE, REPOSITORY

import dozlab
from dozlab.images import build as base_images
from dozlab.images.export import export
from dozlab.images.store import Manifest, Store, sha256_file
from dozlab.lib import paths
from dozlab.lib.errors import BadUsage, DozlabError
from dozlab.lib.files import write_atomic
from dozlab.lib.proc import run
from dozlab.lib.units import format_seconds, format_size

DIST = REPOSITORY / "dist"
BASES = ("dozlab-vm",)
LEVEL = 12  # of zstd: 3 saves a minute and costs a tenth more to each download
SUMS = "SHA256SUMS"
_OF_IMAGE = re.compile(r"-[0-9a-f]{64}-.*$")
"""What follows the name of an image in the name of its folder in the cache."""


def chart_fault(chart: str, version: str) -> str:
    """Return what is wrong with a Chart.yaml's versions for a release, empty when nothing. Pure."""
    for name in ("version", "appVersion"):
        found = re.search(rf"^{name}:\s*[\"']?([^\s\"']+)", chart, re.MULTILINE)
        if not found or found[1] != version:
            return f"{name} is {found[1] if found else 'missing'}, the release is {version}"
    return ""


def sums(files: dict[str, str]) -> str:
    """Return the text of SHA256SUMS, for `sha256sum --check`. Pure."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(files.items()))


def release_images(dist: Path, registry: str) -> dict[str, Path]:
    """Build every image with the commit that is checked out in its label; put the archives into dist/."""
    archives = images.build_all(registry=registry, revision=images.head())
    for name, archive in archives.items():
        _place(archive, dist / f"{name}-{dozlab.__version__}.oci.tar")
    return archives


def release_charts(dist: Path) -> list[Path]:
    """Package every chart of charts/ and return the packages.

    :raises DozlabError: when a chart is of another version, or helm's last words
    """
    helm = kubetools.ensure().helm
    packages = []
    for folder in sorted(path.parent for path in (REPOSITORY / "charts").glob("*/Chart.yaml")):
        if fault := chart_fault((folder / "Chart.yaml").read_text(), dozlab.__version__):
            raise BadUsage(f"charts/{folder.name}/Chart.yaml: {fault}")
        run([helm, "package", folder, "--destination", dist], timeout=120)
        packages.append(dist / f"{folder.name}-{dozlab.__version__}.tgz")
        say(f"{packages[-1].name}")
    return packages


def release_base(dist: Path, name: str) -> None:
    """Build a base image where its recipe has changed; put it into dist/ in frames, manifest and contents beside it."""
    started = time.monotonic()
    store = Store(paths.cache() / "store")
    manifest = base_images.build(name, store=store, progress=say)
    for path in packed(store, manifest, paths.cache() / "images/packed"):
        _place(path, dist / path.name)
        say(f"{path.name}: {format_size(path.stat().st_size)}")
    say(f"{name}: {format_size(manifest.size)} unpacked ({format_seconds(time.monotonic() - started)})")


def packed(store: Store, manifest: Manifest, cache: Path) -> list[Path]:
    """Return the files of a base image as `dozlab image export` writes them, from the cache where they are there.

    :param cache: what it has of an older image of that name is dropped
    """
    folder = cache / f"{manifest.name}-{manifest.digest}-{dozlab.__version__}"
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        for old in cache.iterdir():
            if _OF_IMAGE.sub("", old.name) == manifest.name:
                shutil.rmtree(old) if old.is_dir() else old.unlink()
        with tempfile.TemporaryDirectory(prefix=".", dir=cache) as made:
            target = Path(made) / "out" / f"{manifest.name}-{dozlab.__version__}.ext4.zst"
            target.parent.mkdir()
            export(store, manifest.digest, target, level=LEVEL)
            target.parent.rename(folder)
    return sorted(folder.iterdir())


def push_charts(packages: list[Path], registry: str, *, plain_http: bool) -> None:
    """Push chart packages to `registry/charts`, with the credentials that `helm registry login` has left.

    :raises DozlabError: helm's last words
    """
    helm = kubetools.ensure().helm
    for package in packages:
        plain = ["--plain-http"] if plain_http or images.is_local(registry) else []
        run([helm, "push", package, f"oci://{registry}/charts", *plain], timeout=300)
        say(f"{registry}/charts/{package.name} pushed")


def write_sums(dist: Path) -> None:
    """Write SHA256SUMS over all that is in dist/."""
    files = {path.name: sha256_file(path) for path in dist.iterdir() if path.is_file() and path.name != SUMS}
    write_atomic(dist / SUMS, sums(files))


def check_firecracker(wanted: str, registry: str) -> None:
    """Refuse to publish anything but Firecracker's official release. Pure.

    :raises BadUsage: when another one is wanted for a registry that is not on this machine
    """
    if registry and wanted not in ("", "release") and not images.is_local(registry):
        raise BadUsage(
            f"{FIRECRACKER_VARIABLE}={wanted} is for tests", hint="unset it: a release carries the official Firecracker"
        )


def _place(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def main(argv: list[str] | None = None) -> int:
    """Make a release; returns 0, 1 on failure, 2 on bad usage."""
    parser = argparse.ArgumentParser(prog="tools.release", description=__doc__)
    parser.add_argument("--push", metavar="REGISTRY", default="", help="such as ghcr.io/dozlab or 127.0.0.1:5000")
    parser.add_argument("--plain-http", action="store_true", help="no TLS (127.0.0.1 and localhost: always)")
    parser.add_argument("--no-bases", action="store_true", help="leave the base images of virtual machines out")
    options = parser.parse_args(argv)
    started = time.monotonic()
    try:
        check_firecracker(os.environ.get(FIRECRACKER_VARIABLE, ""), options.push)
        shutil.rmtree(DIST, ignore_errors=True)
        DIST.mkdir()
        packages = release_charts(DIST)
        archives = release_images(DIST, options.push or images.REGISTRY)
        for name in () if options.no_bases else BASES:
            release_base(DIST, name)
        write_sums(DIST)
        if options.push:
            images.push_all(options.push, archives, tag=dozlab.__version__, plain_http=options.plain_http)
            push_charts(packages, options.push, plain_http=options.plain_http)
    except DozlabError as error:
        sys.stderr.write(f"release: {error}\n")
        return error.exit_code
    say(f"release {dozlab.__version__} is in {DIST} ({format_seconds(time.monotonic() - started)})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
