"""Long programs of a build: what is told meanwhile, and that they end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dozlab.images import logged
from dozlab.lib.errors import DozlabError


def run(script: str, output: Path, *, timeout: float = 60.0) -> tuple[str, list[str]]:
    told: list[str] = []
    text = logged.run(
        ["sh", "-c", script], output, name="tool", timeout=timeout, progress=told.append, doing=logged.last_line
    )
    return text, told


def test_what_is_being_done_is_told(tmp_path: Path) -> None:
    for name in ("first", "second"):  # one each: who opens the next may meet the end of the one before
        os.mkfifo(tmp_path / name)
    told: list[str] = []

    def heard(step: str) -> None:
        told.append(step)
        (tmp_path / step.partition(" ")[0]).write_text("on\n")

    text = logged.run(
        ["sh", "-c", "echo first; read line < first; echo second >&2; read line < second"], tmp_path / "log",
        name="tool", timeout=60, progress=heard, doing=logged.last_line, env={"A": "b"}, cwd=tmp_path,
    )  # fmt: skip
    assert text == "first\nsecond\n" and [step.partition(" ")[0] for step in told] == ["first", "second"]


def test_a_failure_has_the_last_line_and_all_that_was_said(tmp_path: Path) -> None:
    with pytest.raises(logged.Failed, match=r"^tool failed: why$") as caught:
        run("echo out; echo why >&2; exit 3", tmp_path / "log")
    assert caught.value.output == "out\nwhy\n"
    with pytest.raises(logged.Failed, match=r"^tool failed: status 3$"):
        run("exit 3", tmp_path / "log")


def test_a_program_that_does_not_end_is_ended(tmp_path: Path) -> None:
    with pytest.raises(DozlabError, match=r"did not end within 5\.0 s"):
        run("echo $$; exec sleep 600", tmp_path / "log", timeout=5.0)
    assert not Path(f"/proc/{int((tmp_path / 'log').read_text())}").exists()


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DozlabError, match="tool: cannot start no-such-program"):
        logged.run(
            ["no-such-program"], tmp_path / "log", name="tool", timeout=1, progress=print, doing=logged.last_line
        )
