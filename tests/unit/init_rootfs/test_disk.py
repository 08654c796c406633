"""The session disk: made sparse and valid, kept, grown, never shrunk, never put over another base."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dozlab.init_rootfs import disk
from dozlab.init_rootfs.settings import from_env
from dozlab.lib.errors import BadUsage, DozlabError
from dozlab.lib.proc import need, run

Environ = Callable[..., dict[str, str]]


def prepare(environ: dict[str, str], digest: str = "a" * 64) -> tuple[Path, str]:
    return disk.prepare(from_env({"IMAGE_DOWNLOAD_URL": "/x", **environ}), digest)


def fsck(path: Path) -> int:
    return run([need("e2fsck", "e2fsprogs"), "-f", "-n", path], check=False).code


def test_made_sparse_valid_and_of_root(environ: Environ) -> None:
    path, what = prepare(environ(IMAGE_SIZE="4G"))
    assert what == "made"
    assert path.stat().st_size == 4 << 30
    assert path.stat().st_blocks * 512 < 8 << 20
    assert fsck(path) == 0
    owner = run([need("debugfs", "e2fsprogs"), "-R", "stat /", path]).out
    assert "User:     0   Group:     0" in owner


def test_an_existing_disk_is_kept_as_it_is(environ: Environ) -> None:
    path, _ = prepare(environ())
    before = path.read_bytes()
    assert prepare(environ()) == (path, "kept")
    assert path.read_bytes() == before


def test_grows_offline(environ: Environ) -> None:
    path, _ = prepare(environ())
    assert prepare(environ(IMAGE_SIZE="256M"))[1] == "grown"
    assert path.stat().st_size == 256 << 20
    assert fsck(path) == 0
    assert prepare(environ(IMAGE_SIZE="256M"))[1] == "kept"


def test_what_a_reset_goes_back_to_grows_with_it(environ: Environ) -> None:
    path, _ = prepare(environ())
    clean = path.with_name("session.ext4.clean")
    shutil.copyfile(path, clean)
    prepare(environ(IMAGE_SIZE="256M"))
    assert clean.stat().st_size == 256 << 20
    assert fsck(clean) == 0


def test_a_new_disk_has_nothing_of_the_old_one(environ: Environ) -> None:
    path, _ = prepare(environ())
    shutil.copyfile(path, path.with_name("session.ext4.clean"))
    (path.parent / "checkpoints/one").mkdir(parents=True)
    path.unlink()
    assert prepare(environ())[1] == "made"
    assert sorted(each.name for each in path.parent.iterdir()) == ["base.json", "session.ext4"]


def test_a_growth_that_was_cut_short_is_done_at_the_next_start(environ: Environ) -> None:
    path, _ = prepare(environ())
    os.truncate(path, 256 << 20)
    assert prepare(environ(IMAGE_SIZE="256M"))[1] == "grown"


def test_refuses_to_shrink(environ: Environ) -> None:
    prepare(environ(IMAGE_SIZE="128M"))
    with pytest.raises(DozlabError, match=r"has 128 MiB and cannot shrink to 64.0 MiB"):
        prepare(environ(IMAGE_SIZE="64M"))


def test_another_base_is_refused_by_name(environ: Environ) -> None:
    prepare(environ(), "a" * 64)
    with pytest.raises(DozlabError, match=r"over base a{19}, not over b{19}"):
        prepare(environ(), "b" * 64)


def test_too_small_is_bad_usage(environ: Environ) -> None:
    with pytest.raises(BadUsage, match=r"a session disk has 64.0 MiB or more"):
        prepare(environ(IMAGE_SIZE="63M"))


def test_without_mke2fs_one_line_and_nothing_left(environ: Environ, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dozlab.lib.proc.shutil.which", lambda *args, **kw: None)
    with pytest.raises(DozlabError, match="apt-get install e2fsprogs"):
        prepare(environ())
    assert sorted(os.listdir(Path(environ()["VM_DATA"]) / "disk")) == ["base.json"]


def test_a_failing_mke2fs_leaves_no_disk(environ: Environ, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "mke2fs"
    fake.write_text("#!/bin/sh\necho 'mke2fs: No space left on device' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(DozlabError, match="No space left"):
        prepare(environ())
    assert sorted(os.listdir(Path(environ()["VM_DATA"]) / "disk")) == ["base.json"]
