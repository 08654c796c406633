"""`dozlab image export`, `push` and `pull`: base images on their way to and from other machines."""

from __future__ import annotations

import logging
import os
import re
import tempfile
import time
from pathlib import Path

import click

from dozlab.cli import output
from dozlab.lib import paths
from dozlab.lib.errors import BadUsage
from dozlab.lib.units import format_seconds, format_size

auth_file = click.option(
    "--auth-file", type=click.Path(path_type=Path), envvar="IMAGE_AUTH_FILE",
    help="Credentials: netrc lines, a bearer token or docker's config.json (for oci://: what docker login left).",
)  # fmt: skip
ca_file = click.option(
    "--ca-file", type=click.Path(path_type=Path), envvar="IMAGE_CA_FILE",
    help="Certificates believed beside the system's.",
)  # fmt: skip
level_option = click.option(
    "--level", type=click.IntRange(1, 19), default=9, show_default=True, help="zstd's level."
)  # fmt: skip


@click.command()
@click.argument("reference", metavar="NAME|DIGEST")
@click.argument("file", type=click.Path(path_type=Path))
@level_option
def export(reference: str, file: Path, level: int) -> None:
    """Write an image as FILE (NAME.ext4.zst) and its manifest beside it (NAME.json), to be served by any web server.

    With the manifest it is fetched in parts, several at once; without, FILE is what any zstd unpacks. What it holds is
    listed in NAME.spdx.json (SPDX 2.3).
    """
    from dozlab.images import export as exporter
    from dozlab.images.store import Store

    begun = time.monotonic()
    made, beside = exporter.export(Store(paths.cache() / "store"), reference, file, level=level, progress=_Packing())
    click.echo(
        f"{file}: {format_size(made.length)} of {format_size(made.size)}, in {format_seconds(time.monotonic() - begun)}"
    )
    click.echo(f"{beside}: its manifest; sha256 of the unpacked image: {made.sha256}")


@click.command()
@click.argument("reference", metavar="NAME|DIGEST")
@click.argument("url", metavar="oci://HOST/NAME:TAG")
@level_option
@auth_file
@ca_file
def push(reference: str, url: str, level: int, auth_file: Path | None, ca_file: Path | None) -> None:
    """Push an image to a registry, for `dozlab up --image oci://...`, `dozlab image pull`, and Pods.

    There it is a container image of two files: a Pod can fetch it or mount it (rootfs.imageVolume of the chart).
    """
    from dozlab.images import export as exporter
    from dozlab.images.store import Store
    from dozlab.init_rootfs import oci
    from dozlab.init_rootfs.auth import load
    from dozlab.init_rootfs.client import Client, Limits
    from dozlab.init_rootfs.urls import shown

    oci.parse(url)
    begun = time.monotonic()
    client = Client(load(auth_file, [url], _docker()), ca_file=ca_file, limits=Limits())
    try:
        with tempfile.TemporaryDirectory(prefix="push.", dir=_folder()) as folder:
            store = Store(paths.cache() / "store")
            name = store.inspect(reference).name or "image"
            packed = Path(folder) / f"{name}.ext4.zst"
            made, _ = exporter.export(store, reference, packed, level=level, progress=_Packing())
            digest = oci.push(client, packed, made, url)
    finally:
        client.close()
    click.echo(f"{shown(url)} {digest} ({format_size(made.length)}), in {format_seconds(time.monotonic() - begun)}")


@click.command()
@click.argument("urls", metavar="URL...", nargs=-1, required=True)
@click.option("--name", default="", help="Name for it in the store.")
@click.option("--sha256", default="", help="Digest that the unpacked image must have.")
@auth_file
@ca_file
def pull(urls: tuple[str, ...], name: str, sha256: str, auth_file: Path | None, ca_file: Path | None) -> None:
    """Fetch an image into the store, from https://, http://, oci://, file:// or a path.

    Several addresses of one image are tried in turn. A pull that was cut off goes on where it stopped.
    """
    from dozlab.images.store import Store
    from dozlab.init_rootfs import fetch
    from dozlab.init_rootfs.urls import has_userinfo

    logging.getLogger("httpx2").setLevel(logging.WARNING)  # it logs whole URLs, tokens included
    if any(has_userinfo(url) for url in urls):
        raise BadUsage("a URL with a user or password in it; write them to a file, and give it with --auth-file")
    sha256 = sha256.lower().removeprefix("sha256:")
    if sha256 and not re.fullmatch("[0-9a-f]{64}", sha256):
        raise BadUsage(f"--sha256 {sha256}: a sha256 is 64 hexadecimal digits")
    begun = time.monotonic()
    store = Store(paths.cache() / "store")
    wanted = fetch.Wanted(urls, sha256, 0, auth_file, ca_file, _docker())
    base = fetch.get(store, wanted, output.say)
    try:
        if name:
            store.name(name, base.digest)
    finally:
        base.release()
    click.echo(
        f"{name or base.digest[:12]} sha256:{base.digest} {base.how}, in {format_seconds(time.monotonic() - begun)}"
    )


class _Packing:
    """Says how far the packing is, at most every other second."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, done: int, size: int) -> None:
        if time.monotonic() - self._last >= 2:
            self._last = time.monotonic()
            output.say(f"packed {format_size(done)} of {format_size(size)} ({100 * done // size} %)")


def _docker() -> Path:
    return Path(os.environ.get("DOCKER_CONFIG") or "~/.docker").expanduser()


def _folder() -> Path:
    folder = paths.cache() / "push"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


COMMANDS: list[click.Command] = [export, push, pull]
