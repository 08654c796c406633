"""An image fetched as one stream: unpacked, hashed and written as it comes, and resumable where its kind allows.

A plain image goes on at any byte, zstd at the end of a frame. Of gz, xz and a single zstd frame the packed bytes are
kept beside the image (the spool), as long as there is room for them: unpacked again, they bring one to where it broke.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from dozlab.images import ext4
from dozlab.images.partial import Partial
from dozlab.init_rootfs import sparse
from dozlab.init_rootfs.progress import Progress
from dozlab.init_rootfs.source import BLOCK, Source
from dozlab.init_rootfs.unpack import MAGIC_SIZE, Mark, detect, unpack, unpacked_size

log = logging.getLogger(__name__)

_SAVE = 1.0
"""Seconds between two notes of how far it is."""


@dataclass(frozen=True)
class Room:
    """What may be written. `most` bytes of an image, 0 unlimited; `free` bytes of the disk.

    `refuse(size, room)` returns the error for an image that needs more.
    """

    most: int
    free: int
    refuse: Callable[[int, int], Exception]

    def check(self, size: int) -> None:
        """Raise when an image of `size` bytes has no room."""
        if self.most and size > self.most:
            raise self.refuse(size, self.most)
        if size > self.free:
            raise self.refuse(size, self.free)


def fetch(key: str, source: Source, partial: Partial, progress: Progress, room: Room) -> str:
    """Bring the source's image into the partial one, and return the sha256 of it.

    :param key: what the source is called, without secrets
    :raises DozlabError: when it is no whole ext4 image, is damaged, too large, or cannot be had
    :raises OSError: when it cannot be written
    """
    about = {"kind": "stream", "key": key, **source.meta.as_dict()}
    partial.resumable = source.meta.told
    mark = _take_up(partial, about, progress)
    kept = partial.spool.stat().st_size if partial.spool.exists() else 0
    blocks = progress.watch(source.blocks(mark.at[0] or kept))
    if mark.at[0]:
        kind = partial.state["format"]
    else:
        head, blocks = _head(itertools.chain(_spooled(partial), blocks) if kept else blocks)
        kind = detect(head)
        if kind == "plain":
            ext4.check_head(head)
        expected = unpacked_size(head[:MAGIC_SIZE]) or (source.meta.length if kind == "plain" else -1)
        room.check(max(expected, source.meta.length if expected < 0 else 0))
        if partial.resumable:
            partial.save(about, {"format": kind, "packed": 0, "unpacked": 0})
            if kind != "plain" and max(expected, source.meta.length) + source.meta.length < (room.most or room.free):
                blocks = _spool(partial, blocks, kept)
    writer = _Writer(partial, about, kind, mark, room)
    with sparse.Digest(partial.image) as digest:
        size = writer.write(unpack(blocks, kind, mark), digest)
        return digest.finish(size)


def _take_up(partial: Partial, about: dict[str, Any], progress: Progress) -> Mark:
    """Return where to go on; an empty mark and perhaps a spool where unpacking begins at the start."""
    mark = Mark()
    if not partial.resumable:
        partial.clear()
    elif partial.load(about):
        mark = Mark((int(partial.state["packed"]), int(partial.state["unpacked"])))
    os.truncate(partial.image, mark.at[1])  # behind it lies what nobody speaks of: a hole is to be a hole
    if mark.at[0]:
        partial.spool.unlink(missing_ok=True)
    done = mark.at[0] or (partial.spool.stat().st_size if partial.spool.exists() else 0)
    progress.begin_at(done)
    if done:
        log.info("going on with a download at byte %d", done)
    return mark


def _head(blocks: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """Return the first bytes, and all of them as blocks again."""
    head = b""
    for block in blocks:
        head += block
        if len(head) >= ext4.HEAD:
            break
    return head, itertools.chain([head], blocks)


def _spooled(partial: Partial) -> Iterator[bytes]:
    with partial.spool.open("rb") as file:
        while block := file.read(BLOCK):
            yield block


def _spool(partial: Partial, blocks: Iterator[bytes], kept: int) -> Iterator[bytes]:
    """Pass blocks through, writing them down unless they came from there; the spool goes when it is of no more use."""
    at = 0
    with partial.spool.open("ab", buffering=0) as file:
        for block in blocks:
            if (fresh := block[max(0, kept - at) :]) and partial.spool.exists():
                with contextlib.suppress(OSError):  # it can do without
                    if file.write(fresh) == len(fresh):
                        at += len(block)
                        yield block
                        continue
                partial.spool.unlink(missing_ok=True)
            at += len(block)
            yield block


class _Writer:
    """Writes the image, checking it as soon and as far as possible, and notes how far it is."""

    def __init__(self, partial: Partial, about: dict[str, Any], kind: str, mark: Mark, room: Room) -> None:
        self._partial, self._about, self._kind, self._mark, self._room = partial, about, kind, mark, room
        self._saved, self._when = mark.at[0], time.monotonic()

    def write(self, chunks: Iterator[bytes], digest: sparse.Digest) -> int:
        """Write all of it and return its size in bytes."""
        size, head, checked = self._mark.at[1], b"", False
        with self._partial.image.open("r+b", buffering=0) as file:
            if size:
                head, checked = file.read(ext4.HEAD), True
            try:
                for chunk in chunks:
                    if not checked:
                        head += chunk[: ext4.HEAD - len(head)]
                        if len(head) == ext4.HEAD:
                            self._room.check(ext4.check_head(head))
                            checked = True
                    sparse.write(file.fileno(), chunk, size)
                    size += len(chunk)
                    if self._room.most and size > self._room.most:
                        raise self._room.refuse(size, self._room.most)
                    digest.advance(size)
                    if self._kind == "plain":
                        self._mark.at = (size, size)
                    if time.monotonic() - self._when >= _SAVE:
                        self._save(file.fileno())
            finally:
                self._save(file.fileno())
            ext4.check_size(head, size)
            file.truncate(size)
        return size

    def _save(self, fd: int) -> None:
        self._when = time.monotonic()
        packed, unpacked = self._mark.at
        if not self._partial.resumable or packed <= self._saved:
            return
        if os.fstat(fd).st_size < unpacked:
            os.ftruncate(fd, unpacked)  # it ends with a hole
        self._partial.save(self._about, {"format": self._kind, "packed": packed, "unpacked": unpacked})
        self._saved = packed
        self._partial.spool.unlink(missing_ok=True)
