"""The session disk: made sparse and valid, kept, grown, never shrunk, never put over another base."""

from __future__ import annotations

import os
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from dozlab.images import ext4
from dozlab.init_rootfs import disk
from dozlab.init_rootfs.__main__ import main
from dozlab.init_rootfs.settings import from_env
from dozlab.lib.errors import BadUsage, DozlabError
from dozlab.lib.proc import need, run
from dozlab.lib.timeline import Timeline
from dozlab.lib.units import format_size, parse_size
from tests.unit.init_rootfs.conftest import mounted

Environ = Callable[..., dict[str, str]]


def prepared(environ: dict[str, str], digest: str = "a" * 64) -> disk.Disk:
    return disk.prepare(from_env({"IMAGE_DOWNLOAD_URL": "/x", **environ}), digest)


def prepare(environ: dict[str, str], digest: str = "a" * 64) -> tuple[Path, str]:
    found = prepared(environ, digest)
    return found.path, found.what


def seen_free(path: Path) -> int:
    """Return what dumpe2fs says is free and not root's, in bytes."""
    told = run([need("dumpe2fs", "e2fsprogs"), "-h", path]).out
    free, reserved, size = (
        int(re.search(rf"^{name}: +(\d+)", told, re.MULTILINE)[1])  # type: ignore[index]
        for name in ("Free blocks", "Reserved block count", "Block size")
    )
    return (free - reserved) * size


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


@pytest.mark.parametrize("size", ["64M", "4G", "1T"])
def test_it_tells_what_is_free_for_the_learner(size: str, environ: Environ) -> None:
    made = prepared(environ(IMAGE_SIZE=size))
    assert made.free == seen_free(made.path)
    assert 0.7 * made.size < made.free < made.size == parse_size(size)
    assert made.line().startswith(f"session disk made: {format_size(made.size)}, {format_size(made.free)} free for")
    assert prepared(environ(IMAGE_SIZE=size)).line().partition(" (")[0] == (
        f"session disk kept: {format_size(made.size)}"
    )


def test_free_space_of_more_blocks_than_32_bits_count() -> None:
    head = bytearray(ext4.HEAD)
    for at, value in ((0x60, 0x80), (0x18, 2), (0x0C, 5), (0x158, 2), (0x08, 3), (0x154, 1)):
        struct.pack_into("<I", head, ext4.SUPERBLOCK + at, value)
    assert ext4.free_space(bytes(head)) == ((2 << 32) + 5 - (1 << 32) - 3) * 4096
    struct.pack_into("<I", head, ext4.SUPERBLOCK + 0x60, 0)  # then the upper halves are something else's
    assert ext4.free_space(bytes(head)) == 2 * 4096


def test_what_is_free_grows_with_it(environ: Environ) -> None:
    before = prepared(environ())
    grown = prepared(environ(IMAGE_SIZE="256M"))
    assert grown.what == "grown"
    assert grown.free == seen_free(grown.path) > before.free + (150 << 20)


def test_it_tells_where_the_volume_is_smaller(environ: Environ, tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    with mounted(tmp_path / "small", "mount -t tmpfs -o size=8m tmpfs .") as folder:
        env = {**environ(IMAGE_SIZE="64M"), "VM_DATA": str(folder)}
        for _ in range(2):
            assert prepared(env).line().endswith(" (its volume has room for only 8.0 MiB of it)")
    assert "volume" not in prepared(environ(IMAGE_SIZE="64M")).line()


def test_a_base_larger_than_the_session_disk_is_no_matter(environ: Environ, tmp_path: Path) -> None:
    base = tmp_path / "base.ext4"
    with base.open("wb") as file:
        file.truncate(256 << 20)
    run([need("mke2fs", "e2fsprogs"), "-q", "-F", "-t", "ext4", base])
    env = environ(IMAGE_SIZE="64M", IMAGE_DOWNLOAD_URL=str(base))
    assert main([], env) == 0
    told = Timeline(Path(env["SHARED_DIR"])).read()[-1].detail
    assert f"from {base}, session disk made: 64.0 MiB, " in told and "free for changes" in told


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
