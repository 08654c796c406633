"""Which ports of the host a session's services appear on."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dozlab.lib.errors import DozlabError

if TYPE_CHECKING:
    from dozlab.values import Publish

EDITOR, TERMINAL, PROXY, SSH = 8080, 8081, 8082, 2222
"""The ports inside the session's namespace, and the first choice on the host."""


@dataclass(frozen=True)
class Ports:
    """Host ports of one session."""

    vscode: int
    terminal: int
    ssh: int
    ports: int = 0
    """Of the proxy to web servers in the guest."""

    def pairs(self) -> list[tuple[int, int]]:
        """Return (host, namespace) ports; what has port 0 on the host is not published."""
        usual = [(self.vscode, EDITOR), (self.terminal, TERMINAL), (self.ssh, SSH), (self.ports, PROXY)]
        return [(host, inside) for host, inside in usual if host]


NONE = Ports(0, 0, 0)
"""Nothing is published."""


def choose(publish: Publish, taken: Iterable[int] = (), *, proxy: bool = True) -> Ports:
    """Return free ports: the ones asked for, else the usual ones, else any.

    :param taken: ports that other sessions of ours have been promised
    :param proxy: the proxy to web servers in the guest is served
    :raises DozlabError: when a port that was asked for is in use or may not be opened
    """
    used = set(taken)

    def pick(name: str, asked: int, usual: int) -> int:
        if asked:
            if asked in used:
                raise DozlabError(f"publish.{name}: port {asked} is another session's", hint="choose another one")
            _try(publish.address, asked, f"publish.{name}")
            port = asked
        else:
            port = usual
            if port in used or not _free(publish.address, port):
                port = _any(publish.address, used)
        used.add(port)
        return port

    return Ports(
        vscode=pick("vscode", publish.vscode, EDITOR),
        terminal=pick("terminal", publish.terminal, TERMINAL),
        ssh=pick("ssh", publish.ssh, SSH),
        ports=pick("ports", publish.ports, PROXY) if proxy else 0,
    )


def _bind(address: str, port: int) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port))
        return int(sock.getsockname()[1])


def _try(address: str, port: int, name: str) -> None:
    try:
        _bind(address, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise DozlabError(
                f"{name}: port {port} of {address} is in use",
                hint=f"stop what listens there or set {name} to another port",
            ) from error
        raise DozlabError(f"{name}: cannot listen on {address}:{port}: {error.strerror}") from error


def _free(address: str, port: int) -> bool:
    try:
        _bind(address, port)
    except OSError:
        return False
    return True


def _any(address: str, used: set[int]) -> int:
    for _ in range(64):
        port = _bind(address, 0)
        if port not in used:
            return port
    raise DozlabError(f"no free port on {address}")
