"""An ext4 file system of a folder's files, by `mke2fs -d` (mke2fs(8)): a base image."""

from __future__ import annotations

import os
from pathlib import Path

from dozlab.images.making.work import as_root
from dozlab.lib.proc import need, run
from dozlab.lib.units import MIB

EPOCH = "1754697600"  # 2025-08-09, the release of Debian 13: time stamps do not differ between builds
UUID = "d021ab00-ba5e-4000-8000-000000000001"
_TIMEOUT = 1800.0


def mke2fs_argv(tree: Path, image: Path, blocks: int, *, label: str) -> list[str]:
    """Return the command that makes the image of `blocks` 4 KiB blocks from a folder. Pure."""
    return [
        need("mke2fs", "e2fsprogs"), "-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-L", label[:16], "-U", UUID,
        "-O", "^has_journal,^resize_inode,^metadata_csum,^orphan_file", "-E",
        f"hash_seed={UUID},lazy_itable_init=0,nodiscard,root_owner=0:0", "-d", str(tree), str(image), str(blocks),
    ]  # fmt: skip


def image_from_tree(tree: Path, image: Path, *, label: str, headroom: int = 16 * MIB) -> None:
    """Make `image` an ext4 file system that holds a folder's files, with the owners that `as_root` sees.

    :param label: of the file system, its first 16 characters
    :param headroom: bytes left free
    :raises DozlabError: with mke2fs' last words
    """
    usage = run([*as_root(), "du", "-s", "--block-size=4096", "--count-links", tree], timeout=120)
    files = run([*as_root(), "find", tree, "-printf", "."], timeout=120)
    inodes = len(files.out) + 1024
    data = int(usage.out.split()[0])
    blocks = data + inodes * 256 // 4096 + data // 64 + headroom // 4096
    argv = [*as_root(), *mke2fs_argv(tree, image, blocks, label=label)]
    argv[argv.index("-d") : argv.index("-d")] = ["-N", str(inodes)]
    env = {**os.environ, "SOURCE_DATE_EPOCH": EPOCH, "E2FSPROGS_FAKE_TIME": EPOCH, "MKE2FS_SKIP_PROGRESS": "1"}
    run(argv, timeout=_TIMEOUT, env=env)
