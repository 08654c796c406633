"""A real OpenSSH sshd on 127.0.0.1 that leaves the host as it is: the guest of both sides of `bench/terminal.py`.

As root it needs an account `sshd` and a folder /run/sshd (sshd(8)): it gets both in a mount namespace of its own. As
an ordinary user it needs neither. Where sshd is not installed, this Debian's own package is unpacked below the cache.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.common import free_port

from dozlab.lib import debs, paths
from dozlab.lib.errors import DozlabError
from dozlab.lib.files import locked
from dozlab.lib.proc import need, run

CIPHER = "aes128-gcm@openssh.com"
_IN_A_NAMESPACE = """
mount --make-rprivate /
mount --bind "$1" /etc/passwd
mount -t tmpfs none /run
mkdir -m 0755 /run/sshd
shift
exec "$@"
"""


@dataclass(frozen=True)
class Sshd:
    """A running sshd and what clients need."""

    port: int
    user: str
    shared: Path
    """Folder with id_ed25519 and known_hosts, as the sidecar's SHARED_DIR has them."""

    def client_options(self) -> list[str]:
        """Return an OpenSSH client's options and destination: the same cipher, key and host key as ours."""
        settings = {
            "UserKnownHostsFile": self.shared / "known_hosts", "GlobalKnownHostsFile": "/dev/null",
            "HostKeyAlias": "127.0.0.1", "IdentityFile": self.shared / "id_ed25519", "IdentitiesOnly": "yes",
            "Ciphers": CIPHER, "Compression": "no", "LogLevel": "ERROR",
        }  # fmt: skip
        options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
        return ["-F", "none", "-p", str(self.port), *options, f"{self.user}@127.0.0.1"]


def _program() -> tuple[str, dict[str, str]]:
    """Return sshd's path and its environment.

    :raises DozlabError: when there is none
    """
    if found := shutil.which("sshd", path="/usr/sbin:/usr/local/sbin"):
        return found, {}
    release = platform.freedesktop_os_release()
    if release.get("ID") != "debian":
        raise DozlabError("sshd is not installed", hint="run: sudo apt-get install openssh-server")
    folder = paths.cache() / "rivals"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "lock"):
        if not (folder / "sshd/usr/sbin/sshd").exists():
            suite = release["VERSION_CODENAME"]
            for deb in debs.fetch(suite, ["openssh-server", "libwrap0"], folder / "debs", cache=paths.cache()):
                debs.unpack(deb, folder / "sshd")
    libraries = next((folder / "sshd/usr/lib").glob("*-linux-gnu"), folder)
    return str(folder / "sshd/usr/sbin/sshd"), {"LD_LIBRARY_PATH": str(libraries)}


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Sshd]:
    """Yield an sshd whose only key is made here; its shells are bashes without rc files.

    :raises DozlabError: when it does not come up
    """
    program, environment = _program()
    port, root = free_port(), os.getuid() == 0
    keygen = need("ssh-keygen", "openssh-client")
    for name in ("id_ed25519", "host_key"):
        run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", folder / name])
    (folder / "known_hosts").write_text(f"127.0.0.1 {(folder / 'host_key.pub').read_text()}")
    config = {
        "Port": port, "ListenAddress": "127.0.0.1", "HostKey": folder / "host_key", "PidFile": "none",
        "AuthorizedKeysFile": folder / "id_ed25519.pub", "StrictModes": "no", "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no", "MaxSessions": 200, "MaxStartups": "200", "PrintMotd": "no",
        "PrintLastLog": "no", "Ciphers": CIPHER, "ForceCommand": "PS1='bench$ ' exec bash --norc --noprofile -i",
    }  # fmt: skip
    (folder / "sshd_config").write_text("".join(f"{name} {value}\n" for name, value in config.items()))
    argv = [program, "-D", "-e", "-f", str(folder / "sshd_config")]
    user = run(["id", "-un"]).out.strip()
    if root:
        home = f"root:x:0:0:root:{folder}:/bin/bash\nsshd:x:65534:65534::/run/sshd:/usr/sbin/nologin\n"
        (folder / "passwd").write_text(home)
        argv = ["unshare", "--mount", "sh", "-ec", _IN_A_NAMESPACE, "sh", str(folder / "passwd"), *argv]
    with (folder / "sshd.log").open("wb") as log:
        process = subprocess.Popen(argv, env={**os.environ, **environment}, stdin=subprocess.DEVNULL, stderr=log)
    try:
        _until_it_answers(process, port, folder / "sshd.log")
        yield Sshd(port, user, folder)
    finally:
        process.terminate()
        process.wait(10)


def _until_it_answers(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + 20
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2) as sock:
            if sock.recv(4) == b"SSH-":
                return
        if process.poll() is not None or time.monotonic() > end:
            words = (log.read_text().strip() or "it did not answer").splitlines()[-1]
            raise DozlabError(f"sshd did not start: {words}")
        time.sleep(0.05)
