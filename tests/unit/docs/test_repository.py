"""Rules of the house that hold for every file: no registry's address, docstrings that say what belongs, sizes."""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from tests.unit.docs.markdown import REPOSITORY, tracked

# Written in two halves, so that this file itself is clean.
HOSTS = [
    left + right
    for left, right in (
        ("pypi", ".org"), ("files.python", "hosted"), ("registry.npm", "js"), ("deb.deb", "ian"),
        ("security.deb", "ian"), ("proxy.go", "lang"), ("crates", ".io"),
    )
]  # fmt: skip
MOST_LINES = 450
MOST_MODULES = 25
SOURCES = [path for path in tracked() if path.suffix in (".py", ".ts", ".sh") or path.parent.name == "kitfiles"]
MODULES = [path for path in SOURCES if path.suffix == ".py" and path.is_relative_to(REPOSITORY / "src")]


def test_no_registry_host_is_named() -> None:
    found = []
    for path in tracked():
        text = path.read_bytes().decode(errors="replace").lower()
        found += [f"{path.relative_to(REPOSITORY)}: {host}" for host in HOSTS if host in text]
    assert found == []


def test_npm_lock_files_name_no_address() -> None:
    locks = [path for path in tracked() if path.name == "package-lock.json"]
    assert locks
    for path in locks:
        packages = json.loads(path.read_text())["packages"]
        assert [name for name, entry in packages.items() if "resolved" in entry] == []
        assert [name for name, entry in packages.items() if name and "integrity" not in entry] == []


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock"])
def test_python_lock_files_have_hashes_and_no_index(name: str) -> None:
    lines = (REPOSITORY / name).read_text().splitlines()
    options = [line for line in lines if re.match(r"\s*(-i\b|--(?!hash=)|.*://)", line)]
    assert options == []
    pins = [line for line in lines if re.match(r"[a-z0-9]", line, re.IGNORECASE)]
    assert pins
    assert [line for line in pins if not re.match(r"[\w.\-\[\]]+==\S+( ;.*)? \\$", line)] == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_a_module_says_what_belongs_there(path: Path) -> None:
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    first = text.partition("\n")[0]
    assert len(first) >= 20, f"docstring: {first!r}"


def test_no_source_is_too_long() -> None:
    lengths = {str(path.relative_to(REPOSITORY)): len(path.read_text().splitlines()) for path in SOURCES}
    assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES} == {}


def test_no_folder_holds_too_many_modules() -> None:
    folders = Counter(str(path.parent.relative_to(REPOSITORY)) for path in MODULES)
    assert {name: count for name, count in folders.items() if count > MOST_MODULES} == {}
