"""bubblewrap command lines for the editor and for the bridge's sftp-server. Pure but for looking at what exists.

Both get user, PID, IPC, UTS and mount namespaces of their own, no capability, no further user namespaces, and
an almost empty root. bwrap(1) 0.8 (Debian 12) or newer.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from dozlab.code_server.settings import Settings
from dozlab.lib.proc import run
from dozlab.lib.units import MIB

UID = 1000
USER = "coder"
HOME = "/home/coder"
WORKSPACE = "/workspace"
CODE_SERVER = "/opt/code-server"
NODE = "/opt/node"
TMP_SIZE = 1024 * MIB  # of /tmp in memory: room for a build, not for the machine's whole memory

ETC = (
    "alternatives", "bash.bashrc", "bash_completion", "ca-certificates", "debian_version", "inputrc",
    "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "magic", "magic.mime", "mime.types", "nanorc",
    "profile", "profile.d", "protocols", "resolv.conf", "services", "ssh/ssh_config", "ssl/certs",
    "ssl/openssl.cnf", "terminfo", "vim",
)  # fmt: skip
"""What the editor sees of the host's /etc: what programs need and nothing that says something about the host."""

_LIBRARY = re.compile(r"(/\S+) \(0x[0-9a-f]+\)")


@dataclass
class Sandbox:
    """A bwrap command line under construction, with the data files that travel by file descriptor."""

    argv: list[str]
    data: list[tuple[str, str]] = field(default_factory=list)
    """(path inside, text): the caller gives each as `--ro-bind-data FD PATH` (see `launch.data_fds`)."""


def passwd(home: str) -> str:
    """Return /etc/passwd for the one user inside."""
    return f"root:x:0:0:root:/root:/usr/sbin/nologin\n{USER}:x:{UID}:{UID}::{home}:/bin/bash\n"


def is_real_root(uid: int, uid_map: str) -> bool:
    """Tell whether `uid` is the machine's own root, given /proc/self/uid_map. Pure.

    Never sandbox that one: without any capability it still owns /proc/sys, which bwrap 0.8 leaves writable when it
    forbids user namespaces (and `kernel.core_pattern` is a way to the host).
    """
    first = uid_map.split()[:2]
    return uid == 0 and first == ["0", "0"]


def libraries(ldd: str) -> list[str]:
    """Return the files that ldd(1) names for a program. Pure."""
    return sorted(set(_LIBRARY.findall(ldd)))


def _namespaces(*, network: bool) -> list[str]:
    words = ["--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    words += [] if network else ["--unshare-net"]
    return [*words, "--disable-userns", "--uid", str(UID), "--gid", str(UID), "--cap-drop", "ALL",
            "--die-with-parent", "--new-session"]  # fmt: skip


def _read_only(paths: Iterable[tuple[str | Path, str]]) -> list[str]:
    return [word for source, target in paths for word in ("--ro-bind", str(source), target)]


def _system() -> list[str]:
    """Return /usr with the links of a merged-usr Debian, but not the host's own /usr/local."""
    words = ["--ro-bind", "/usr", "/usr"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        path = Path("/") / name
        if path.is_symlink():
            words += ["--symlink", os.readlink(path), str(path)]
        elif path.is_dir():
            words += ["--ro-bind", str(path), str(path)]
    return words


def _etc() -> list[str]:
    words: list[str] = []
    for name in ETC:
        path = Path("/etc") / name
        real = path.resolve()
        if real.exists():
            words += ["--ro-bind", str(real), str(path)]
    return words


def editor(settings: Settings, command: list[str]) -> Sandbox:
    """Return the editor's sandbox around `command` (paths as they are inside).

    The network is the session's; of files it has the system, its home and the workspace.
    """
    hosts = f"127.0.0.1 localhost\n::1 localhost\n{settings.vm_ip} vm\n"
    argv = [
        "bwrap", *_namespaces(network=True), "--hostname", settings.session_id,
        *_system(),
        *(("--ro-bind", str(settings.docker_cli), "/usr/local") if settings.docker_cli else ("--tmpfs", "/usr/local")),
        *_etc(),
        "--ro-bind", str(settings.code_server), CODE_SERVER,
        "--ro-bind", str(settings.node), NODE,
        "--proc", "/proc",
        "--dev", "/dev", "--size", str(64 * MIB), "--tmpfs", "/dev/shm",  # noqa: S108
        "--perms", "1777", "--size", str(TMP_SIZE), "--tmpfs", "/tmp",  # noqa: S108
        "--perms", "1777", "--size", str(MIB), "--tmpfs", "/var/tmp",  # noqa: S108
        "--perms", "0700", "--size", str(16 * MIB), "--tmpfs", "/run/user",
        "--bind", str(settings.home), HOME,
        "--ro-bind" if settings.workspace_read_only else "--bind", str(settings.workspace), WORKSPACE,
    ]  # fmt: skip
    data = [("/etc/passwd", passwd(HOME)), ("/etc/group", f"root:x:0:\n{USER}:x:{UID}:\n"),
            ("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"),
            ("/etc/hosts", hosts), ("/etc/hostname", f"{settings.session_id}\n")]  # fmt: skip
    return Sandbox([*argv, *_placeholders(data), "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", WORKSPACE,
                    "--", *command], data)  # fmt: skip


def sftp(settings: Settings, command: list[str]) -> Sandbox:
    """Return the sandbox of one sftp-server: the workspace, the program and the libraries it is linked with.

    No /proc, of /dev only null, no network, nothing writable but the workspace.
    """
    program = str(settings.sftp_server)
    needed = [program, *libraries(run(["ldd", program]).out)]
    argv = [
        "bwrap", *_namespaces(network=False),
        *_read_only((Path(path).resolve(), path) for path in needed),
        "--dev-bind", "/dev/null", "/dev/null",
        "--bind", str(settings.workspace), WORKSPACE,
    ]  # fmt: skip
    data = [("/etc/passwd", passwd("/"))]
    return Sandbox([*argv, *_placeholders(data), "--remount-ro", "/", "--chdir", WORKSPACE, "--", *command], data)


def _placeholders(data: list[tuple[str, str]]) -> list[str]:
    return [word for path, _ in data for word in ("--perms", "0444", "--ro-bind-data", f"@{path}", path)]
