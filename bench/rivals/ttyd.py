"""ttyd before an OpenSSH client, unpacked from Debian sid below the cache: nothing of it is installed on the host.

sid's packages need sid's C library, so ttyd runs through sid's own loader (ld.so(8), `--library-path`).
libwebsockets looks for its event loop's plugin in the working folder.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from dozlab.lib import debs, paths
from dozlab.lib.errors import DozlabError
from dozlab.lib.files import locked
from dozlab.lib.proc import need

SUITE = "sid"
PACKAGES = ("ttyd", "libwebsockets19t64", "libwebsockets-evlib-uv", "libc6", "libcap2", "libjson-c5", "libssl3t64",
            "libuv1t64", "zlib1g", "libzstd1")  # fmt: skip
PLUGIN = "libwebsockets-evlib_uv.so"


def unpacked() -> tuple[Path, str]:
    """Return the folder that holds ttyd's files, and ttyd's version; fetched the first time.

    :raises DozlabError: when apt cannot fetch it
    """
    folder = paths.cache() / "rivals"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "lock"):
        found = sorted((folder / "debs").glob("ttyd_*.deb")) if (folder / "ttyd/usr/bin/ttyd").exists() else []
        if not found:
            found = debs.fetch(SUITE, list(PACKAGES), folder / "debs", cache=paths.cache())
            for deb in found:
                debs.unpack(deb, folder / "ttyd")
    return folder / "ttyd", found[0].name.split("_")[1]


def _one(root: Path, pattern: str) -> Path:
    for found in sorted(root.glob(pattern)):
        return found
    raise DozlabError(f"ttyd's packages have no {pattern}", hint=f"remove {root} and run this again")


def start(work: Path, port: int, ssh: list[str]) -> tuple[subprocess.Popen[bytes], str]:
    """Start `ttyd ssh -tt ...` on 127.0.0.1; permessage-deflate is left to the client, which does not ask for it.

    :param work: its working folder
    :param ssh: the client's options and destination
    :returns: the process, and ttyd's version
    :raises DozlabError: when it cannot be had
    """
    root, version = unpacked()
    loader = _one(root, "usr/lib*/ld-linux*.so.*")
    libraries = _one(root, "usr/lib/*-linux-gnu")
    work.mkdir(parents=True, exist_ok=True)
    plugin = _one(libraries, f"**/{PLUGIN}")
    if not (work / PLUGIN).exists():
        (work / PLUGIN).symlink_to(plugin)
    argv = [str(loader), "--library-path", str(libraries), str(root / "usr/bin/ttyd"), "--interface", "127.0.0.1",
            "--port", str(port), "--writable", "--debug", "1", need("ssh", "openssh-client"), "-tt", *ssh]  # fmt: skip
    log = (work / "ttyd.log").open("wb")
    with log:
        return subprocess.Popen(argv, cwd=work, stdin=subprocess.DEVNULL, stdout=log, stderr=log), version
