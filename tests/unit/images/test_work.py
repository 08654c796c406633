"""The folder that an image is made in: it goes on every path, and with the next one where its process was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dozlab.images import build
from dozlab.images.making import work
from dozlab.images.store import Store
from dozlab.lib.errors import DozlabError
from tests.support import until

RECIPE = 'name = "small"\nsuite = "trixie"\npackages = ["git"]\nsize_limit = "1Gi"\n'
MMDEBSTRAP = """#!/bin/sh
[ ! -e "$TEST/fails" ] || { echo "E: nothing today"; exit 1; }
echo half > "$TMPDIR/half"; mkfifo "$TEST/never"; echo $$ > "$TEST/pid.new"; mv "$TEST/pid.new" "$TEST/pid"
read -r line < "$TEST/never"
"""
BUILD = """
import sys
from pathlib import Path
from dozlab.images import build
from dozlab.images.store import Store
build.build(sys.argv[1], store=Store(Path(sys.argv[2]) / "store"), cache=Path(sys.argv[2]))
"""


def folders(place: Path) -> list[Path]:
    return sorted(place.glob(f"{work._PREFIX}*"))


def test_what_nobody_holds_goes_with_the_next(tmp_path: Path) -> None:
    with work.work_folder(tmp_path, "import") as held:
        stale, new = held.parent / f"{work._PREFIX}stale", held.parent / f"{work._PREFIX}new"
        for folder in (stale, new):
            folder.mkdir()
        for folder in (stale, held):
            os.utime(folder, (1, 1))
        with work.work_folder(tmp_path, "import") as second:
            assert not stale.exists() and new.exists() and held.exists() and second.exists()
        new.rmdir()
    assert not held.exists() and not second.exists()


def test_what_the_disk_refuses_is_told(tmp_path: Path) -> None:
    with (
        pytest.raises(DozlabError, match=r"cannot build: No such file or directory: .*/a"),
        work.work_folder(tmp_path, "build") as folder,
    ):
        (folder / "none/a").write_text("")


@pytest.mark.root
def test_a_killed_build_leaves_nothing_that_the_next_does_not_take_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for mmdebstrap, which would take a minute: it stays in the middle until it dies with its parent."""
    place = tmp_path / "cache/build"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/mmdebstrap").write_text(MMDEBSTRAP)
    (tmp_path / "bin/mmdebstrap").chmod(0o755)
    (tmp_path / "small").mkdir()
    (tmp_path / "small/recipe.toml").write_text(RECIPE)
    for name, value in (("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}"), ("TEST", str(tmp_path)),
                        ("DOZLAB_DEBIAN_MIRROR", "http://mirror.invalid/debian")):  # fmt: skip
        monkeypatch.setenv(name, value)
    argv = [sys.executable, "-c", BUILD, str(tmp_path / "small"), str(tmp_path / "cache")]
    process = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
    try:
        until(lambda: (tmp_path / "pid").exists() or process.poll() is not None, what="half a build", seconds=120)
        assert process.poll() is None, process.stderr and process.stderr.read()
        program = int((tmp_path / "pid").read_text())
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    until(lambda: not Path(f"/proc/{program}").exists(), what="mmdebstrap dies with its parent", seconds=60)
    (left,) = folders(place)
    assert (left / "tmp/half").read_text() == "half\n"
    os.utime(left, (1, 1))
    (tmp_path / "fails").touch()
    with pytest.raises(DozlabError, match="mmdebstrap failed: nothing today"):
        build.build(tmp_path / "small", store=Store(tmp_path / "cache/store"), cache=tmp_path / "cache")
    assert folders(place) == []
