"""Credentials for downloads, from a file: netrc lines, a bearer token, or the config.json of docker login.

They never come from a URL or a command line, go to the host they belong to alone, and over plain HTTP to nobody but
this machine. Sources: netrc(5), RFC 6750, RFC 7617, docker's config.json ("auths").
"""

from __future__ import annotations

import base64
import binascii
import json
import netrc
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from dozlab.init_rootfs.urls import OCI, is_loopback, origin
from dozlab.lib.errors import DozlabError

_NETRC_WORDS = ("machine", "default", "macdef", "login")


@dataclass(frozen=True)
class Credentials:
    """Who we are. `basic` by host, or host:port; the key `""` is for all hosts (netrc's default)."""

    basic: dict[str, tuple[str, str]] = field(default_factory=dict, repr=False)
    bearer: str = field(default="", repr=False)
    bearer_hosts: frozenset[str] = frozenset()
    """The only hosts that the bearer token is sent to."""

    def pair(self, url: str) -> tuple[str, str] | None:
        """Return user and password for a URL's host."""
        _, host, port = origin(url)
        for key in (f"{host}:{port}", host, ""):
            if key in self.basic:
                return self.basic[key]
        return None

    def header(self, url: str) -> str:
        """Return the Authorization header for a URL, empty where it has none.

        :raises DozlabError: when it would cross a network in the clear
        """
        scheme, host, _ = origin(url)
        if self.bearer and host in self.bearer_hosts:
            value = f"Bearer {self.bearer}"
        elif found := self.pair(url):
            value = basic(*found)
        else:
            return ""
        refuse_clear(scheme, host)
        return value


def basic(user: str, password: str) -> str:
    """Return the header of basic authentication (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def refuse_clear(scheme: str, host: str) -> None:
    """Raise when credentials would be sent over plain HTTP to another machine."""
    if scheme == "http" and not is_loopback(host):
        raise DozlabError(f"there are credentials for {host}, but http:// sends them in the clear", hint="use https://")


def load(path: Path | None, urls: Sequence[str], docker: Path | None = None) -> Credentials:
    """Return the credentials in a file; without a file, for a registry, what `docker login` has left.

    :param urls: the images' addresses; a bearer token goes to their hosts alone
    :param docker: the folder of docker's config.json
    :raises DozlabError: when it cannot be read or understood; what it holds is never told
    """
    if path is None:
        if docker and any(url.startswith(f"{OCI}://") for url in urls):
            return _left_by_docker(docker / "config.json")
        return Credentials()
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise DozlabError(f"cannot read IMAGE_AUTH_FILE {path}: {reason}") from error
    hosts = frozenset((urlsplit(url).hostname or "").lower() for url in urls)
    found = parse(text, path, hosts)
    if found is None:
        raise DozlabError(
            f"IMAGE_AUTH_FILE {path} is not understood",
            hint="it holds netrc lines (machine HOST login USER password WORD), a bearer token or docker's config.json",
        )
    return found


def _left_by_docker(path: Path) -> Credentials:
    try:
        return _docker(path.read_text()) or Credentials()
    except (OSError, UnicodeDecodeError):
        return Credentials()


def parse(text: str, path: Path, hosts: frozenset[str]) -> Credentials | None:
    """Return what the text of the file `path` says, None where it is of no known form."""
    words = text.split()
    if not words:
        return None
    if text.lstrip().startswith("{"):
        return _docker(text)
    if words[0] in _NETRC_WORDS or words[0].startswith("#"):
        try:
            told = netrc.netrc(str(path)).hosts
        except netrc.NetrcParseError:
            return None
        return Credentials(
            {"" if host == "default" else host.lower(): (each[0], each[2]) for host, each in told.items()}
        )
    if words[0].lower() == "bearer":
        words = words[1:]
    return Credentials(bearer=words[0], bearer_hosts=hosts) if len(words) == 1 else None


def _docker(text: str) -> Credentials | None:
    """Read what `docker login` writes; credential helpers are programs of their own and not asked."""
    try:
        basics = {}
        for name, told in json.loads(text)["auths"].items():
            host = (urlsplit(name if "://" in name else f"//{name}").netloc).lower()
            if told.get("auth"):
                user, _, password = base64.b64decode(told["auth"], validate=True).decode().partition(":")
            else:
                user, password = told["username"], told["password"]
            basics[host] = (user, password)
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error):
        return None
    return Credentials(basics)
