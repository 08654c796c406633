"""A packed image fetched frame by frame: several at once, each checked before it is unpacked, any order, resumable."""

from __future__ import annotations

import hashlib
import logging
import os
import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

from dozlab.images.manifest import Frame, ImageManifest
from dozlab.images.partial import Partial
from dozlab.init_rootfs import sparse
from dozlab.init_rootfs.progress import Progress
from dozlab.init_rootfs.source import NoRanges, Source
from dozlab.lib.errors import TransientError

log = logging.getLogger(__name__)

WORKERS = 3
"""Connections at once: enough for two cores and for a link whose delay limits one; each holds two frames in memory."""
_RUN = 16 << 20
"""Bytes of the image asked for in one request."""
_SAVE = 1.0


class _Work:
    """What the threads share: which frames are there, what is to be fetched, the first failure."""

    def __init__(self, manifest: ImageManifest, done: set[int]) -> None:
        self.manifest, self.done = manifest, done
        self.runs: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
        self.changed = threading.Condition()
        self.writing = threading.Lock()
        self.failure: BaseException | None = None
        self.stop = False
        self.busy = 0
        self.came = 0
        for run in runs(manifest, done):
            self.runs.put(run)

    def fail(self, error: BaseException) -> None:
        with self.changed:
            self.failure = self.failure or error
            self.stop = True
            self.changed.notify()

    def finished(self, number: int) -> None:
        with self.changed:
            self.done.add(number)
            self.changed.notify()


def runs(manifest: ImageManifest, done: set[int]) -> Iterator[list[int]]:
    """Yield the numbers of missing frames, those that are neighbours together, each list one request. Pure."""
    run: list[int] = []
    for number in range(len(manifest.frames)):
        if run and (number in done or len(run) * manifest.frame_size >= _RUN):
            yield run
            run = []
        if number not in done:
            run.append(number)
    if run:
        yield run


def about(manifest: ImageManifest) -> dict[str, Any]:
    """Return what a partial download of it is recognized by."""
    index = hashlib.sha256("".join(frame.sha256 for frame in manifest.frames).encode()).hexdigest()
    return {"kind": "frames", "sha256": manifest.sha256, "size": manifest.size, "frames": index}


def fetch(manifest: ImageManifest, source: Source, partial: Partial, progress: Progress) -> str:
    """Fetch the missing frames into the partial image, and return the sha256 of all of it.

    :raises NoRanges: when the source gives whole files only
    :raises DozlabError: TransientError where a later try, here or at a mirror, may work: what is there is kept
    :raises OSError: when it cannot be written
    """
    told = about(manifest)
    partial.load(told)
    done = unpack_numbers(partial.state.get("done", []))
    partial.resumable = True
    os.truncate(partial.image, manifest.size)
    work = _Work(manifest, done)
    progress.begin_at(sum(manifest.frames[number].length for number in done))
    if done:
        log.info("going on with a download: %d of %d frames are there", len(done), len(manifest.frames))
    count = min(WORKERS, work.runs.qsize())
    work.busy = count
    for number in range(count):
        # A thread that waits for a server cannot be woken: it is left behind when we fail, and touches nothing of ours.
        threading.Thread(target=_worker, args=(work, source, partial), name=f"frames-{number}", daemon=True).start()
    with sparse.Digest(partial.image) as digest:
        try:
            _watch(work, partial, progress, digest, told)
        except NoRanges:
            partial.resumable = False
            raise
        finally:
            with work.changed:
                work.stop = True
                done_now = pack_numbers(work.done)
            partial.save(told, {"done": done_now})
        return digest.finish(manifest.size)


def _watch(work: _Work, partial: Partial, progress: Progress, digest: sparse.Digest, told: dict[str, Any]) -> None:
    whole, saved, frames, seen = 0, time.monotonic(), work.manifest.frames, -1
    while True:
        with work.changed:
            work.changed.wait_for(lambda: work.failure or work.busy == 0 or len(work.done) != seen, 0.5)  # noqa: B023
            if work.failure:
                raise work.failure
            while whole < len(frames) and whole in work.done:
                whole += 1
            came, over, seen = work.came, work.busy == 0, len(work.done)
            done = pack_numbers(work.done) if time.monotonic() - saved >= _SAVE else None
        progress.at(came)
        digest.advance(frames[whole - 1].at + frames[whole - 1].size if whole else 0)
        if done is not None:
            partial.save(told, {"done": done})
            saved = time.monotonic()
        if over and whole == len(frames):
            return


