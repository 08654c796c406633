"""A Ctrl-C at the worst moment of a start: while the launcher is forked, when hooks of the fork may swallow it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

INTERRUPTED = """
import os, signal
from dozlab.lib import files
from dozlab.session import launch, operations, state
from dozlab.session.layout import Layout
from dozlab.session.ports import NONE

me, layout = os.getpid(), Layout("lab")
layout.logs.mkdir(parents=True)
launch.main = lambda argv: signal.pause() or 0
os.register_at_fork(after_in_parent=lambda: os.kill(me, signal.SIGINT))
facts = state.Facts("lab", NONE, "127.0.0.1", None, 0, 0.0)
try:
    with files.locked(layout.lock) as fd, operations._whole() as mask:
        operations._spawn(layout, facts, fd, mask)
    print("not interrupted")
except KeyboardInterrupt:
    print("interrupted", state.alive(layout))
pid = state.Facts.load(layout.facts).pid
os.kill(pid, signal.SIGKILL)
os.waitpid(pid, 0)
"""


def test_it_is_heard_once_the_launcher_is_known(home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], env=os.environ, capture_output=True, text=True, timeout=100
    )
    assert (done.stdout, done.stderr, done.returncode) == ("interrupted True\n", "", 0)
