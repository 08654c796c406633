"""`python -m tools.images`: the chart's container images, as OCI archives in the cache, and on their way to a registry.

An image is known by a key over all it is made of: where that has not changed, nothing is built.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from tools import images_builder, images_context, images_oci
from tools.images_context import IMAGES, REPOSITORY, Progress

import dozlab
from dozlab.lib import paths
from dozlab.lib.errors import BadUsage, DozlabError
from dozlab.lib.files import locked, read_json, write_json
from dozlab.lib.proc import need, run
from dozlab.lib.units import format_seconds, format_size

REGISTRY = "ghcr.io/dozlab"
SOURCE = "https://github.com/dozlab/dozlab"
KEPT = 3  # builds of one image that stay in the cache


def say(line: str) -> None:
    """Print a line of progress."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def build_all(
    only: Iterable[str] = (),
    *,
    registry: str = REGISTRY,
    tag: str = dozlab.__version__,
    base: str = "",
    builder: str = "",
    revision: str = "",
    zstd: bool = False,
    again: bool = False,
    progress: Progress = say,
) -> dict[str, Path]:
    """Return name -> OCI archive of every image (or of those named), building what has changed.

    :param base: a base image's reference, or `local`; the default depends on the builder
    :param builder: `docker` or `buildah`; the default is Docker where its daemon answers
    :param revision: put this commit into the label even if that alone makes a new build
    :param zstd: smaller layers, which containerd before 1.5 cannot read
    :param again: build anew, with the packages of today
    :raises DozlabError: one line that says what to do
    """
    wanted = list(only) or list(IMAGES)
    if unknown := [name for name in wanted if name not in IMAGES]:
        raise BadUsage(f"no image {', '.join(unknown)} (there are: {', '.join(IMAGES)})")
    cache = paths.cache() / "images"
    cache.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with locked(cache / "lock"), _work(cache) as folder:
        steps = images_builder.Steps(Path(folder), progress)
        if not builder:
            builder = "docker" if images_builder.docker_answers() else "buildah"
        base = base or (images_builder.PUBLIC_BASE if builder == "docker" else images_builder.LOCAL_BASE)
        archives = {}
        built = 0
        for name in wanted:
            inputs = images_context.gather(IMAGES[name], progress)
            reference = f"{registry}/{name}:{tag}"
            based = images_builder.base_id() if base == images_builder.LOCAL_BASE else base
            key = images_context.key(inputs, (reference, based, dozlab.__version__, revision, str(zstd)))
            archives[name] = archive = cache / key / f"{name}.tar"
            if archive.exists() and not again:
                os.utime(archive)
                progress(f"{name}: nothing has changed ({archive})")
                continue
            if not built:
                progress(f"building with {builder} from {base}")
            built += 1
            maker = images_builder.choose(builder, cache, steps)
            base_reference = maker.base(base, again=again and built == 1)
            context = images_context.prepare(inputs, cache / "context" / name, progress)
            local = f"localhost/dozlab-build/{name}:{key[:16]}"
            labels = {"VERSION": dozlab.__version__, "REVISION": revision or head(), "SOURCE": SOURCE}
            maker.build(context, local, {"BASE": base_reference, **labels}, again=again)
            layout = Path(folder) / name
            maker.export(local, layout, reference, zstd=zstd)
            images_oci.pack(layout, archive, reference)
            shutil.rmtree(layout)
            with images_oci.Archive(archive) as image:
                progress(f"{name}: {format_size(image.size)} in {len(image.layers())} layers, {reference}")
            write_json(cache / key / f"{name}.json", {"reference": reference, "built": int(time.time())})
            forget(cache, name, keep=key)
        if built:
            progress(f"{built} of {len(wanted)} images built in {format_seconds(time.monotonic() - started)}")
    return archives


