"""The little of Markdown that the documentation's tests need: links, anchors, code. Pure."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parents[3]

_FENCE = re.compile(r"^ *```(\w*)[^\n]*\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} +(.*?) *#*$", re.MULTILINE)


def tracked() -> list[Path]:
    """Return the files git knows, as they are in the working tree."""
    done = subprocess.run(
        ["git", "-c", f"safe.directory={REPOSITORY}", "ls-files", "-z"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    )  # fmt: skip
    paths = (REPOSITORY / name for name in done.stdout.split("\0") if name)
    return sorted(path for path in paths if path.is_file() and not path.is_symlink())


def pages() -> list[Path]:
    """Return every Markdown page."""
    return [path for path in tracked() if path.suffix == ".md"]


def prose(text: str) -> str:
    """Return the text without code."""
    return _INLINE.sub("", _FENCE.sub("", text))


def links(text: str) -> list[str]:
    """Return the targets of all links."""
    return _LINK.findall(prose(text))


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives the headings."""
    found: dict[str, int] = {}
    for heading in _HEADING.findall(_FENCE.sub("", text)):
        slug = re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-")
        found[slug] = found.get(slug, -1) + 1
        if found[slug]:
            found[f"{slug}-{found[slug]}"] = 0
    return set(found)


def shell_commands(text: str) -> Iterator[tuple[list[str], bool]]:
    """Yield the words of each command: of `sh` blocks (True: whole), of code in the text (False: may be partial)."""
    for language, block in _FENCE.findall(text):
        if language == "sh":
            for line in block.replace("\\\n", " ").splitlines():
                if words := shlex.split(line, comments=True):
                    yield words, True
    for code in _INLINE.findall(_FENCE.sub("", text)):
        if code.startswith(("dozlab ", "make ", ".venv/bin/dozlab ")):
            yield shlex.split(code), False


def first_cells(text: str, heading: str) -> list[str]:
    """Return the code in the first cell of each row of the tables under a heading."""
    section = text.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    return [_INLINE.findall(row.split("|")[1])[0] for row in rows]
