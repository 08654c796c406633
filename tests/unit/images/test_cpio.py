"""The initramfs format: busybox and the host's own cpio read what we write."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest

from dozlab.images import cpio, initramfs
from dozlab.lib.errors import DozlabError


def test_an_archive_unpacks_with_names_modes_and_content(tmp_path: Path) -> None:
    archive = cpio.pack(
        [
            cpio.directory("d", 0o700),
            cpio.file("d/odd", b"12345", 0o600),
            cpio.file("d/empty", b""),
            cpio.link("d/link", "odd"),
        ]
    )
    assert len(archive) % 4 == 0
    subprocess.run(["busybox", "cpio", "-id"], input=archive, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "d/odd").read_bytes() == b"12345"
    assert stat.S_IMODE((tmp_path / "d/odd").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "d").stat().st_mode) == 0o700
    assert (tmp_path / "d/empty").read_bytes() == b"" and (tmp_path / "d/link").readlink() == Path("odd")


def test_every_member_is_owned_by_root_and_a_node_keeps_its_numbers() -> None:
    archive = cpio.pack([cpio.node("console", 5, 1), cpio.file("f", b"x")])
    listing = subprocess.run(["busybox", "cpio", "-tv"], input=archive, check=True, capture_output=True).stdout.decode()
    assert [line.split()[:2] for line in listing.splitlines()] == [["crw-------", "0/0"], ["-rw-r--r--", "0/0"]]
    fields = [int(archive[6 + 8 * n : 14 + 8 * n], 16) for n in range(13)]
    assert fields[2:4] == [0, 0] and fields[9:11] == [5, 1]


def test_pad_makes_room_for_an_archive_behind() -> None:
    assert len(cpio.pad(b"12345")) == 8 and cpio.pad(b"1234") == b"1234"


DEP = """kernel/a/virtio_net.ko.xz: kernel/a/net_failover.ko.xz kernel/a/failover.ko.xz
kernel/a/net_failover.ko.xz: kernel/a/failover.ko.xz
kernel/a/failover.ko.xz:
kernel/a/virtio-rng.ko:
"""


def test_modules_load_after_what_they_need_and_built_in_ones_not_at_all() -> None:
    order = initramfs.load_order(
        DEP, "kernel/b/virtio_pci.ko\n", ("virtio_pci", "virtio_net", "virtio-rng", "failover")
    )
    assert [path.rpartition("/")[2] for path in order] == [
        "failover.ko.xz", "net_failover.ko.xz", "virtio_net.ko.xz", "virtio-rng.ko",
    ]  # fmt: skip


def test_a_module_the_kernel_lacks_is_named() -> None:
    with pytest.raises(DozlabError, match="overlay"):
        initramfs.load_order(DEP, "", ("overlay",))


def test_both_initramfs_hold_an_init_that_is_good_shell(tmp_path: Path) -> None:
    for name in ("init", "probe-init"):
        script = (initramfs.kitfiles() / name).read_bytes()
        subprocess.run(["busybox", "sh", "-n"], input=script, check=True)
    archive = initramfs.boot(b"busybox", [("overlay.ko", b"module")])
    assert len(archive) % 512 == 0
    subprocess.run(
        ["busybox", "cpio", "-id", "init", "modules/*"], input=archive, cwd=tmp_path, check=True, capture_output=True
    )
    assert (tmp_path / "init").stat().st_mode & 0o111
    assert (tmp_path / "modules/00-overlay.ko").read_bytes() == b"module"


def test_what_was_packed_is_unpacked() -> None:
    entries = [cpio.directory("a", 0o700), cpio.file("a/file", b"12345", 0o600), cpio.node("dev", 5, 1)]
    assert cpio.unpack(cpio.pad(cpio.pack(entries), 512)) == entries


@pytest.mark.parametrize("cut", [0, 50, 111, 240])
def test_an_archive_that_is_cut_short_is_none(cut: int) -> None:
    with pytest.raises(ValueError, match=r"no newc member|cut short"):
        cpio.unpack(cpio.pack([cpio.file("name", b"x" * 200)])[:cut])
