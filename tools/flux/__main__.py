"""`python -m tools.flux build|up|down|status`: parses and prints, nothing else."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click
from tools import kubetools
from tools.cluster import layout
from tools.flux import build as building
from tools.flux import run

from dozlab.lib.errors import DozlabError

_begun = time.monotonic()


def say(line: str) -> None:
    """Show progress on stderr, with the seconds since the start."""
    click.echo(f"{time.monotonic() - _begun:6.1f} s  {line}", err=True)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Run source-controller and helm-controller on this machine, against the cluster of tools/cluster or another."""


@main.command()
@click.option("--keep", is_flag=True, help="Keep compiler cache and module sources for a next build.")
def build(keep: bool) -> None:
    """Build the controllers, unless they are there, and print their folder."""
    click.echo(building.ensure(say, keep=keep))


@main.command()
@click.option(
    "--kubeconfig",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Of the cluster; by default that of tools/cluster.",
)
def up(kubeconfig: Path | None) -> None:
    """Apply Flux's CRDs and start both controllers."""
    config = kubeconfig or layout.default().kubeconfig
    if not config.exists():
        raise DozlabError("no cluster is up", hint="run: make cluster-up")
    run.up(building.ensure(say), config.resolve(), kubetools.ensure().kubectl, say)
    click.echo(f"logs: {run.folder()}/logs")


@main.command()
def down() -> None:
    """Stop them. CRDs and objects stay in the cluster."""
    run.down(say)


@main.command()
def status() -> None:
    """Say which of the two run; exit code 1 unless both do."""
    found = run.running()
    for name in building.CONTROLLERS:
        click.echo(f"{name:20} {'running' if name in found else 'stopped'}")
    sys.exit(0 if len(found) == len(building.CONTROLLERS) else 1)


if __name__ == "__main__":
    try:
        main()
    except DozlabError as error:
        click.echo(str(error), err=True)
        sys.exit(error.exit_code)
