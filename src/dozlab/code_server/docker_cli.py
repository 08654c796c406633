"""Docker's client with compose and buildx for the editor, from Debian 13's packages, unpacked once into the cache.

They are Go programs that need a C library of 2.34 or newer, so Debian 12 runs them; its own are too old (design.md D5).
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shutil
from pathlib import Path

from dozlab.lib import debs
from dozlab.lib.errors import DozlabError
from dozlab.lib.files import locked, sync_dir
from dozlab.lib.proc import run

SUITE = "trixie"
PACKAGES = ("docker-cli", "docker-compose", "docker-buildx")
PLUGINS = Path("lib/docker/cli-plugins")
"""Below the prefix. With the prefix at /usr/local this is where the client looks (docker/cli, cli-plugins/manager)."""

log = logging.getLogger(__name__)


def installed(cache: Path) -> Path | None:
    """Return the prefix (`bin/docker`, `lib/docker/cli-plugins/`), or None where it is not there yet."""
    folder = _folder(cache)
    return folder if folder.exists() else None


def install(cache: Path) -> Path:
    """Return the prefix, fetching and unpacking the packages first where it is missing.

    :raises DozlabError: apt's last words, or that the client does not run here
    """
    folder = _folder(cache)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.parent / "lock"):
        if found := installed(cache):
            return found
        for leftover in folder.parent.glob(".building-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        import tempfile

        building = Path(tempfile.mkdtemp(prefix=".building-", dir=folder.parent))
        try:
            _build(building / "prefix", building / "work", cache)
            os.rename(building / "prefix", folder)
            sync_dir(folder.parent)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return folder


def _folder(cache: Path) -> Path:
    identity = f"{SUITE} {' '.join(PACKAGES)} {platform.machine()} 1"
    return cache / "docker-cli" / hashlib.sha256(identity.encode()).hexdigest()[:12]


def _build(prefix: Path, work: Path, cache: Path) -> None:
    for deb in debs.fetch(SUITE, list(PACKAGES), work / "debs", cache=cache):
        debs.unpack(deb, work / "root")
    (prefix / "bin").mkdir(parents=True)
    prefix.chmod(0o755)
    (prefix / PLUGINS).mkdir(parents=True)
    shutil.move(work / "root/usr/bin/docker", prefix / "bin/docker")
    for plugin in (work / "root/usr/libexec/docker/cli-plugins").iterdir():
        shutil.move(plugin, prefix / PLUGINS / plugin.name)
    completion = work / "root/usr/share/bash-completion/completions/docker"
    if completion.exists():
        (prefix / "share/bash-completion/completions").mkdir(parents=True)
        shutil.move(completion, prefix / "share/bash-completion/completions/docker")
    found = run([prefix / "bin/docker", "--version"], timeout=30).out.strip()
    for name in ("docker-compose", "docker-buildx"):
        if not (prefix / PLUGINS / name).exists():
            raise DozlabError(f"Debian {SUITE}'s package of {name} has no client plugin")
    log.info("%s, with compose and buildx, is in %s", found, prefix.parent.parent)
