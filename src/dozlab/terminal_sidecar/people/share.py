"""Links into a running terminal, asked for at its socket: by `dozlab share`, and by the same verb in the container."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from dozlab.lib.control import call
from dozlab.lib.errors import BadUsage
from dozlab.lib.units import parse_duration

DOOR = "terminal.sock"
"""Its name in SHARED_DIR; only the session's own user can open it."""
HEADERS = ("ID", "ROLE", "NAME", "STATE", "ENDS IN")
ROLES = ("viewer", "editor", "owner")


def duration(text: str) -> int:
    """Return the seconds of an option such as 2h.

    :raises BadUsage: when it is none
    """
    try:
        return parse_duration(text)
    except ValueError as error:
        raise BadUsage(str(error)) from error


def base(url: str) -> str:
    """Return the address of a terminal page with a slash behind it.

    :raises BadUsage: when it is no address
    """
    if not url.startswith(("http://", "https://")) or set(url) & set("#? "):
        raise BadUsage(f"not the address of a terminal: {url!r} (write https://lab.example/)")
    return url.rstrip("/") + "/"


def share(shared_dir: Path, url: str, *, role: str, name: str, seconds: int) -> str:
    """Return a link that lets one browser in.

    :param url: where the terminal's page is reached
    :raises DozlabError: when the terminal does not answer, or says no
    """
    page = base(url)
    told = asyncio.run(call(shared_dir / DOOR, "share", role=role, name=name, seconds=seconds))
    return page + str(told["path"])


def listed(shared_dir: Path) -> list[list[str]]:
    """Return a row for each invitation, under `HEADERS`.

    :raises DozlabError: when the terminal does not answer
    """
    return [_row(each) for each in asyncio.run(call(shared_dir / DOOR, "shares"))["invitations"]]


def _row(invitation: dict[str, Any]) -> list[str]:
    minutes = -(-int(invitation["left"]) // 60)
    left = f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
    state = "used" if invitation["used"] else "open"
    return [invitation["id"], invitation["role"], invitation["name"] or "-", state, left]


def revoke(shared_dir: Path, id_: str) -> None:
    """Revoke an invitation; what came in by it is closed.

    :raises DozlabError: when there is none of that id, or the terminal does not answer
    """
    asyncio.run(call(shared_dir / DOOR, "unshare", id=id_))


def main(words: list[str]) -> int:
    """Do `terminal-sidecar share ...` in the container; returns 0.

    :raises DozlabError: when the terminal does not answer, or says no
    """
    import argparse  # `dozlab` has its own way

    parser = argparse.ArgumentParser(prog="terminal-sidecar share", description="Let others into this terminal.")
    parser.add_argument("--role", choices=ROLES, default="viewer", help="what the link is for (viewer)")
    parser.add_argument("--name", default="", help="who it is for")
    parser.add_argument("--expires", default="2h", help="when it ends: 30m, 2h, 1d, at most 7d (2h)")
    parser.add_argument("--url", default="", help="where the terminal's page is reached (the first of ALLOWED_ORIGINS)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--ls", action="store_true", help="list the invitations instead")
    what.add_argument("--revoke", metavar="ID", help="revoke one, and close what came in by it")
    told = parser.parse_args(words)
    shared_dir = Path(os.environ.get("SHARED_DIR", "/shared"))
    if told.ls:
        lines = ["\t".join(row) for row in (HEADERS, *listed(shared_dir))]
    elif told.revoke:
        revoke(shared_dir, told.revoke)
        lines = [f"{told.revoke} is revoked"]
    else:
        url, seconds = told.url or _own_address(), duration(told.expires)
        lines = [share(shared_dir, url, role=told.role, name=told.name, seconds=seconds)]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _own_address() -> str:
    """Return where this container's terminal is reached, or where `kubectl port-forward` brings it."""
    origins = os.environ.get("ALLOWED_ORIGINS", "").replace(",", " ").split()
    origin = origins[0] if origins else f"http://localhost:{os.environ.get('PORT', '8081')}"
    return f"{origin.rstrip('/')}/{os.environ.get('BASE_PATH', '').strip('/')}"
