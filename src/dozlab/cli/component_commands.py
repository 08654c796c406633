"""`dozlab run COMPONENT`: the five components under their own names, configured by environment as in the Pod."""

from __future__ import annotations

import importlib
import sys

import click

from dozlab.session.layout import COMPONENTS


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("component", type=click.Choice(COMPONENTS))
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def run(component: str, arguments: tuple[str, ...]) -> None:
    """Run one component here, as its container does; `dozlab run COMPONENT --help` tells its environment."""
    module = importlib.import_module(f"dozlab.{component.replace('-', '_')}.__main__")
    sys.exit(module.main(list(arguments)))


COMMANDS: list[click.Command] = [run]
