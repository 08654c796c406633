"""Streams of bytes out of compressed streams: format told by magic, memory bounded, truncation seen. Pure.

A hostile image may unpack to any size: nothing here ever holds more than about 64 MiB of it at once.
"""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from dozlab.lib.errors import DozlabError
from dozlab.lib.units import MIB

Format = Literal["zst", "gz", "xz", "plain"]
MAGIC_SIZE = 18
"""Bytes needed to tell the format and, for zstd, the size in the frame header (RFC 8878, 3.1.1.1: at most 18)."""

_MAGICS: tuple[tuple[bytes, Format], ...] = (
    (b"\x28\xb5\x2f\xfd", "zst"),  # RFC 8878
    (b"\x1f\x8b", "gz"),  # RFC 1952
    (b"\xfd7zXZ\x00", "xz"),  # the .xz file format 1.1.0
)
_OUT = MIB
_ZSTD_FEED = 2048  # bytes; one may become 32 KiB (an RLE block), so a feed at most 64 MiB
_XZ_MEMORY = 256 * MIB


def detect(head: bytes) -> Format:
    """Return the format of a stream that starts with `head`."""
    return next((name for magic, name in _MAGICS if head.startswith(magic)), "plain")


def unpacked_size(head: bytes) -> int | None:
    """Return the size in a zstd frame header in bytes, None where it is not known (other formats, several frames)."""
    if detect(head) != "zst":
        return None
    import zstandard

    try:
        size = zstandard.get_frame_parameters(head).content_size
    except zstandard.ZstdError:
        return None
    return None if size in (0, zstandard.CONTENTSIZE_UNKNOWN, zstandard.CONTENTSIZE_ERROR) else int(size)


@dataclass
class Mark:
    """How far a stream has been unpacked up to a place where one can begin anew: between two zstd frames.

    It speaks of nothing that has not been asked for: what the last `next()` yielded is behind it. `at` is one pair
    (packed bytes, unpacked bytes), so that a signal cannot come between the two.
    """

    at: tuple[int, int] = (0, 0)


def unpack(blocks: Iterator[bytes], kind: Format, mark: Mark | None = None) -> Iterator[bytes]:
    """Yield the unpacked bytes.

    :param mark: kept up to date; where it stands, `blocks` begin
    :raises DozlabError: when the stream is damaged or ends early
    """
    if kind == "plain":
        return blocks
    if kind == "zst":
        return _zst(blocks, mark or Mark())
    return {"gz": _gz, "xz": _xz}[kind](blocks)


def _cut(kind: str) -> DozlabError:
    return DozlabError(f"the image is cut off: its {kind} stream has no end", hint="download or build it again")


def _damaged(kind: str, error: Exception) -> DozlabError:
    return DozlabError(f"the image is damaged: {kind}: {error}", hint="download or build it again")


def _zst(blocks: Iterator[bytes], mark: Mark) -> Iterator[bytes]:
    import zstandard

    decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 27)  # zstd --ultra's 128 MiB
    stream = decompressor.decompressobj()
    fresh = True  # between frames
    fed, got = mark.at
    for block in blocks:
        view = memoryview(block)
        for at in range(0, len(view), _ZSTD_FEED):
            data: bytes | memoryview = view[at : at + _ZSTD_FEED]
            fed += len(data)
            while len(data):
                try:
                    out = stream.decompress(data)
                except zstandard.ZstdError as error:
                    raise _damaged("zst", error) from error
                if out:
                    yield out
                    got += len(out)
                fresh = stream.eof
                data = b""
                if stream.eof:
                    data = stream.unused_data
                    stream = decompressor.decompressobj()
                    mark.at = (fed - len(data), got)
    if not fresh:
        raise _cut("zst")


def _gz(blocks: Iterator[bytes]) -> Iterator[bytes]:
    stream = zlib.decompressobj(wbits=31)
    fresh = True
    for block in blocks:
        data = block.lstrip(b"\0") if fresh else block  # zero padding after a member is allowed
        while data:
            try:
                out = stream.decompress(data, _OUT)
            except zlib.error as error:
                raise _damaged("gz", error) from error
            if out:
                yield out
            data, fresh = stream.unconsumed_tail, False
            if stream.eof:
                data, fresh = stream.unused_data.lstrip(b"\0"), True
                stream = zlib.decompressobj(wbits=31)
    while not fresh and (out := stream.decompress(b"", _OUT)):
        yield out
    if not fresh:
        raise _cut("gz")


def _xz(blocks: Iterator[bytes]) -> Iterator[bytes]:
    def new() -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)

    stream, fresh = new(), True
    for block in blocks:
        data = block.lstrip(b"\0") if fresh else block
        while data or not (fresh or stream.needs_input):
            try:
                out = stream.decompress(data, _OUT)
            except lzma.LZMAError as error:
                raise _damaged("xz", error) from error
            if out:
                yield out
            data, fresh = b"", False
            if stream.eof:
                data, fresh = stream.unused_data.lstrip(b"\0"), True
                stream = new()
    if not fresh:
        raise _cut("xz")
