"""Debian packages of another suite than the host's: fetched and verified by apt, unpacked by dpkg-deb.

Everything apt writes (lists, archives, locks) goes to a private folder, so that this works as root and as an
ordinary user and leaves the host's own apt alone. Sources: apt-get(8), apt.conf(5), sources.list(5).
"""

from __future__ import annotations

import logging
import os
import re
import time
from pathlib import Path

from dozlab.lib.errors import DozlabError
from dozlab.lib.files import locked, write_atomic
from dozlab.lib.proc import need, run
from dozlab.lib.units import format_seconds

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
MIRROR_VARIABLE = "DOZLAB_DEBIAN_MIRROR"
TIMEOUT = 600.0  # seconds for one apt run: a slow mirror, 10 MB of lists, 50 MB of packages

_CODENAME = re.compile(r"^[a-z]+$")  # not bookworm-updates, not bookworm-security

log = logging.getLogger(__name__)


def mirror() -> str:
    """Return the base URL of the Debian mirror that this host's own apt uses (or $DOZLAB_DEBIAN_MIRROR).

    :raises DozlabError: when apt knows no Debian mirror (another distribution)
    """
    if given := os.environ.get(MIRROR_VARIABLE, ""):
        return given.rstrip("/")
    listing = run(
        ["apt-get", "indextargets", "--format", "$(RELEASE) $(COMPONENT) $(SITE)", "Created-By: Packages"], timeout=30
    )
    found = pick_mirror(listing.out)
    if not found:
        raise DozlabError(
            "this machine's apt has no Debian mirror configured",
            hint=f"set {MIRROR_VARIABLE} to the URL of a Debian mirror",
        )
    return found


def pick_mirror(listing: str) -> str:
    """Return the first site with a whole Debian suite among lines of `release component site`; empty when none. Pure.

    Security and updates archives are passed over, and so are others' repositories: only Debian's archive has its
    code name as suite, `main` as component and `/debian` as its folder (Debian's mirror rules).
    """
    for line in listing.splitlines():
        release, component, site = [*line.split(maxsplit=2), "", "", ""][:3]
        if _CODENAME.match(release) and component == "main" and site.rstrip("/").endswith("/debian"):
            return site.rstrip("/")
    return ""


def fetch(suite: str, packages: list[str], target: Path, *, cache: Path) -> list[Path]:
    """Download packages (exactly those named, no dependencies) of a Debian suite, verified by apt.

    :param suite: `trixie`
    :param target: folder for the .deb files, made when missing; files already there and right are kept
    :param cache: folder for apt's lists, one below it per suite; shared and locked
    :returns: paths of the .deb files, in the order of `packages`
    :raises DozlabError: with apt's last words
    """
    need("apt-get", "apt")
    if not KEYRING.exists():
        raise DozlabError(f"{KEYRING} is missing", hint="run: sudo apt-get install debian-archive-keyring")
    private = cache / "apt" / suite
    private.mkdir(parents=True, exist_ok=True)
    target.mkdir(parents=True, exist_ok=True)
    target = target.resolve()
    started = time.monotonic()
    with locked(private / "dozlab.lock"):
        apt = ["apt-get", "-q", *_options(private.resolve(), suite)]
        run([*apt, "update"], timeout=TIMEOUT)
        # Asked in a folder without packages: apt names none that already lie in its working folder.
        listed = run([*apt, "download", "--print-uris", *packages], timeout=60, cwd=private)
        names = deb_names(listed.out)
        run([*apt, "download", *packages], timeout=TIMEOUT, cwd=target)
    paths = [target / names[package] for package in packages if package in names]
    missing = [package for package in packages if package not in names or not (target / names[package]).exists()]
    if missing:
        raise DozlabError(f"Debian {suite} has no package {', '.join(missing)}")
    log.info("%s packages: %s (%s)", suite, " ".join(packages), format_seconds(time.monotonic() - started))
    return paths


def unpack(deb: Path, target: Path) -> None:
    """Unpack a .deb's files below `target` (made when missing), running none of its scripts.

    :raises DozlabError: with dpkg-deb's last words
    """
    target.mkdir(parents=True, exist_ok=True)
    run(["dpkg-deb", "-x", deb, target], timeout=120)


def deb_names(uris: str) -> dict[str, str]:
    """Return package -> file name from `apt-get download --print-uris`: lines of `'URI' NAME SIZE HASH`. Pure."""
    names = {}
    for line in uris.splitlines():
        if line.startswith("'"):
            name = line.split()[1]
            names[name.partition("_")[0]] = name
    return names


def _options(private: Path, suite: str) -> list[str]:
    """Write the private sources list and return the options that make apt see only it."""
    for folder in ("lists/partial", "archives/partial"):
        (private / folder).mkdir(parents=True, exist_ok=True)
    write_atomic(private / "status", "")
    write_atomic(private / "sources.list", f"deb [signed-by={KEYRING}] {mirror()} {suite} main\n")
    settings = {
        "Dir::Etc::SourceList": private / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::Etc::Preferences": "/dev/null",
        "Dir::Etc::PreferencesParts": "/dev/null",
        "Dir::State": private,
        "Dir::State::Lists": private / "lists",
        "Dir::State::Status": private / "status",
        "Dir::State::extended_states": private / "extended_states",
        "Dir::Cache": private,
        "Dir::Cache::Archives": private / "archives",
        "APT::Sandbox::User": "root",  # _apt may not enter a cache below a 0700 home; a no-op for ordinary users
        "APT::Get::AllowUnauthenticated": "false",
        "Acquire::AllowInsecureRepositories": "false",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
    }
    return [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
