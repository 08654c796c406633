"""Bytes of a layer on their way: a part of a file, unpacked by its magic, counted and hashed as they pass."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import zlib
from typing import Any, BinaryIO, cast

from dozlab.lib.errors import DozlabError
from dozlab.lib.units import format_size

MAGIC_SIZE = 6
_MAGICS = (
    (b"\x28\xb5\x2f\xfd", "zstd"),  # RFC 8878
    (b"\x1f\x8b", "gzip"),  # RFC 1952
    (b"\xfd7zXZ\x00", "xz"),  # the .xz file format 1.1.0
    (b"BZh", "bzip2"),
)
_BLOCK = 1 << 18
_FEED = 2048  # bytes of zstd at a time; they may become 64 MiB
_WINDOW = 1 << 27  # zstd --ultra's 128 MiB


class Part(io.RawIOBase):
    """`size` bytes of a file from `offset` on, read once from the front to the end."""

    def __init__(self, file: BinaryIO, offset: int, size: int) -> None:
        self._file, self._left = file, size
        file.seek(offset)

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read as io.RawIOBase does."""
        data = self._file.read(min(len(buffer), self._left))
        buffer[: len(data)] = data
        self._left -= len(data)
        return len(data)


class Tap(io.RawIOBase):
    """Passes bytes on, hashes them where that is wanted, keeps the last 512, and stops at `most` of them.

    :param most: bytes; None for any number
    """

    def __init__(self, source: Any, *, hashed: bool, most: int | None = None) -> None:
        self._source, self._most = source, most
        self._digest = hashlib.sha256() if hashed else None
        self.tail = b""
        self.size = 0

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read as io.RawIOBase does.

        :raises DozlabError: when more comes than may, or what comes is damaged
        """
        try:
            data = self._source.read(len(buffer))
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            raise DozlabError(f"the archive is damaged: {error}", hint="make or copy it again") from error
        except Exception as error:
            if type(error).__name__ != "ZstdError":
                raise
            raise DozlabError(f"the archive is damaged: {error}", hint="make or copy it again") from error
        buffer[: len(data)] = data
        self.size += len(data)
        if self._digest:
            self._digest.update(data)
        if data:
            self.tail = (self.tail + data[-512:])[-512:]
        if self._most is not None and self.size > self._most:
            raise DozlabError(
                f"the archive unpacks to more than {format_size(self._most)}", hint="raise --size-limit if it is right"
            )
        return len(data)

    def digest(self) -> str:
        """Return `sha256:...` of all bytes: what was not read yet is read now."""
        self.drain()
        return f"sha256:{self._digest.hexdigest()}" if self._digest else ""

    def drain(self) -> None:
        """Read to the end."""
        while self.read(_BLOCK):
            pass


def compression(head: bytes) -> str:
    """Return how a stream that starts with `head` is packed, empty when it is not. Pure."""
    return next((name for magic, name in _MAGICS if head.startswith(magic)), "")


def unpacked(source: io.RawIOBase) -> BinaryIO:
    """Return the stream of the unpacked bytes, whatever it is packed with."""
    raw = io.BufferedReader(source, _BLOCK)
    kind = compression(raw.peek(MAGIC_SIZE)[:MAGIC_SIZE])
    if kind == "gzip":
        return cast(BinaryIO, gzip.GzipFile(fileobj=raw, mode="rb"))
    if kind == "xz":
        return cast(BinaryIO, lzma.LZMAFile(raw))
    if kind == "bzip2":
        return cast(BinaryIO, bz2.BZ2File(raw))
    if kind == "zstd":
        return cast(BinaryIO, _Zstd(raw))
    return raw


class _Zstd:
    """Zstd frames one after another; unlike zstandard's own reader it tells a frame that has no end."""

    def __init__(self, source: BinaryIO) -> None:
        import zstandard

        self._source = source
        self._new = zstandard.ZstdDecompressor(max_window_size=_WINDOW).decompressobj
        self._stream = self._new()
        self._between, self._packed, self._out = True, b"", memoryview(b"")

    def read(self, size: int) -> bytes:
        """Return at most so many bytes, none at the end.

        :raises EOFError: when that comes too early
        """
        while not self._out:
            data = self._packed or self._source.read(_FEED)
            if not data:
                if self._between:
                    return b""
                raise EOFError("its zstd stream has no end")
            self._out, self._packed = memoryview(self._stream.decompress(data)), b""
            self._between = self._stream.eof
            if self._stream.eof:
                self._packed, self._stream = self._stream.unused_data, self._new()
        piece, self._out = self._out[:size], self._out[size:]
        return bytes(piece)
