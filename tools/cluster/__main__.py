"""`python -m tools.cluster up|down|status|build|load|kubeconfig`: parses and prints, nothing else."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click
from tools.cluster import build as building
from tools.cluster import cluster, layout, oci

from dozlab.lib.errors import DozlabError

_begun = time.monotonic()


def say(line: str) -> None:
    """Show progress on stderr, with the seconds since the start."""
    click.echo(f"{time.monotonic() - _begun:6.1f} s  {line}", err=True)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """A real Kubernetes of one node, for tests (see tools/cluster/README.md)."""


@main.command()
@click.option("--keep", is_flag=True, help="Keep compiler cache and module sources (4 GB) for a next build.")
def build(keep: bool) -> None:
    """Build the programs, unless they are there, and print their folder."""
    click.echo(building.ensure(say, keep=keep))


@main.command()
def up() -> None:
    """Start the cluster; returns when it can take Pods."""
    cluster.up(say)
    click.echo(f"export KUBECONFIG={layout.default().kubeconfig} PATH={building.programs()}:$PATH")


@main.command()
def down() -> None:
    """Stop the cluster and leave the machine as it was, also after a crash."""
    cluster.down(say)


@main.command()
def status() -> None:
    """Show each component, its process and version; exit code 1 when one is not running."""
    rows = cluster.status()
    for row in rows:
        click.echo(f"{row.name:24} {row.pid or '-':>8}  {'running' if row.running else 'stopped':8} {row.version}")
    if not rows:
        click.echo("no cluster is up; run: make cluster-up")
    if not rows or not all(row.running for row in rows):
        sys.exit(1)


@main.command()
def kubeconfig() -> None:
    """Print the path of the administrator's kubeconfig."""
    click.echo(layout.default().kubeconfig)


@main.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
def load(files: tuple[Path, ...]) -> None:
    """Import OCI or Docker archives into the node; Pods use them by the names printed."""
    for file in files:
        for name in cluster.load(file):
            click.echo(name)


@main.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def busybox(file: Path) -> None:
    """Write a small image of Debian's busybox-static to FILE (an OCI archive)."""
    click.echo(oci.busybox(file))


if __name__ == "__main__":
    try:
        main()
    except DozlabError as error:
        click.echo(str(error), err=True)
        sys.exit(error.exit_code)
