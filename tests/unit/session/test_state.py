"""What a killed process leaves of a session: its lock, half of its folder."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dozlab.lib import files
from dozlab.session import state
from dozlab.session.layout import Layout
from dozlab.session.ports import NONE
from tests.support import until


@pytest.fixture
def layout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Layout:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    found = Layout("lab")
    found.state.mkdir(parents=True)
    return found


@contextmanager
def holder(layout: Layout, program: Path) -> Iterator[int]:
    """A process that holds the session's lock, and whose parent, the launcher, was killed; yields its pid."""
    # The lock passes to the child as descriptor 7; $! is its pid.
    script = f'"{program}" 600 >/dev/null & echo $!; kill -9 $$'
    with files.locked(layout.lock) as fd:
        launcher = subprocess.Popen(
            ["bash", "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True, pass_fds=(fd,)
        )
    assert launcher.stdout is not None
    pid = int(launcher.stdout.readline())
    try:
        # Not waited for yet: a zombie, as the child of a `dozlab up` that still runs.
        until(lambda: "Z" in Path(f"/proc/{launcher.pid}/stat").read_text(), what="the launcher's end", seconds=30)
        state.Facts("lab", NONE, "127.0.0.1", None, launcher.pid, 0.0).save(layout.facts)
        yield pid
    finally:
        if os.path.exists(f"/proc/{pid}"):
            os.kill(pid, signal.SIGKILL)
        launcher.wait()
        launcher.stdout.close()


def test_the_child_of_a_pasta_that_was_killed_early_is_no_session(layout: Layout, tmp_path: Path) -> None:
    pasta = tmp_path / "passt.avx2"
    shutil.copy(shutil.which("sleep") or "", pasta)
    with holder(layout, pasta) as pid:
        until(lambda: os.readlink(f"/proc/{pid}/exe") == str(pasta), what="the program", seconds=30)
        assert not state.alive(layout)
        with files.locked(layout.lock, wait=False):
            pass
        assert state.members(pid) == []


def test_a_supervisor_whose_pasta_was_killed_ends_by_itself(layout: Layout) -> None:
    with holder(layout, Path(shutil.which("sleep") or "")) as pid:
        assert state.alive(layout)
        assert os.path.exists(f"/proc/{pid}")


def test_half_a_removal_is_no_session_and_the_next_one_ends_it(layout: Layout, tmp_path: Path) -> None:
    half = layout.state.with_name(".gone-other")
    (half / "vm-data").mkdir(parents=True)
    assert state.ids() == ["lab"]
    state.remove(layout)
    assert state.ids() == []
    assert not half.exists()
