"""Verbs on a running session's machine: pause, resume, checkpoint, reset."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from dozlab.cli.session_commands import session_id
from dozlab.firecracker_vm.checkpoints import DEFAULT, check_name
from dozlab.lib.errors import DozlabError
from dozlab.lib.units import format_seconds, format_size

if TYPE_CHECKING:
    from dozlab.session.layout import Layout


def _find(session_id: str) -> Layout:
    """Return an existing session.

    :raises DozlabError: when it runs, but its machine cannot be asked now
    """
    from dozlab.session import state

    layout = state.find(session_id)
    if state.alive(layout) and not (layout.shared / "vm.sock").exists():
        raise DozlabError(f"session {session_id} has no machine now", hint=f"see it: dozlab status {session_id}")
    return layout


@click.command()
@session_id
def pause(session_id: str) -> None:
    """Stop a session's machine where it is: it takes no processor time until `dozlab resume`."""
    from dozlab.session import operations

    operations.pause(_find(session_id))
    click.echo(f"{session_id} is paused; go on: dozlab resume {session_id}")


@click.command()
@session_id
def resume(session_id: str) -> None:
    """Let a paused session's machine go on; its clock is set right."""
    from dozlab.session import operations

    operations.resume(_find(session_id))
    click.echo(f"{session_id} goes on")


@click.command()
@session_id
@click.argument("name", default=DEFAULT)
@click.option("--rm", "remove", is_flag=True, help="Remove that checkpoint instead.")
def checkpoint(session_id: str, name: str, remove: bool) -> None:
    """Save a running machine as it is, to go back to it with `dozlab reset`.

    NAME is 'checkpoint' where none is given; a checkpoint of the same name is replaced. `dozlab status` lists them.
    """
    from dozlab.session import operations, state

    layout = _find(session_id)
    check_name(name)
    if remove:
        (operations if state.alive(layout) else state).forget(layout, name)
        click.echo(f"removed checkpoint {name} of {session_id}")
        return
    click.echo(f"saving {session_id}; it stands still meanwhile", err=True)
    begun = time.monotonic()
    size = operations.checkpoint(layout, name)
    click.echo(
        f"checkpoint {name} of {session_id}: {format_size(size)} in {format_seconds(time.monotonic() - begun)};"
        f" go back to it: dozlab reset {session_id} {name}"
    )


@click.command()
@session_id
@click.argument("name", default="")
def reset(session_id: str, name: str) -> None:
    """Set a machine back to a checkpoint, or without NAME to the clean image.

    What the machine holds now is lost, except for /workspace, which lies outside of it.
    """
    from dozlab.session import operations

    layout = _find(session_id)
    if name:
        check_name(name)
    where = f"checkpoint {name}" if name else "the clean image"
    click.echo(f"setting {session_id} back to {where}", err=True)
    begun = time.monotonic()
    told = operations.reset(layout, name)
    how = "" if told["restored"] or not name else "; its memory could not be used, so it has booted from that disk"
    click.echo(f"{session_id} is back at {where} after {format_seconds(time.monotonic() - begun)}{how}")


COMMANDS: list[click.Command] = [pause, resume, checkpoint, reset]