def push_all(registry: str, archives: dict[str, Path], *, tag: str, plain_http: bool, progress: Progress = say) -> None:
    """Push archives to `registry/NAME:tag`, with the credentials that `skopeo login` or `docker login` has left.

    :raises DozlabError: skopeo's last words
    """
    need("skopeo", "skopeo")
    plain = plain_http or is_local(registry)
    for name, archive in archives.items():
        started = time.monotonic()
        target = f"{registry}/{name}:{tag}"
        argv = ["skopeo", "copy", "--quiet", f"--dest-tls-verify={'false' if plain else 'true'}"]
        run([*argv, f"oci-archive:{archive}", f"docker://{target}"], timeout=1800)
        progress(f"{target} pushed ({format_seconds(time.monotonic() - started)})")


def is_local(registry: str) -> bool:
    """Tell whether a registry is on this machine, where plain HTTP is the custom. Pure."""
    return registry.split("/")[0].split(":")[0] in ("127.0.0.1", "localhost")


def built() -> list[tuple[str, Path]]:
    """Return (name, archive) of every build in the cache, newest first."""
    found = [(path.stem, path) for path in (paths.cache() / "images").glob("*/*.tar") if path.stem in IMAGES]
    return sorted(found, key=lambda each: -each[1].stat().st_mtime)


def forget(cache: Path, name: str, *, keep: str) -> None:
    """Remove all but the newest builds of an image."""
    others = [path for path in cache.glob(f"*/{name}.tar") if path.parent.name != keep]
    for path in sorted(others, key=lambda each: -each.stat().st_mtime)[KEPT - 1 :]:
        shutil.rmtree(path.parent, ignore_errors=True)


def head() -> str:
    """Return the commit that is checked out, with `-dirty` where files differ; empty outside a checkout."""
    found = run(["git", "-C", REPOSITORY, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"], check=False)
    return found.out.strip() if found.code == 0 else ""


def _work(cache: Path) -> tempfile.TemporaryDirectory[str]:
    for leftover in cache.glob("work.*"):  # of a build that was killed: we hold the lock
        shutil.rmtree(leftover, ignore_errors=True)
    return tempfile.TemporaryDirectory(prefix="work.", dir=cache, ignore_cleanup_errors=True)


def _list() -> None:
    for name, archive in built():
        with images_oci.Archive(archive) as image:
            facts = read_json(archive.with_suffix(".json")) or {}
            day = time.strftime("%Y-%m-%d %H:%M", time.localtime(facts.get("built", 0)))
            sys.stdout.write(f"{name}\t{image.reference}\t{format_size(image.size)}\t{day}\t{archive}\n")


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns 0, 1 on failure, 2 on bad usage."""
    parser = argparse.ArgumentParser(prog="tools.images", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--only", action="append", default=[], metavar="NAME", help=f"one of {', '.join(IMAGES)}")
    common.add_argument("--tag", default=dozlab.__version__, help="tag of the reference (default: %(default)s)")
    common.add_argument("--registry", default=REGISTRY, help="registry of the reference (default: %(default)s)")
    common.add_argument("--base", default="", help=f"base image, or `local` (docker: {images_builder.PUBLIC_BASE})")
    common.add_argument("--builder", default="", choices=["", "docker", "buildah"])
    common.add_argument("--zstd", action="store_true", help="smaller layers, which containerd before 1.5 cannot read")
    common.add_argument("--again", action="store_true", help="build anew, with the packages of today")
    commands.add_parser("build", parents=[common], help="build what has changed; prints the archives")
    pushing = commands.add_parser("push", parents=[common], help="build what has changed and push it")
    pushing.add_argument("to", metavar="REGISTRY", help="such as ghcr.io/dozlab or 127.0.0.1:5000")
    pushing.add_argument("--plain-http", action="store_true", help="no TLS (127.0.0.1 and localhost: always)")
    commands.add_parser("list", help="what the cache holds")
    options = parser.parse_args(argv)
    try:
        if options.command == "list":
            _list()
            return 0
        archives = build_all(
            options.only, registry=options.registry, tag=options.tag, base=options.base, builder=options.builder,
            zstd=options.zstd, again=options.again,
        )  # fmt: skip
        if options.command == "push":
            push_all(options.to, archives, tag=options.tag, plain_http=options.plain_http)
        else:
            sys.stdout.write("".join(f"{path}\n" for path in archives.values()))
    except DozlabError as error:
        sys.stderr.write(f"images: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
