"""The verb that lets others into a session's terminal: share."""

from __future__ import annotations

import click

from dozlab.cli import output
from dozlab.cli.session_commands import session_id
from dozlab.lib.errors import DozlabError
from dozlab.terminal_sidecar.people import share as links


@click.command()
@session_id
@click.option("--role", type=click.Choice(links.ROLES), default="viewer", help="What the link is for.")
@click.option("--name", default="", help="Who it is for: shown to all who are there.")
@click.option("--expires", default="2h", help="When link and visit end: 30m, 2h, 1d, at most 7d.")
@click.option("--url", default="", help="Where others reach the terminal. Default: an allowed origin, or here.")
@click.option("--ls", "listed", is_flag=True, help="List the invitations instead.")
@click.option("--revoke", default="", metavar="INVITATION", help="Revoke one instead, and close what came in by it.")
def share(session_id: str, role: str, name: str, expires: str, url: str, listed: bool, revoke: str) -> None:
    """Print a link that lets one browser into a session's terminal.

    A viewer watches, an editor types, an owner invites others too. The link works once.
    """
    from dozlab.session import operations, state

    layout = state.find(session_id)
    if not state.alive(layout):
        raise DozlabError(f"session {session_id} is not running", hint=f"start it: dozlab up {session_id}")
    if listed:
        output.table(links.HEADERS, links.listed(layout.shared))
    elif revoke:
        links.revoke(layout.shared, revoke)
        click.echo(f"{revoke} is revoked")
    else:
        seconds = links.duration(expires)
        facts, terminal = state.Facts.load(layout.facts), operations.values_of(layout).terminal
        if not url and terminal.allowed_origins:
            url = terminal.allowed_origins[0] + terminal.base_path
        elif not url:
            where = state.urls(facts, terminal.base_path, tls=terminal.tls.served) if facts else {}
            url = operations.address(session_id, where, "terminal")
        click.echo(links.share(layout.shared, url, role=role, name=name, seconds=seconds))


COMMANDS: list[click.Command] = [share]
