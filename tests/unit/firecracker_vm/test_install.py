"""Installing the official release, against a server of our own; the test copy's digest is pinned."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dozlab.firecracker_vm.install import TEST_COPY_SHA256, install_release, install_test_copy
from dozlab.lib.errors import DozlabError

PROGRAM = b"#!/bin/sh\necho Firecracker v9.9.9\n"
NAME = "firecracker-v9.9.9-x86_64"


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def release(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """Yield the folder of a release and the address it is served at."""
    folder = tmp_path / "www" / "v9.9.9"
    folder.mkdir(parents=True)
    write_archive(folder, f"release-v9.9.9-x86_64/{NAME}")
    handler = functools.partial(_Quiet, directory=str(tmp_path / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def write_archive(folder: Path, member: str) -> None:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as tar:
        info = tarfile.TarInfo(member)
        info.size = len(PROGRAM)
        tar.addfile(info, io.BytesIO(PROGRAM))
    (folder / f"{NAME}.tgz").write_bytes(raw.getvalue())
    digest = hashlib.sha256(raw.getvalue()).hexdigest()
    (folder / f"{NAME}.tgz.sha256.txt").write_text(f"{digest}  {NAME}.tgz\n")


def test_a_release_is_checked_and_installed(release: tuple[Path, str], tmp_path: Path) -> None:
    path = install_release(tmp_path / "bin", "9.9.9", release[1])
    assert path.read_bytes() == PROGRAM
    assert path.stat().st_mode & 0o777 == 0o755


def test_faults_are_one_line_and_leave_nothing(release: tuple[Path, str], tmp_path: Path) -> None:
    folder, url = release
    with pytest.raises(DozlabError, match="HTTP 404"):
        install_release(tmp_path / "bin", "9.9.8", url)
    write_archive(folder, "something/else")
    with pytest.raises(DozlabError, match="holds no program"):
        install_release(tmp_path / "bin", "9.9.9", url)
    (folder / f"{NAME}.tgz.sha256.txt").write_text("0" * 64)
    with pytest.raises(DozlabError, match="does not match its published sha256"):
        install_release(tmp_path / "bin", "9.9.9", url)
    (folder / f"{NAME}.tgz.sha256.txt").write_text("<html>")
    with pytest.raises(DozlabError, match="holds no sha256"):
        install_release(tmp_path / "bin", "9.9.9", url)
    with pytest.raises(DozlabError, match="is there a way to the internet"):
        install_release(tmp_path / "bin", "9.9.9", "http://127.0.0.1:1")
    assert not (tmp_path / "bin").exists()


def test_the_test_copy_is_what_was_pinned(tmp_path: Path) -> None:
    assert hashlib.sha256(install_test_copy(tmp_path).read_bytes()).hexdigest() == TEST_COPY_SHA256
