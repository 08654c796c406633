"""The documentation says what is true: links resolve, commands parse, quoted errors exist, references are whole."""

from __future__ import annotations

import ast
import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import click
import pytest
from pydantic import BaseModel

from dozlab.cli.main import cli
from dozlab.values import Values
from tests.unit.docs.markdown import (
    REPOSITORY,
    anchors,
    first_cells,
    links,
    pages,
    shell_commands,
)

REFERENCE = REPOSITORY / "docs/reference"
COMPONENTS = ("init_rootfs", "network_setup", "firecracker_vm", "terminal_sidecar", "code_server")
PAGES = [pytest.param(path, id=str(path.relative_to(REPOSITORY))) for path in pages()]


def test_generated_pages_are_fresh() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tools.docs", "--check"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES)
def test_links_and_anchors_resolve(page: Path) -> None:
    broken = []
    for link in links(page.read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = unquote(link).partition("#")
        target = page if not name else page.parent / name
        if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", PAGES)
def test_commands_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    for words, whole in shell_commands(page.read_text()):
        if words[0] == "make":
            assert set(words[1:]) <= targets, words
        elif words[0].rpartition("/")[2] == "dozlab":
            with contextlib.nullcontext() if whole else contextlib.suppress(click.BadParameter):
                parse(words[1:])


def parse(words: list[str]) -> None:
    """Parse a command line of dozlab as click does, and run nothing.

    :raises click.UsageError: for a verb, option or argument that does not exist
    """
    command: click.Command = cli
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        if (child := command.get_command(click.Context(command), words[0])) is None:
            raise click.UsageError(f"no verb {words[0]}")
        command, words = child, words[1:]
    if not isinstance(command, click.Group) and "--help" not in words:
        command.make_context("dozlab", list(words))


@pytest.mark.parametrize("line", ["frobnicate", "up --no-such-option", "image frobnicate", "status", "exec lab -- ls"])
def test_wrong_commands_would_be_found(line: str) -> None:
    with pytest.raises(click.UsageError):
        parse(line.split())


def test_every_value_is_in_the_reference() -> None:
    text = (REFERENCE / "values.md").read_text()
    paths = list(value_paths(Values))
    assert len(paths) > 25
    assert [path for path in paths if f"| `{path}` |" not in text] == []


def value_paths(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the path of every value below a model."""
    for name, field in model.model_fields.items():
        path = f"{prefix}{field.alias or name}"
        inner: Any = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from value_paths(inner, f"{path}.")
        else:
            yield path


def test_every_verb_and_option_is_in_the_reference() -> None:
    text = (REFERENCE / "cli.md").read_text()
    sections = dict(re.findall(r"^## (dozlab[^\n]*)\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE))

    def check(command: click.Command, name: str) -> None:
        for option in command.params:
            for flag in option.opts if isinstance(option, click.Option) else ():
                assert f"`{flag}`" in sections[name], f"{name} {flag}"
        if isinstance(command, click.Group):
            context = click.Context(command)
            for word in command.list_commands(context):
                child = command.get_command(context, word)
                assert child
                check(child, f"{name} {word}")

    check(cli, "dozlab")
    assert "dozlab image build" in sections


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_variable_is_in_the_reference(component: str) -> None:
    """Whatever a component reads through Env or os.environ, in its settings or elsewhere."""
    text = (REFERENCE / "environment.md").read_text()
    found = set()
    for path in (REPOSITORY / "src/dozlab" / component).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                reads = re.search(r"(^|\.)(env|values|environ)\.(\w+)$|^networks$", ast.unparse(node.func))
                name = str(node.args[0].value)
                if reads and re.fullmatch(r"[A-Z][A-Z0-9_]+", name):
                    found.add(name)
    ours = found - {"PATH", "PASSWD", "LOGNAME"}  # the system's own
    assert "SESSION_ID" in ours
    assert [name for name in sorted(ours) if f"| `{name}` |" not in text] == []


def test_hints_name_verbs_that_exist() -> None:
    """What an error tells a person to run can be run."""
    hints = []
    for path in (REPOSITORY / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "hint":
                hints += re.findall(r"\bdozlab ([a-z]+)", ast.unparse(node.value))
    assert len(hints) > 10
    assert set(hints) <= set(cli.list_commands(click.Context(cli)))


def test_quoted_errors_exist() -> None:
    """The lines that the troubleshooting page explains are in the sources, word for word."""
    sources = "\n".join(
        path.read_text() for path in (REPOSITORY / "src").rglob("*") if path.suffix == ".py" or path.name == "init"
    )
    text = (REPOSITORY / "docs/how-to/troubleshooting.md").read_text()
    lines = first_cells(text, "Before the start") + first_cells(text, "After the start")
    assert len(lines) > 20
    joined = re.sub(r'"\s*\n\s*f?"', "", sources)
    assert [line for line in lines if not all(part in joined for part in line.split("; "))] == []
