"""How the command prints: tables, JSON, the stages of a start. Plain lines when not on a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import click

from dozlab.lib.timeline import Entry
from dozlab.lib.units import format_seconds


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows in aligned columns under capitals, as kubectl does."""
    lines = [list(headers), *[list(row) for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headers))]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def as_json(value: Any) -> None:
    """Print a value for programs."""
    click.echo(json.dumps(value, indent=2))


def say(text: str) -> None:
    """Print one line of progress, on stderr so that stdout stays for results."""
    click.echo(text, err=True)


class Stages:
    """Prints the timeline as it passes: a line per finished stage: how long it took, and when."""

    def __init__(self, since: float) -> None:
        self._since = since
        self._started: dict[str, float] = {}
        self._live = sys.stderr.isatty()

    def show(self, entries: Sequence[Entry]) -> None:
        """Print what is new."""
        for entry in entries:
            if entry.event == "start":
                self._started.setdefault(entry.stage, entry.t)
                if self._live:
                    click.echo(f"\r\033[K  … {entry.stage}  {entry.detail}"[:110], err=True, nl=False)
                continue
            own = entry.t - self._started.get(entry.stage, self._since)
            mark = "✓" if entry.event == "done" else "✗"
            took, at = format_seconds(max(own, 0)), _at(entry.t - self._since)
            line = f"  {mark} {entry.stage:<9} {took:>8}  {at:>8}  {entry.detail}"
            click.echo(("\r\033[K" if self._live else "") + line.rstrip(), err=True)


def _at(seconds: float) -> str:
    return f"+{max(seconds, 0):.1f} s"


def durations(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Return one row per stage: its duration and when it was done, in seconds since the first entry."""
    first = min((entry.t for entry in entries), default=0.0)
    started: dict[str, float] = {}
    rows: dict[str, dict[str, Any]] = {}
    for entry in entries:
        if entry.event == "start":
            started[entry.stage] = entry.t
        else:
            own = round(entry.t - started.get(entry.stage, first), 2)
            at = round(entry.t - first, 2)
            rows[entry.stage] = {
                "stage": entry.stage,
                "event": entry.event,
                "took": own,
                "at": at,
                "detail": entry.detail,
            }
    return list(rows.values())
