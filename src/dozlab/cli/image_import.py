"""`dozlab image import`: a container image, an archive, a root file system or a Dockerfile becomes a base image."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import click

from dozlab.cli import output
from dozlab.cli.image_transport import auth_file, ca_file
from dozlab.lib import paths
from dozlab.lib.errors import BadUsage
from dozlab.lib.units import format_seconds, format_size, parse_size


@click.command("import")
@click.argument("source", default="")
@click.option("--name", default="", help="Name for it in the store; otherwise told from SOURCE.")
@click.option(
    "--dockerfile", type=click.Path(path_type=Path), metavar="DIR",
    help="Build the Dockerfile in DIR with docker (DOCKER_HOST counts), and take what comes out.",
)  # fmt: skip
@click.option("--size-limit", default="4Gi", show_default=True, help="Most that the finished image may have.")
@auth_file
@ca_file
def image_import(
    source: str, name: str, dockerfile: Path | None, size_limit: str, auth_file: Path | None, ca_file: Path | None
) -> None:
    """Make a base image of a container image or a root file system, whose machine boots it with systemd.

    SOURCE is oci://HOST/NAME:TAG, an OCI layout (folder), a file of `docker save` or `docker export`, or any root file
    system as a tar; files may be packed with gzip, zstd, xz or bzip2.
    """
    from dozlab.images.importing import base
    from dozlab.images.making.work import work_folder
    from dozlab.images.store import Store, check_name

    if bool(source) == bool(dockerfile):
        raise BadUsage("give either SOURCE or --dockerfile DIR")
    try:
        limit = parse_size(size_limit)
    except ValueError as error:
        raise BadUsage(f"--size-limit: {error}") from error
    where = str(dockerfile.resolve()) if dockerfile else source
    name = name or base.name_for(where)
    check_name(name)
    base.check_programs()
    begun = time.monotonic()
    cache = paths.cache()
    with work_folder(cache, "import") as work:
        if dockerfile:
            from dozlab.images.importing import dockerfile as docker

            path = work / "docker.tar"
            docker.save(dockerfile, path, work)
        elif source.startswith("oci://"):
            path = work / "layout"
            pull(source, path, limit, auth_file, ca_file)
        else:
            path = Path(source)
        manifest = base.bring(
            path, store=Store(cache / "store"), cache=cache, name=name, where=where, size_limit=limit,
            progress=output.say,
        )  # fmt: skip
    listed = f", {len(manifest.packages)} packages" if manifest.packages else ""
    click.echo(
        f"{name} sha256:{manifest.digest[:12]} {format_size(manifest.size)}{listed},"
        f" in {format_seconds(time.monotonic() - begun)}; start it: dozlab up --image {name}"
    )


def pull(url: str, folder: Path, limit: int, auth_file: Path | None = None, ca_file: Path | None = None) -> None:
    """Pull a registry's image as an OCI layout into a new folder, with the logins of `docker login`.

    :param limit: most bytes of its layers
    """
    from dozlab.init_rootfs import auth, container
    from dozlab.init_rootfs.client import Client, Limits

    logging.getLogger("httpx2").setLevel(logging.WARNING)  # it logs whole URLs, tokens included
    container.reference(url)
    docker = Path(os.environ.get("DOCKER_CONFIG") or "~/.docker").expanduser()
    client = Client(container.credentials(auth.load(auth_file, [url], docker)), ca_file=ca_file, limits=Limits())
    try:
        folder.mkdir()
        container.pull(client, url, folder, most=limit, progress=output.say)
    finally:
        client.close()


COMMANDS: list[click.Command] = [image_import]
