"""What the installer checks before and after npm. Mirrors code_server/install.py; npm itself runs in `make setup`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dozlab.code_server import install
from dozlab.lib.errors import DozlabError
from tests.support import until
from tests.unit.lib.test_processes import alive


def test_another_tarball_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.tgz"
    file.write_bytes(b"abc")
    digest = (
        "3a81oZNherrMQXNJriBBMRLm+k6JqX6iCp7u5ktV05ohkpkqJ0/BqDa6PCOj/uu9RU1EI2Q86A4qmslPpUyknw=="  # FIPS 180-2 C.1
    )
    install.check_integrity(file, f"sha512-{digest}")
    with pytest.raises(DozlabError, match="not the one we know"):
        install.check_integrity(file, install.INTEGRITY)


def test_missing_build_tools_name_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "SYSTEM_PATH", str(tmp_path))
    with pytest.raises(DozlabError, match="sudo apt-get install -y build-essential"):
        install.install(tmp_path / "cache")
    assert install.installed(tmp_path / "cache") is None
    assert os.listdir(tmp_path / "cache/code-server") == ["lock"]


def test_a_failing_npm_is_one_line_and_leaves_no_process(tmp_path: Path) -> None:
    output = tmp_path / "log"
    script = "sleep 300 & echo $! > pid; echo 'x.cc:1: fatal error: y.h: No such file'; echo rest; exit 3"
    with pytest.raises(DozlabError, match=r"fatal error: y\.h: No such file; see "):
        install._run(["/bin/sh", "-c", script], tmp_path, {"PATH": "/usr/bin:/bin"}, output, "building")
    pid = int((tmp_path / "pid").read_text())
    until(lambda: not alive(pid), what="the end of npm's children", seconds=30)


def test_an_installation_is_known_by_its_manifest(tmp_path: Path) -> None:
    folder = install._folder(tmp_path)
    folder.mkdir(parents=True)
    assert install.installed(tmp_path) is None
    (folder / "manifest.json").write_text("{}")
    assert install.install(tmp_path) == folder
