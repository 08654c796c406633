"""Runs a long program of a build: its output goes to a file, lines say how far it is, and it ends when we do."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from dozlab.lib.errors import DozlabError
from dozlab.lib.proc import die_with_parent
from dozlab.lib.units import format_seconds

GRACE = 30.0
"""Seconds for a program to end in order: mmdebstrap unmounts and removes its own folders on SIGTERM."""
_POLL = 0.5

Progress = Callable[[str], None]


def run(
    argv: Sequence[str], output: Path, *, name: str, timeout: float, progress: Progress,
    doing: Callable[[str], str], every: float = 0.0, env: Mapping[str, str] | None = None, cwd: Path | None = None,
) -> str:  # fmt: skip
    """Run a program to its end and return its output, stdout and stderr together; status 0 only.

    :param output: file for the output; it is there after a failure, too
    :param timeout: seconds
    :param progress: gets what is being done each time that it changes
    :param doing: what that is, from the output so far; empty: not known
    :param every: seconds between two lines at least
    :raises DozlabError: when it cannot be started, or does not end in time
    :raises Failed: when its status is another
    """
    begun = told_at = time.monotonic()
    told, seen = "", 0
    with output.open("wb") as sink:
        try:
            process = subprocess.Popen(
                argv, cwd=cwd, env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL, stdout=sink,
                stderr=subprocess.STDOUT, preexec_fn=die_with_parent,
            )  # fmt: skip
        except OSError as error:
            raise DozlabError(f"{name}: cannot start {argv[0]}: {error.strerror}") from error
        try:
            while process.poll() is None:
                now = time.monotonic()
                if now - begun > timeout:
                    raise DozlabError(f"{name} did not end within {format_seconds(timeout)}")
                size = output.stat().st_size
                if size > seen and now - told_at >= every:
                    seen, step = size, doing(_text(output))
                    if step not in ("", told):
                        progress(f"{step} ({format_seconds(now - begun)})")
                        told, told_at = step, now
                try:
                    process.wait(_POLL)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            _end(process)
    text = _text(output)
    if process.returncode:
        raise Failed(name, process.returncode, text)
    return text


class Failed(DozlabError):
    """A program ended with another status than 0; `output` is all that it said."""

    def __init__(self, name: str, status: int, output: str) -> None:
        super().__init__(f"{name} failed: {last_line(output) or f'status {status}'}")
        self.output = output


def last_line(text: str) -> str:
    """Return the last line with something in it, empty where there is none. Pure."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _text(output: Path) -> str:
    return output.read_text(errors="replace")


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
