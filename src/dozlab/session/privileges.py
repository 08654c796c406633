"""What each component may do: setpriv(1) command lines. Pure.

Root-started sessions give their components a uid of their own; user-started ones are already confined to the user.
Either way a component has no capability but the one it names, and can gain none.
"""

from __future__ import annotations

from collections.abc import Sequence

UID_BASE, UID_COUNT = 720_000, 5_000
"""Session uids of root-started sessions: outside what Debian, systemd and useradd's subuids hand out by default."""


def kept(component: str, *, user_namespace: bool) -> tuple[str, ...]:
    """Return the capabilities a component needs.

    The editor's sandbox maps uid 0 of the user's own namespace, which the kernel allows only to a process with
    CAP_SETFCAP there (user_namespaces(7)); bwrap drops it inside.
    """
    if component == "network-setup":
        return ("net_admin",)
    return ("setfcap",) if component == "code-server" and user_namespace else ()


def argv(setpriv: str, command: Sequence[str], *, uid: int | None, keep: Sequence[str] = ()) -> list[str]:
    """Return `command` wrapped so that it runs without privileges.

    :param uid: uid and gid to change to; None stays who we are (uid 0 of the user's own namespace)
    :param keep: capabilities kept, such as `net_admin`
    """
    caps = ",".join(["-all", *(f"+{cap}" for cap in keep)])
    words = [setpriv]
    if uid is not None:
        words += ["--reuid", str(uid), "--regid", str(uid), "--clear-groups"]
    return [*words, "--inh-caps", caps, "--ambient-caps", caps, "--bounding-set", caps, "--no-new-privs", *command]
