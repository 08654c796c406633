"""The uplink of a session's namespace: pasta's command line. Pure.

pasta (Debian package passt) makes network and PID namespaces (and, for an ordinary user, a user namespace), runs our
supervisor in them as PID 1 and moves packets between the namespace and the host's own sockets: no bridge, no root.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

DNS_FORWARD = "169.254.1.53"
"""Address in the namespace that stands for the host's name server. Link-local, so that no real network has it."""


def argv(
    pasta: str,
    command: Sequence[str],
    *,
    root: bool,
    publish: str,
    ports: Sequence[tuple[int, int]],
    dns: bool,
    log: Path | None = None,
) -> list[str]:
    """Return the whole command line (pasta(1)).

    :param root: started by root: no user namespace, keep root inside
    :param publish: listen address on the host
    :param ports: (host port, namespace port)
    :param dns: the host has a name server to forward to
    """
    words = [pasta, "--config-net", "--foreground", "--quiet", "--ipv4-only", "--ns-ifname", "eth0"]
    if root:
        words += ["--netns-only", "--runas", "0:0"]
    # Without these four the guest reaches servers on the host's 127.0.0.1 through the gateway (design.md D9).
    words += ["--no-map-gw", "-T", "none", "-U", "none", "-u", "none"]
    if dns:
        words += ["--dns-forward", DNS_FORWARD]
    for host, inside in ports:
        words += ["-t", f"{publish}/{host}:{inside}"]
    if not ports:
        words += ["-t", "none"]
    if log:
        words += ["--log-file", str(log)]
    return [*words, "--", *command]