def _worker(work: _Work, source: Source, partial: Partial) -> None:
    try:
        unpacker = _Unpacker(work, partial)
        try:
            while not work.stop:
                try:
                    run = work.runs.get_nowait()
                except queue.Empty:
                    break
                _fetch_run(work, source, unpacker, run)
        finally:
            unpacker.close()
        with work.changed:
            work.busy -= 1
            work.changed.notify()
    except BaseException as error:  # the watching thread raises it
        work.fail(error)


def _fetch_run(work: _Work, source: Source, unpacker: _Unpacker, run: list[int]) -> None:
    frames = [work.manifest.frames[number] for number in run]
    again: list[Frame] = []
    for frame, packed in _cut(source.span(frames[0].offset, frames[-1].offset + frames[-1].length), frames, work):
        if work.stop:
            return
        if not unpacker.place(frame, packed):
            again.append(frame)
    for frame in again:  # a flipped bit on the way: once more, alone
        log.warning("frame %d came damaged: fetching it again", frame.at // work.manifest.frame_size)
        for one, packed in _cut(source.span(frame.offset, frame.offset + frame.length), [frame], work):
            if not unpacker.place(one, packed):
                raise TransientError(
                    f"the image does not match its manifest at byte {one.offset}",
                    hint="export it again, both files, or try again when they have been uploaded",
                )


def _cut(blocks: Iterator[bytes], frames: list[Frame], work: _Work) -> Iterator[tuple[Frame, bytes]]:
    """Yield each frame's packed bytes out of one stream of them, and read that to its end: then its connection serves
    the next request."""
    pieces, have, wanted = list[bytes](), 0, iter(frames)
    frame = next(wanted, None)
    for block in blocks:
        with work.changed:
            work.came += len(block)
        pieces.append(block)
        have += len(block)
        while frame and have >= frame.length:
            over = have - frame.length
            last = pieces.pop()
            pieces.append(last[: len(last) - over])
            yield frame, b"".join(pieces)
            pieces, have, frame = [last[len(last) - over :]] if over else [], over, next(wanted, None)


class _Unpacker:
    """Unpacks one thread's frames, into the same memory each time, and writes them where they belong."""

    def __init__(self, work: _Work, partial: Partial) -> None:
        import zstandard

        self._work, self._zstd = work, zstandard
        self._zstandard = zstandard.ZstdDecompressor()
        self._data = bytearray(work.manifest.frame_size)
        self._fd = os.open(partial.image, os.O_WRONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def place(self, frame: Frame, packed: bytes) -> bool:
        """Write a frame where it belongs; tell whether it is whole: nothing is written of one that is not.

        A frame has zstd's checksum of its content (XXH64, RFC 8878 3.1.1); one without has the manifest's sha256.
        """
        view = memoryview(self._data)[: frame.size]
        try:
            told = self._zstd.get_frame_parameters(packed)
            if not told.has_checksum and hashlib.sha256(packed).hexdigest() != frame.sha256:
                return False
            if told.content_size != frame.size or self._zstandard.stream_reader(packed).readinto(view) != frame.size:
                return False
        except self._zstd.ZstdError:
            return False
        with self._work.writing:  # the kernel lets one at a time write to a file, and the others wait busily
            sparse.write(self._fd, view, frame.at)
        self._work.finished(frame.at // self._work.manifest.frame_size)
        return True


def pack_numbers(numbers: set[int]) -> list[list[int]]:
    """Return numbers as ranges [first, after the last]. Pure."""
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and ranges[-1][1] == number:
            ranges[-1][1] = number + 1
        else:
            ranges.append([number, number + 1])
    return ranges


def unpack_numbers(ranges: list[list[int]]) -> set[int]:
    """Return what `pack_numbers` packed. Pure."""
    return {number for first, end in ranges for number in range(first, end)}
