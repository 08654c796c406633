"""A base image of the store as files that travel: NAME.ext4.zst in frames, NAME.json and NAME.spdx.json."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from dozlab.images import contents, ext4
from dozlab.images import manifest as manifests
from dozlab.images.manifest import FRAME_SIZE, ImageManifest
from dozlab.images.store import Manifest, Store
from dozlab.lib.errors import BadUsage, DozlabError
from dozlab.lib.files import sync_dir, write_atomic

LEVEL = 9
"""zstd's level: 12 and more take several times as long for a few percent."""

Progress = Callable[[int, int], None]
"""Gets bytes of the image done, and all of them."""


def export(
    store: Store, reference: str, target: Path, *, level: int = LEVEL, progress: Progress = lambda done, size: None
) -> tuple[ImageManifest, Path]:
    """Write an image of the store to `target` (.zst), its manifest and its SPDX document beside it.

    Each appears whole or not at all, the manifest last. Returned are the manifest and its path.

    :raises BadUsage: when the file's name does not end in .zst
    :raises DozlabError: when there is no such image, or it cannot be written
    """
    beside = manifests.name_for(target.name)
    if not beside:
        raise BadUsage(f"{target}: a packed image is called NAME.ext4.zst")
    found = store.inspect(reference)
    manifest_path = target.with_name(beside)
    try:
        fd, temp = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    except OSError as error:
        raise DozlabError(f"cannot write to {target.parent}: {error.strerror}") from error
    try:
        with os.fdopen(fd, "wb") as out:
            made = pack(store.path(found.digest), out.write, found, level=level, progress=progress, file=target.name)
            out.flush()
            os.fchmod(out.fileno(), 0o644)
            os.fsync(out.fileno())
        manifest_path.unlink(missing_ok=True)  # an old one says nothing of the new file
        os.rename(temp, target)
        write_atomic(target.with_name(contents.spdx_name(target.name)), contents.spdx(found))
        write_atomic(manifest_path, made.dump(), sync=True)
        sync_dir(target.parent)
    except OSError as error:
        raise DozlabError(f"cannot write {target}: {error.strerror}") from error
    finally:
        Path(temp).unlink(missing_ok=True)
    return made, manifest_path


def pack(
    source: Path, write: Callable[[bytes], object], about: Manifest, *, level: int, progress: Progress, file: str,
    frame_size: int = FRAME_SIZE,
) -> ImageManifest:  # fmt: skip
    """Pack an image frame by frame, on all cores, and return its manifest.

    :param write: gets the packed frames in order
    :raises DozlabError: when the image is not what its digest says, or no ext4 file system
    """
    digest, packed, done = hashlib.sha256(), list[tuple[int, str]](), 0
    size = source.stat().st_size
    with source.open("rb") as image:
        fs_size = ext4.check_head(image.read(ext4.HEAD))
        image.seek(0)
        for piece, data in _packed(iter(lambda: image.read(frame_size), b""), level):
            digest.update(piece)
            packed.append((len(data), hashlib.sha256(data).hexdigest()))
            write(data)
            done += len(piece)
            progress(done, size)
    if digest.hexdigest() != about.digest:
        raise DozlabError(
            f"image {about.digest[:12]} is damaged: its sha256 is {digest.hexdigest()[:12]}",
            hint="run: dozlab image verify --full",
        )
    return ImageManifest(
        sha256=about.digest, size=size, fs_size=fs_size, frame_size=frame_size, name=about.name, file=file,
        frames=manifests.frames_of(size, frame_size, packed), packages=about.packages, kernel=about.kernel,
        cpus=about.cpus, memory=about.memory, parts=about.parts,
    )  # fmt: skip


def _packed(pieces: Iterator[bytes], level: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield each piece with its frame, in order; a few are under way at once, and a piece of zeros is packed once."""
    import zstandard

    def one(piece: bytes) -> bytes:
        return zstandard.ZstdCompressor(level=level, write_checksum=True, write_content_size=True).compress(piece)

    cores = os.cpu_count() or 1
    zeros: dict[int, bytes] = {}
    under_way: deque[tuple[bytes, Future[bytes] | bytes]] = deque()

    def oldest() -> tuple[bytes, bytes]:
        piece, frame = under_way.popleft()
        return piece, frame if isinstance(frame, bytes) else frame.result()

    with ThreadPoolExecutor(cores, thread_name_prefix="pack") as pool:
        for piece in pieces:
            if piece.count(0) == len(piece):
                under_way.append((piece, zeros.setdefault(len(piece), zeros.get(len(piece)) or one(piece))))
            else:
                under_way.append((piece, pool.submit(one, piece)))
            if len(under_way) > 2 * cores:
                yield oldest()
        while under_way:
            yield oldest()
