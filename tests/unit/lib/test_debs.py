"""Debian packages of another suite. Mirrors lib/debs.py; the download itself is tested by what uses it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from dozlab.lib import debs
from dozlab.lib.errors import DozlabError


def test_picks_debians_own_archive() -> None:
    listing = (
        "bookworm-security main http://mirror.test/debian-security\nbookworm main http://other.test/apt\n"
        "bookworm contrib http://mirror.test/debian\nbookworm main http://mirror.test/debian/\n"
    )
    assert debs.pick_mirror(listing) == "http://mirror.test/debian"
    assert debs.pick_mirror("noble main http://mirror.test/ubuntu\n\n") == ""


def test_reads_apts_list_of_files() -> None:
    uris = "'http://m.test/pool/d/docker_26+dfsg_amd64.deb' docker-cli_26%3a1+dfsg_amd64.deb 73 SHA256:00\nignored\n"
    assert debs.deb_names(uris) == {"docker-cli": "docker-cli_26%3a1+dfsg_amd64.deb"}


def test_unpacks_files_and_runs_nothing(tmp_path: Path) -> None:
    control = tmp_path / "package/DEBIAN"
    control.mkdir(parents=True)
    (control / "control").write_text(
        "Package: x\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b.test>\nDescription: x\n"
    )
    (control / "postinst").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (control / "postinst").chmod(0o755)
    (tmp_path / "package/usr").mkdir()
    (tmp_path / "package/usr/file").write_text("content")
    subprocess.run(["dpkg-deb", "-b", tmp_path / "package", tmp_path / "x.deb"], check=True, capture_output=True)
    debs.unpack(tmp_path / "x.deb", tmp_path / "out")
    assert (tmp_path / "out/usr/file").read_text() == "content"
    assert not (tmp_path / "ran").exists()
    (tmp_path / "bad.deb").write_bytes(b"no deb")
    with pytest.raises(DozlabError, match="dpkg-deb failed"):
        debs.unpack(tmp_path / "bad.deb", tmp_path / "out")
