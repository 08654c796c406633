"""The root command: which module has which command, and that no other is imported for it."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import click

import dozlab.cli
from dozlab.cli.main import GROUPS, cli


def test_every_command_is_found() -> None:
    modules = (importlib.import_module(f"dozlab.cli.{each.name}") for each in pkgutil.iter_modules(dozlab.cli.__path__))
    own = {module.__name__.rpartition(".")[2]: getattr(module, "COMMANDS", []) for module in modules}
    # What `dozlab image` has is in modules that add themselves to it.
    told = {name: tuple(each.name for each in commands) for name, commands in own.items() if name in GROUPS}
    assert told == GROUPS
    context = click.Context(cli)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command and command.name == name
    assert cli.get_command(context, "frobnicate") is None


def test_up_does_not_import_what_images_need() -> None:
    script = (
        "import sys; from dozlab.cli.main import cli; cli(['up', '--help'], standalone_mode=False); print(*sys.modules)"
    )
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    modules = printed.stdout.splitlines()[-1].split()
    assert "dozlab.cli.session_commands" in modules
    assert "dozlab.cli.image_authoring" not in modules
