"""The manifest of a base image that travels: what it is, what it needs, and where each zstd frame lies. Pure.

It lies beside NAME.ext4.zst as NAME.json, and is the config blob of an image in a registry. The packed file is a row of
independent zstd frames (RFC 8878, 3), each of `frame_size` bytes of the image, the last one shorter: any zstd
unpacks it, and whoever has the manifest fetches, checks and unpacks the frames in any order.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from typing import Any

from dozlab.images.entry import Part, parts
from dozlab.lib.errors import DozlabError
from dozlab.lib.units import MIB

FORMAT = 1
FRAME_SIZE = 2 * MIB
"""Bytes of the image in a frame: small enough that several in memory are no matter, large enough to pack well."""
MAX_TEXT = 16 * MIB
"""Bytes of a manifest that is still read: an image of 256 GiB has 8 MiB."""
SUFFIX = ".zst"

_MAX_FRAME = 16 * MIB
_MAX_IMAGE = 1 << 50
_DIGEST = re.compile(r"^[0-9a-f]{64}$")


@dataclass(frozen=True)
class Frame:
    """One frame: `length` bytes at `offset` of the packed file are `size` bytes at `at` of the image.

    `sha256` is of the packed bytes. Frames of ours also have zstd's own checksum of their content.
    """

    offset: int
    length: int
    sha256: str
    at: int
    size: int


@dataclass(frozen=True)
class ImageManifest:
    """What is told of a base image. Sizes in bytes, `memory` in MiB; 0 cpus or memory: nothing is recommended."""

    sha256: str
    """Digest of the unpacked image: its name in the store, and IMAGE_SHA256."""
    size: int
    fs_size: int
    """What the ext4 superblock says; at most `size`."""
    frames: tuple[Frame, ...]
    frame_size: int = FRAME_SIZE
    name: str = ""
    packages: dict[str, str] = field(default_factory=dict)
    kernel: tuple[str, ...] = ()
    """Kernel modules it needs beyond the boot kit's base set."""
    cpus: int = 0
    memory: int = 0
    file: str = ""
    """Name of the packed file."""
    parts: tuple[Part, ...] = ()
    """What it holds beside its packages."""

    @property
    def length(self) -> int:
        """Return the packed file's length in bytes."""
        last = self.frames[-1]
        return last.offset + last.length

    def dump(self) -> str:
        """Return it as JSON text that `parse` reads."""
        frames = ",\n    ".join(json.dumps([frame.length, frame.sha256]) for frame in self.frames)
        told = {
            "format": FORMAT,
            "name": self.name,
            "sha256": self.sha256,
            "size": self.size,
            "fs_size": self.fs_size,
            "kernel": {"needs": list(self.kernel)},
            "defaults": {"cpus": self.cpus, "memory": self.memory},
            "packages": self.packages,
            "parts": [asdict(part) for part in self.parts],
            "packed": {"file": self.file, "size": self.length, "frame_size": self.frame_size, "frames": []},
        }
        return json.dumps(told, indent=2).replace('"frames": []', f'"frames": [\n    {frames}\n  ]') + "\n"


def name_for(packed: str) -> str:
    """Return the manifest's name beside a packed file: `a/lab.ext4.zst` has `a/lab.json`. Empty for other files."""
    if not packed.endswith(SUFFIX) or packed.endswith("/" + SUFFIX) or packed == SUFFIX:
        return ""
    return packed.removesuffix(SUFFIX).removesuffix(".ext4") + ".json"


def frames_of(size: int, frame_size: int, packed: list[tuple[int, str]]) -> tuple[Frame, ...]:
    """Return the frames in order from their (length, sha256)."""
    frames, offset = [], 0
    for number, (length, sha256) in enumerate(packed):
        at = number * frame_size
        frames.append(Frame(offset, length, sha256, at, min(frame_size, size - at)))
        offset += length
    return tuple(frames)


def parse(text: str | bytes, *, where: str) -> ImageManifest:
    """Return the manifest in a JSON text. Nothing in it is trusted: every number is held to a limit.

    :param where: how the message calls the text
    :raises DozlabError: when it is no such manifest
    """
    try:
        raw = json.loads(text)
        if not isinstance(raw, dict) or raw.get("format") != FORMAT:
            raise _fault(where, f"its format is not {FORMAT}")
        return _read(raw, where)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise _fault(where, "a field is missing or of another kind") from error


def _read(raw: dict[str, Any], where: str) -> ImageManifest:
    packed = raw["packed"]
    size, fs_size, frame_size = int(raw["size"]), int(raw["fs_size"]), int(packed["frame_size"])
    defaults, sha256 = raw.get("defaults", {}), str(raw["sha256"])
    if not _DIGEST.match(sha256):
        raise _fault(where, "its sha256 is none")
    if not (0 < fs_size <= size <= _MAX_IMAGE and 4096 <= frame_size <= _MAX_FRAME):
        raise _fault(where, "its sizes are out of range")
    if len(packed["frames"]) != -(-size // frame_size):
        raise _fault(where, "its frames are not the image's size")
    pairs = [(int(length), str(digest)) for length, digest in packed["frames"]]
    most = frame_size + (frame_size >> 8) + 1024  # zstd's own bound for what does not pack
    if any(not 0 < length <= most or not _DIGEST.match(digest) for length, digest in pairs):
        raise _fault(where, "a frame has no length or no sha256")
    manifest = ImageManifest(
        sha256=sha256, size=size, fs_size=fs_size, frames=frames_of(size, frame_size, pairs), frame_size=frame_size,
        name=str(raw.get("name", "")), file=str(packed.get("file", "")),
        packages={str(name): str(version) for name, version in raw.get("packages", {}).items()},
        kernel=tuple(str(each) for each in raw.get("kernel", {}).get("needs", [])),
        cpus=int(defaults.get("cpus", 0)), memory=int(defaults.get("memory", 0)), parts=parts(raw.get("parts", ())),
    )  # fmt: skip
    if manifest.length != int(packed["size"]):
        raise _fault(where, "its frames are not the packed file's size")
    return manifest


def _fault(where: str, what: str) -> DozlabError:
    return DozlabError(f"{where} is no manifest of a base image: {what}")
