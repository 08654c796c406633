"""What the store writes down: of an image, and of what a URL gave. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Part:
    """What an image holds beside Debian's packages: a download, or what a recipe's command made (`by`)."""

    name: str
    to: str = ""
    """Where it lies in the image."""
    url: str = ""
    sha256: str = ""
    by: str = ""


@dataclass(frozen=True)
class Manifest:
    """What the store knows of an image. `size` in bytes, holes included; `created` in seconds since the epoch."""

    digest: str
    size: int
    name: str = ""
    created: float = 0.0
    packages: dict[str, str] = field(default_factory=dict)
    recipe: str = ""
    """Digest of the recipe it was built from; empty for a fetched image."""
    kernel: tuple[str, ...] = ()
    """Kernel modules it needs beyond the boot kit's base set."""
    cpus: int = 0
    memory: int = 0
    """What it is best given (vCPUs, MiB); 0: nothing is recommended."""
    mtime_ns: int = 0
    blocks: int = 0
    """The file's time and 512-byte blocks when it was whole; 0: written by an older version, not known."""
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True)
class UrlRecord:
    """What a URL gave the last time (RFC 9110 validators; `length` of the transfer, bytes, -1 unknown)."""

    url: str
    digest: str
    etag: str = ""
    last_modified: str = ""
    length: int = -1


def parts(raw: Any) -> tuple[Part, ...]:
    """Return the parts in a parsed list.

    :raises TypeError, AttributeError: when it is none
    """
    fields = ("name", "to", "url", "sha256", "by")
    return tuple(Part(**{name: str(each.get(name, "")) for name in fields}) for each in raw)


def read(raw: Any) -> Manifest | None:
    """Return the manifest in a parsed file, None where it is none."""
    try:
        return Manifest(
            str(raw["digest"]), int(raw["size"]), str(raw.get("name", "")), float(raw.get("created", 0.0)),
            {str(k): str(v) for k, v in raw.get("packages", {}).items()}, str(raw.get("recipe", "")),
            tuple(str(each) for each in raw.get("kernel", ())), int(raw.get("cpus", 0)), int(raw.get("memory", 0)),
            int(raw.get("mtime_ns", 0)), int(raw.get("blocks", 0)), parts(raw.get("parts", ())),
        )  # fmt: skip
    except (TypeError, KeyError, ValueError, AttributeError):
        return None
