"""The uncompressed ELF kernel out of a distribution's bzImage: Firecracker up to 1.16 takes nothing else. Pure.

The payload is found by the boot protocol's own header (kernel Documentation/arch/x86/boot.rst: `setup_sects`,
`payload_offset`, `payload_length`), never by searching. The last four bytes of the payload are its unpacked size.
"""

from __future__ import annotations

import lzma
import struct
import zlib

import zstandard

from dozlab.lib.errors import DozlabError

ELF = b"\x7fELF"


def extract(bzimage: bytes) -> bytes:
    """Return the ELF kernel inside a bzImage.

    :raises DozlabError: when the bytes are no bzImage, or packed in a way not known here (Debian 13: zstd)
    """
    if bzimage[:4] == ELF:
        return bzimage
    if len(bzimage) < 0x260 or bzimage[0x202:0x206] != b"HdrS":
        raise DozlabError("the kernel is neither an ELF file nor a bzImage")
    version = struct.unpack_from("<H", bzimage, 0x206)[0]
    if version < 0x208:
        raise DozlabError(f"the kernel's boot protocol {version >> 8}.{version & 0xFF:02d} is too old (2.08 is needed)")
    setup = (bzimage[0x1F1] or 4) + 1
    offset, length = struct.unpack_from("<II", bzimage, 0x248)
    start = setup * 512 + offset
    payload = bzimage[start : start + length]
    if len(payload) != length or length < 8:
        raise DozlabError("the kernel is cut off")
    size = struct.unpack("<I", payload[-4:])[0]
    try:
        unpacked = _unpack(payload, size)
    except (zstandard.ZstdError, zlib.error, lzma.LZMAError) as error:
        raise DozlabError(f"the kernel's payload is damaged: {error}") from error
    if unpacked[:4] != ELF:
        raise DozlabError("the kernel's payload is not an ELF file")
    return unpacked


def _unpack(payload: bytes, size: int) -> bytes:
    if payload[:4] == b"\x28\xb5\x2f\xfd":
        return zstandard.ZstdDecompressor().decompressobj().decompress(payload[:-4])
    if payload[:2] == b"\x1f\x8b":
        return zlib.decompressobj(wbits=31).decompress(payload, size)
    if payload[:6] == b"\xfd7zXZ\x00":
        return lzma.decompress(payload[:-4])
    raise DozlabError(
        f"the kernel is packed in an unknown way (first bytes {payload[:4].hex()}; known: zstd, gzip, xz)"
    )
