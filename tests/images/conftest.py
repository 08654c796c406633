"""Tests of images follow a guide as somebody types it, on a machine that has done the tutorial."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dozlab.lib import paths
from tests.support import Dozlab


class Teacher(Dozlab):
    """The command, and a shell in a folder of its own to type it in."""

    def type(self, script: str, folder: Path, *, path: str = "") -> subprocess.CompletedProcess[str]:
        """Run a script of bash; stdout holds all that was printed.

        :param path: folders that come before the others
        """
        before = f"{path}:" if path else ""
        env = {**self.environment(), "PATH": f"{before}{Path(sys.executable).parent}:{os.environ['PATH']}"}
        return subprocess.run(
            ["bash", "-c", script], cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=1400, check=False,
        )  # fmt: skip


@pytest.fixture
def teacher(tmp_path: Path) -> Iterator[Teacher]:
    """Kit, editor and packages are there, images are not."""
    cache = tmp_path / "cache/dozlab"
    cache.mkdir(parents=True)
    for path in paths.cache().iterdir():
        if path.name not in ("store", "push"):
            (cache / path.name).symlink_to(path)
    command = Teacher(tmp_path / "state", env={"XDG_CACHE_HOME": str(tmp_path / "cache"), "HOME": str(tmp_path)})
    yield command
    command.run("down", "--all", check=False)
