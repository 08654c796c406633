"""Building: command lines, what is laid over, the reason of a failure, the hello-world image."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from dozlab.images import build, hello, overlay, packages, recipe
from dozlab.images.store import Store
from dozlab.lib.errors import DozlabError


def sample(**more: object) -> recipe.Recipe:
    return recipe.Recipe(name="small", suite="trixie", packages=("git",), size_limit=1 << 30, **more)  # type: ignore[arg-type]


def laid(made: recipe.Recipe, pieces: Sequence[overlay.Piece] = (), containers: Sequence[Path] = ()) -> bytes:
    out = io.BytesIO()
    overlay.write_tar(out, made, pieces, containers)
    return out.getvalue()


def argv(root: bool, *, network: bool = True) -> list[str]:
    return build.mmdebstrap_argv(
        sample(), mirror="http://mirror/debian", keyring=Path("/k.gpg"), target=Path("/w/tree"), root=root,
        archives=Path("/c/debs"), extra=Path("/w/extra.tar"), packages_out=Path("/w/packages"), lists=Path("/w/lists"),
        network=network, apt_options={"Acquire::http::Proxy": "http://p:1/"}, lean=["/usr/share/man/*"],
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
    data = laid(sample(files=(tmp_path,), hello_world=True, enable=("ssh.service",)))
    assert data == laid(sample(files=(tmp_path,), hello_world=True, enable=("ssh.service",)))
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
    done = subprocess.run([path], capture_output=True, check=True, timeout=60)
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


def test_lists_are_kept_by_a_build_and_taken_by_one_without_a_network() -> None:
    assert "--customize-hook=sync-out /var/lib/apt/lists /w/lists" in argv(True)
    offline = argv(True, network=False)
    assert "--skip=essential/unlink,update" in offline and "--skip=essential/unlink" in argv(True)
    assert "--setup-hook=sync-in /w/lists /var/lib/apt/lists" in offline
    assert not [word for word in offline if "sync-out /var/lib/apt/lists" in word]


def test_the_lists_of_a_build_take_the_place_of_the_old_ones(tmp_path: Path) -> None:
    old, made = packages.lists(tmp_path, "trixie"), tmp_path / "made"
    for folder in (old, made / "partial"):
        folder.mkdir(parents=True)
    (old / "old_Packages").touch()
    for name in ("new_Packages", "lock"):
        (made / name).touch()
    packages.keep_lists(made, tmp_path, "trixie")
    assert [path.name for path in old.iterdir()] == ["new_Packages"] and not made.exists()


def test_a_build_without_a_network_lacks_lists_first(tmp_path: Path) -> None:
    (line,) = packages.missing(sample(), tmp_path)
    assert line.startswith("the package lists of Debian trixie: not in ")


def test_apt_names_the_packages_that_are_not_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real apt, over a list of our own."""
    monkeypatch.setenv("DOZLAB_DEBIAN_MIRROR", "http://mirror.invalid/debian")
    text = ""
    for name, depends in (("apt", ""), ("git", "libc6"), ("libc6", ""), ("unwanted", "")):
        text += f"Package: {name}\nVersion: 1:2\nArchitecture: all\nMaintainer: a\nDescription: a\nSize: 4\n"
        text += f"Filename: pool/{name}_2_all.deb\nSHA256: {'0' * 64}\n"
        text += (f"Depends: {depends}\n" if depends else "") + ("Essential: yes\n\n" if name == "libc6" else "\n")
    lists, there = packages.lists(tmp_path, "trixie"), packages.archives(tmp_path, "trixie")
    for folder in (lists, there / "partial"):
        folder.mkdir(parents=True)
    base = "mirror.invalid_debian_dists_trixie_"
    (lists / f"{base}main_binary-{debian_architecture()}_Packages").write_text(text)
    (lists / f"{base}Release").write_text("Suite: stable\nCodename: trixie\nComponents: main\n")
    found = packages.missing(sample(), tmp_path)
    assert sorted(line.partition(": not in ")[0] for line in found) == [
        "apt_1:2_all.deb", "git_1:2_all.deb", "libc6_1:2_all.deb"
    ]  # fmt: skip


def debian_architecture() -> str:
    return subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True).stdout.strip()


def test_what_mmdebstrap_is_at_and_a_check_that_fails() -> None:
    log = "I: running apt-get update...\nI: running --customize-hook directly: tar-in\nI: check: test -x /a b\n"
    assert (
        build.doing(log) == "check: test -x /a b" and build.doing("I: running apt-get update...\n") == "apt-get update"
    )
    assert build.doing("I: automatically chosen mode: root\n") == ""
    failed = "E: the image fails its check: test -x /a: no such file"
    assert build.reason(f"{log}{failed}\nE: run_chroot failed: E: command failed\n") == failed[3:]


def test_the_check_script_stops_at_the_first_that_fails(tmp_path: Path) -> None:
    script = overlay.data_file("check").decode().replace("here=/.dozlab-build", f"here={tmp_path}")
    (tmp_path / "checks").write_text(f"true\ntouch {tmp_path}/ran\necho why; exit 3\ntouch {tmp_path}/never\n")
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 1 and (tmp_path / "ran").exists() and not (tmp_path / "never").exists()
    assert build.reason(done.stdout) == "the image fails its check: echo why; exit 3: why"
    (tmp_path / "checks").write_text("true\n")
    assert subprocess.run(["sh", "-c", script], check=False, capture_output=True, timeout=30).returncode == 0
