"""The guest's paths on their way through addresses and headers: any bytes but NUL. Pure; names are hostile."""

from __future__ import annotations

from urllib.parse import quote_from_bytes, unquote_to_bytes

MOST_PATH = 4096
"""Bytes of a path (PATH_MAX of Linux)."""


class BadPath(Exception):
    """No path that a file could have; the text says why."""


def parameters(query: bytes) -> dict[str, bytes]:
    """Return what an address's query holds, with names as text and values as bytes; the last of a name wins."""
    found = {}
    for part in query.split(b"&"):
        name, _, value = part.partition(b"=")
        found[unquote_to_bytes(name).decode(errors="replace")] = unquote_to_bytes(value)
    return found


def absolute(path: bytes) -> bytes:
    """Return an absolute path as it was given.

    :raises BadPath: when it is none
    """
    if not path.startswith(b"/") or b"\0" in path or len(path) > MOST_PATH:
        raise BadPath("a path begins with / and has at most 4096 bytes")
    return path


def split(path: bytes) -> tuple[bytes, bytes]:
    """Return the folder of an absolute path and the name in it.

    :raises BadPath: when it ends in no name
    """
    folder, _, name = absolute(path).rpartition(b"/")
    if name in (b"", b".", b"..") or len(name) > 255:
        raise BadPath("this is no name for a file")
    return folder or b"/", name


def join(folder: bytes, name: bytes) -> bytes:
    """Return the path of a name in a folder."""
    return folder.rstrip(b"/") + b"/" + name


def quoted(path: bytes) -> str:
    """Return a path as addresses hold it: any bytes come back as they were."""
    return quote_from_bytes(path, safe="/")


def shown(name: bytes) -> str:
    """Return a name for people: what does not print, or turns the direction of writing, is a replacement character."""
    return "".join(
        char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in name.decode(errors="replace")
    )


def crumbs(path: bytes) -> list[dict[str, str]]:
    """Return each folder on the way to an absolute path: what to show and where it leads."""
    found, at = [{"name": "/", "path": "/"}], b""
    for name in path.split(b"/"):
        if name:
            at += b"/" + name
            found.append({"name": shown(name), "path": quoted(at)})
    return found


def disposition(name: bytes) -> str:
    """Return the Content-Disposition that saves a file under a name (RFC 6266, RFC 8187): nothing gets out of it."""
    text = "".join("_" if char in '/\\"%' else char for char in shown(name)).strip(" .") or "file"
    text = text.replace("\N{REPLACEMENT CHARACTER}", "_")
    plain = "".join(char if char.isascii() else "_" for char in text)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote_from_bytes(text.encode(), safe='')}"
