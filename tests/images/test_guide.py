"""The teacher's guide, docs/how-to/make-a-lab-image.md, followed word for word as somebody types it.

Blocks of `sh` are typed into one shell, that of the second terminal into another; a block after "to `FILE`:" is written
there; a block after "prints:" must be in what the step before has printed. Only the port is another one, a free one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.images.conftest import Teacher
from tests.support import REPOSITORY, free_port

GUIDE = REPOSITORY / "docs/how-to/make-a-lab-image.md"
PORT = "8000"
SERVED = "for _ in $(seq 1200); do (: < /dev/tcp/127.0.0.1/{port}) 2>/dev/null && break; sleep 0.05; done"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_TO = re.compile(r"\bto `([^`]+)`:$")


@dataclass(frozen=True)
class Step:
    """One block of the guide. `what`: type, serve, write (to `path`) or expect."""

    what: str
    text: str
    path: str = ""


def steps(guide: str) -> Iterator[Step]:
    """Yield what the guide asks for; what is only shown (a block after any other words) is left out. Pure."""
    at = 0
    for found in _BLOCK.finditer(guide):
        before, at = guide[at : found.start()].strip().split("\n\n")[-1].replace("\n", " "), found.end()
        language, text = found.groups()
        if language == "sh":
            yield Step("serve" if "second terminal" in before else "type", text)
        elif to := _TO.search(before):
            yield Step("write", text, to[1])
        elif before.endswith("prints:"):
            yield Step("expect", text)


def script(found: list[Step], port: int) -> str:
    """Return the guide as one program, which says `== N` before its step N. Pure."""
    lines = ["set -e -o pipefail", "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT"]
    for number, step in enumerate(found):
        text = step.text.replace(PORT, str(port))
        lines.append(f"echo '== {number}'")
        if step.what == "write":
            lines += [f"cat > {step.path} <<'END OF THE FILE'", f"{text}END OF THE FILE"]
        elif step.what == "serve":
            lines += [f"{text.strip()} >/dev/null 2>&1 &", SERVED.format(port=port)]
        elif step.what == "type":
            lines.append(text)
    return "\n".join(lines)


@pytest.mark.machine
@pytest.mark.timeout(1500)
def test_the_guide_word_for_word(teacher: Teacher, tmp_path: Path) -> None:
    found = list(steps(GUIDE.read_text()))
    assert {step.what for step in found} == {"type", "serve", "write", "expect"}
    done = teacher.type(script(found, free_port()), tmp_path)
    assert done.returncode == 0, done.stdout[-6000:]
    printed = {int(each.partition("\n")[0]): each.partition("\n")[2] for each in done.stdout.split("== ")[1:]}
    for number, step in enumerate(found):
        if step.what == "expect":
            before = next(n for n in reversed(range(number)) if found[n].what == "type")
            assert step.text.strip() in printed[before].splitlines(), done.stdout[-6000:]
    assert teacher.sessions() == []
