"""Addresses of images: what kinds there are, and how they are shown and remembered without their secrets. Pure."""

from __future__ import annotations

import hashlib
import ipaddress
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from dozlab.images import manifest
from dozlab.lib.errors import DozlabError

OCI = "oci"


def shown(url: str) -> str:
    """Return the URL without user, password and query: those may be secrets and go to no log."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def has_userinfo(url: str) -> bool:
    """Tell whether a URL holds a user or a password."""
    return "://" in url and "@" in urlsplit(url).netloc


def record_key(url: str) -> str:
    """Return the name under which the store remembers a URL: no password, no token, yet told apart by its query."""
    query = url.partition("?")[2]
    return shown(url) + (f"?{hashlib.sha256(query.encode()).hexdigest()[:16]}" if query else "")


def scheme(url: str) -> str:
    """Return http, https, oci, or file (plain paths too).

    :raises DozlabError: for any other scheme
    """
    parts = urlsplit(url)
    name = parts.scheme.lower()
    if "://" not in url:
        return "file"
    if name not in ("http", "https", OCI, "file"):
        raise DozlabError(
            f"unknown scheme {name}:// of the image", hint="use https://, http://, oci://, file:// or a path"
        )
    if name != "file" and not parts.hostname:
        raise DozlabError(f"no host in the image URL {shown(url)}")
    return name


def local_path(url: str) -> Path | None:
    """Return the path of a file:// URL or a plain path, None for what comes over the network.

    :raises DozlabError: for an unknown scheme or a file of another machine
    """
    if scheme(url) != "file":
        return None
    if "://" not in url:
        return Path(url)
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise DozlabError(f"file URL of another machine: {shown(url)}", hint="write file:///path")
    return Path(unquote(parts.path))


def manifest_url(url: str) -> str:
    """Return where the manifest of a packed image lies: beside it, with the same query. Empty: it can have none."""
    if "://" not in url:
        return manifest.name_for(url)
    parts = urlsplit(url)
    path = manifest.name_for(parts.path)
    return urlunsplit((parts.scheme, parts.netloc, path, parts.query, "")) if path else ""


def origin(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port: what credentials belong to."""
    parts = urlsplit(url)
    name = parts.scheme.lower()
    return name, (parts.hostname or "").lower(), parts.port or {"http": 80, "https": 443}.get(name, 0)


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine itself: what is sent there passes no network."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
