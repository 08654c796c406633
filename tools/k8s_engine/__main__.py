"""`python -m tools.k8s_engine kubectl|helm|kind|engine|images OUT` and `key`: parses and prints, nothing else."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click
from tools import kubetools
from tools.k8s_engine import engine, images, programs

from dozlab.lib.errors import DozlabError

_begun = time.monotonic()
_OUT = click.Path(exists=True, file_okay=False, path_type=Path)


def say(line: str) -> None:
    """Show progress on stderr, with the seconds since the start."""
    click.echo(f"{time.monotonic() - _begun:6.1f} s  {line}", err=True)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Files for the image dozlab-k8s, each below an empty folder OUT (rootfs/dozlab-k8s/recipe.toml runs this)."""


@main.command()
@click.argument("out", type=_OUT)
def kubectl(out: Path) -> None:
    """Lay in kubectl."""
    programs.kubectl(out)


@main.command()
@click.argument("out", type=_OUT)
def helm(out: Path) -> None:
    """Lay in helm."""
    programs.helm(out)


@main.command()
@click.argument("out", type=_OUT)
def kind(out: Path) -> None:
    """Lay in kind, built from its Go module."""
    programs.kind(out, say)


@main.command(name="engine")
@click.argument("out", type=_OUT)
def engine_(out: Path) -> None:
    """Lay in Kubernetes, containerd, etcd and the units that run them."""
    engine.lay_in(out, say)


@main.command(name="images")
@click.argument("out", type=_OUT)
def images_(out: Path) -> None:
    """Lay in the container images."""
    images.lay_in(out)


@main.command()
def key() -> None:
    """Print what changes when any of these files would."""
    click.echo(f"{engine.key()} {programs.kind_key()} {kubetools.VERSION} {images.key()}")


if __name__ == "__main__":
    try:
        main()
    except DozlabError as error:
        click.echo(str(error), err=True)
        sys.exit(error.exit_code)
