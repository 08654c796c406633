"""docs/reference/cli.md: every verb and option of `dozlab`, from click."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

from dozlab.cli.main import cli

HEAD = """\
# Command line

Exit codes: 0 done; 1 failed, with a line that says what to do; 2 bad usage or bad values; 3 no such session; 130
interrupted. `dozlab ssh` and `dozlab exec` end with the status of the command they ran.

Results go to stdout, progress and errors to stderr. `-o json` prints for programs.
"""


def page() -> str:
    """Return the page."""
    parts = [HEAD]
    for words, command in commands(cli, ("dozlab",)):
        context = click.Context(command, info_name=" ".join(words))
        usage = " ".join([*words, *command.collect_usage_pieces(context)])
        parts.append(
            f"\n## {' '.join(words)}\n\n```text\n{usage}\n```\n\n{_help(inspect.cleandoc(command.help or ''))}"
        )
        rows = [_row(option, context) for option in command.params if isinstance(option, click.Option)]
        if rows:
            parts.append("\n| option | default | meaning |\n|---|---|---|\n" + "".join(rows))
    return "".join(parts)


def commands(command: click.Command, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield every command with its words, groups before what is in them, in the order of `--help`."""
    yield words, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            if child := command.get_command(context, name):
                yield from commands(child, (*words, name))


def _row(option: click.Option, context: click.Context) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    metavar = "" if option.is_flag else f" {option.make_metavar(context)}".replace("|", "\\|")
    preset = option.default if isinstance(option.default, (str, int)) and not isinstance(option.default, bool) else ""
    default = "required" if option.required else f"`{preset}`" if preset != "" else ""
    help_text = (option.help or "").replace("|", "\\|")
    return f"| {names}{metavar} | {default} | {help_text} |\n"


def _help(text: str) -> str:
    """Return help text as Markdown; a paragraph that click leaves as it is (marked `\\b`) is a code block."""
    blocks = []
    for block in text.split("\n\n"):
        lines = block.strip("\n").splitlines()
        if lines and lines[0] == "\b":
            blocks.append("```sh\n" + "\n".join(_commented(line) for line in lines[1:]) + "\n```\n")
        else:
            blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def _commented(line: str) -> str:
    """Make `command      what it does` a command with a comment."""
    head, gap, tail = line.partition("   ")
    return f"{head:<36} # {tail.strip()}" if gap else line
