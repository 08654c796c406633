"""Building: command lines, what is laid over, the reason of a failure, the hello-world image."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from dozlab.images import build, hello, overlay, recipe
from dozlab.images.store import Store
from dozlab.lib.errors import DozlabError


def sample(**more: object) -> recipe.Recipe:
    return recipe.Recipe(name="small", suite="trixie", packages=("git",), size_limit=1 << 30, **more)  # type: ignore[arg-type]


def argv(root: bool) -> list[str]:
    return build.mmdebstrap_argv(
        sample(), mirror="http://mirror/debian", keyring=Path("/k.gpg"), target=Path("/w/tree"), root=root,
        archives=Path("/c/debs"), extra=Path("/w/extra.tar"), packages_out=Path("/w/packages"),
        apt_options={"Acquire::http::Proxy": "http://p:1/"}, lean=["/usr/share/man/*"],
    )  # fmt: skip


def test_root_works_in_a_folder_and_a_user_in_a_namespace() -> None:
    assert "--mode=root" in argv(True) and "--format=directory" in argv(True)
    assert "--mode=unshare" in argv(False) and "--format=tar" in argv(False)
    assert argv(True)[-3:] == ["trixie", "/w/tree", "deb http://mirror/debian trixie main"]
    assert '--aptopt=Acquire::http::Proxy "http://p:1/"' in argv(True)


def test_the_hosts_proxy_and_certificate_options_are_carried_over() -> None:
    dump = (
        'APT "";\nAcquire::http::Proxy "http://p:3128/";\nAcquire::https::CaInfo "/etc/ca.pem";\n'
        'Acquire::http::Pipeline-Depth "0";\nAcquire::Languages:: "en";\nAcquire::Check-Valid-Until "false";\n'
        'Acquire::https::Empty "";\n'
    )
    assert build.host_apt_options(dump) == {
        "Acquire::http::Proxy": "http://p:3128/",
        "Acquire::https::CaInfo": "/etc/ca.pem",
        "Acquire::Check-Valid-Until": "false",
    }


def test_a_failure_is_told_in_one_line() -> None:
    assert (
        build.reason("I: running\nE: Unable to locate package nosuch\nE: apt failed\n")
        == "Unable to locate package nosuch"
    )
    assert (
        build.reason("x\ntar: a: Cannot write: No space left on device\nE: run_chroot failed\n") == "the disk is full"
    )
    assert build.reason("") == "no output"


def test_packages_are_read() -> None:
    assert build.parse_packages("git\t1:2.47\nlibc6\t2.41\n\n") == {"git": "1:2.47", "libc6": "2.41"}


def test_files_are_laid_over_as_root_with_gits_modes(tmp_path: Path) -> None:
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/tool").write_text("#!/bin/sh\n")
    (tmp_path / "usr/bin/tool").chmod(0o700)
    (tmp_path / "usr/bin/other").symlink_to("tool")
    (tmp_path / "plain").write_text("x")
    (tmp_path / "plain").chmod(0o600)
    data = overlay.build_tar(sample(files=tmp_path, hello_world=True, enable=("ssh.service",)))
    assert data == overlay.build_tar(sample(files=tmp_path, hello_world=True, enable=("ssh.service",)))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = {member.name: member for member in tar}
        enabled = tar.extractfile(".dozlab-build/services.enable")
        assert enabled and enabled.read() == b"ssh.service\n"
    assert members["usr/bin/tool"].mode == 0o755 and members["plain"].mode == 0o644
    assert members["usr/bin/other"].linkname == "tool"
    assert "usr/share/dozlab-vm/images/hello-world.tar" in members
    assert {member.uid for member in members.values()} == {0} and {member.mtime for member in members.values()} == {0}


def test_the_hello_program_runs_and_prints_its_message(tmp_path: Path) -> None:
    path = tmp_path / "hello"
    path.write_bytes(hello.program())
    path.chmod(0o755)
    done = subprocess.run([path], capture_output=True, check=True, timeout=10)
    assert done.stdout.decode() == hello.MESSAGE and "Hello from Docker" in hello.MESSAGE


def test_the_hello_archive_holds_one_image_and_is_always_the_same() -> None:
    assert hello.archive() == hello.archive()
    with tarfile.open(fileobj=io.BytesIO(hello.archive())) as tar:
        (manifest,) = json.loads(tar.extractfile("manifest.json").read())  # type: ignore[union-attr]
        config = json.loads(tar.extractfile(manifest["Config"]).read())  # type: ignore[union-attr]
        assert manifest["RepoTags"] == ["hello-world:latest"] and config["config"]["Cmd"] == ["/hello"]
        assert set(tar.getnames()) == {"manifest.json", manifest["Config"], *manifest["Layers"]}


def test_a_missing_program_is_named_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "need", _without_mmdebstrap)
    with pytest.raises(DozlabError, match="apt-get install mmdebstrap"):
        build.build("dozlab-vm", store=Store(tmp_path / "store"), cache=tmp_path / "cache")
    assert os.listdir(tmp_path) == []


def _without_mmdebstrap(program: str, package: str) -> str:
    from dozlab.lib.proc import need

    return need(program if program != "mmdebstrap" else "no-such-mmdebstrap", package)
