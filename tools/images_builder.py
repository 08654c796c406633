"""Docker or buildah: from a context to an image, from an image to an OCI layout. Here also: the local base image.

Where no registry is in reach, buildah builds from a Debian 12 that mmdebstrap makes; this machine's package sources
are mounted for the build only and are in no layer. Sources: buildah-build(1), skopeo-copy(1), sources.list(5).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from tools.images_context import Progress

from dozlab.images import overlay
from dozlab.images.build import host_apt_options
from dozlab.lib import debs
from dozlab.lib.errors import DozlabError
from dozlab.lib.proc import die_with_parent, need, run
from dozlab.lib.units import format_seconds

SUITE = "bookworm"
PUBLIC_BASE = "debian:bookworm-slim"
LOCAL_BASE = "local"
TIMEOUT = 1800.0  # seconds for one step


class Builder(Protocol):
    """What builds an image from a context."""

    def base(self, wanted: str, *, again: bool) -> str:
        """Return the reference of the base image, making the local one where it is missing."""

    def build(self, context: Path, tag: str, arguments: Mapping[str, str], *, again: bool) -> None:
        """Build the context's Dockerfile and keep the image under `tag`."""

    def export(self, tag: str, layout: Path, reference: str, *, zstd: bool) -> None:
        """Write the image as an OCI layout with compressed layers."""


class Steps:
    """Runs long programs with their output in one log, and says how long each took."""

    def __init__(self, folder: Path, progress: Progress) -> None:
        self.folder, self.progress = folder, progress
        self.log = folder / "build.log"
        self.log.write_bytes(b"")

    def run(self, argv: list[str], what: str) -> None:
        """Run a program to its end.

        :raises DozlabError: with the line of its output that says why
        """
        started = time.monotonic()
        temporary = self.folder / "tmp"
        temporary.mkdir(exist_ok=True)
        env = {**os.environ, "TMPDIR": str(temporary), "LC_ALL": "C.UTF-8"}
        with self.log.open("ab") as out:
            out.write(f"\n== {what}: {' '.join(argv)}\n".encode())
            out.flush()
            before = out.tell()
            try:
                code = subprocess.run(
                    argv, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=env, timeout=TIMEOUT,
                    check=False, preexec_fn=die_with_parent,
                ).returncode  # fmt: skip
            except subprocess.TimeoutExpired as error:
                raise DozlabError(f"{what} did not end within {TIMEOUT:.0f} s", hint=f"see {self.log}") from error
        if code:
            words = self.log.read_bytes()[before:].decode(errors="replace")
            raise DozlabError(f"{what} failed: {reason(words)}", hint=f"see {self.log}")
        self.progress(f"{what} ({format_seconds(time.monotonic() - started)})")


def reason(output: str) -> str:
    """Return the one line of a build's output that says why it failed. Pure."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    for mark in ("No space left on device", "Unable to locate package", "E: ", "Error: ", "pick-qemu: ", "error: "):
        for line in lines:
            if mark in line:
                return line.removeprefix("E: ")
    return lines[-1] if lines else "no output"


class Buildah:
    """buildah with a storage of its own below the cache; RUN steps in a chroot, so that it works in a container too."""

    def __init__(self, cache: Path, steps: Steps) -> None:
        need("skopeo", "skopeo")
        self._cache, self._steps = cache, steps
        self._global = [need("buildah", "buildah"), f"--root={cache / 'storage'}", f"--runroot={cache / 'run'}"]

    def base(self, wanted: str, *, again: bool) -> str:
        """See `Builder.base`."""
        if wanted != LOCAL_BASE:
            return wanted if "." in wanted.split("/")[0] or ":" in wanted.split("/")[0] else _hub(wanted)
        reference = f"localhost/dozlab-base:{base_id()}"
        if again or run([*self._global, "inspect", "--type=image", reference], check=False).code:
            tar = make_base(self._steps)
            container = run([*self._global, "from", "scratch"]).out.strip()
            try:
                self._steps.run([*self._global, "add", "--quiet", container, str(tar), "/"], "base: unpacked")
                run([*self._global, "config", "--cmd=bash", container])
                argv = [*self._global, "commit", "--quiet", container, reference]
                self._steps.run(argv, "base: committed")
            finally:
                run([*self._global, "rm", container], check=False)
                tar.unlink()
        return reference

    def build(self, context: Path, tag: str, arguments: Mapping[str, str], *, again: bool) -> None:
        """See `Builder.build`."""
        archives = self._cache / "debs"
        (archives / "partial").mkdir(parents=True, exist_ok=True)
        sources, options = _host_apt(self._steps.folder / "apt")
        argv = [
            *self._global, "bud", "--isolation=chroot", "--network=host", "--format=oci", "--layers",
            "--no-cache" if again else "--pull=false", f"--tag={tag}",
            f"--volume={sources}:/etc/apt/sources.list.d:ro", f"--volume={options}:/etc/apt/apt.conf.d:ro",
            f"--volume={archives}:/var/cache/apt/archives:rw",
            *(f"--build-arg={name}={value}" for name, value in arguments.items()), str(context),
        ]  # fmt: skip
        self._steps.run(argv, f"{context.name}: built with buildah")

    def export(self, tag: str, layout: Path, reference: str, *, zstd: bool) -> None:
        """See `Builder.export`."""
        how = "zstd" if zstd else "gzip"
        argv = [*self._global, "push", "--quiet", f"--compression-format={how}", tag, f"oci:{layout}:{reference}"]
        self._steps.run(argv, f"{reference}: layers packed")


class Docker:
    """The Docker daemon, with BuildKit."""

    def __init__(self, steps: Steps) -> None:
        need("skopeo", "skopeo")
        self._steps = steps

    def base(self, wanted: str, *, again: bool) -> str:
        """See `Builder.base`."""
        if wanted != LOCAL_BASE:
            return wanted
        reference = f"localhost/dozlab-base:{base_id()}"
        if again or run(["docker", "image", "inspect", reference], check=False).code:
            tar = make_base(self._steps)
            self._steps.run(["docker", "import", "--change=CMD bash", str(tar), reference], "base: imported")
            tar.unlink()
        return reference

    def build(self, context: Path, tag: str, arguments: Mapping[str, str], *, again: bool) -> None:
        """See `Builder.build`."""
        argv = ["docker", "build", "--tag", tag, *(["--no-cache", "--pull"] if again else [])]
        argv += [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
        self._steps.run([*argv, str(context)], f"{context.name}: built with docker")

    def export(self, tag: str, layout: Path, reference: str, *, zstd: bool) -> None:
        """See `Builder.export`."""
        saved = self._steps.folder / "saved.tar"
        self._steps.run(["docker", "save", "--output", str(saved), tag], f"{reference}: saved")
        argv = ["skopeo", "copy", "--quiet", f"--dest-compress-format={'zstd' if zstd else 'gzip'}"]
        argv += [f"docker-archive:{saved}", f"oci:{layout}:{reference}"]
        self._steps.run(argv, f"{reference}: layers packed")
        saved.unlink()


def choose(wanted: str, cache: Path, steps: Steps) -> Builder:
    """Return the builder named `docker` or `buildah`.

    :raises DozlabError: naming the package to install
    """
    return Docker(steps) if wanted == "docker" else Buildah(cache, steps)


def docker_answers() -> bool:
    """Tell whether a Docker daemon can be used."""
    return bool(shutil.which("docker")) and run(["docker", "info"], timeout=20, check=False).code == 0


def base_id() -> str:
    """Return the digest over how the local base is made; its packages are those of the day it was made."""
    text = repr((SUITE, overlay.lean_patterns(), _CLEANING, 3))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


_CLEANING = (
    "/etc/apt/sources.list", "/etc/apt/sources.list.d/*", "/etc/apt/apt.conf.d/99mmdebstrap", "/etc/resolv.conf",
    "/etc/hostname", "/etc/machine-id", "/var/lib/dbus/machine-id", "/var/log/apt", "/var/log/dpkg.log",
    "/var/log/alternatives.log", "/var/log/bootstrap.log", "/var/cache/ldconfig/aux-cache",
)  # fmt: skip


def make_base(steps: Steps) -> Path:
    """Make a Debian 12 like Docker's `bookworm-slim` as a tar, without a trace of this machine; return the tar.

    :raises DozlabError: mmdebstrap's words
    """
    need("mmdebstrap", "mmdebstrap")
    tar = steps.folder / "base.tar"
    lists, _ = _host_apt(steps.folder / "apt")
    argv = ["mmdebstrap", f"--mode={'root' if os.geteuid() == 0 else 'unshare'}", "--variant=minbase"]
    argv += [
        "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
        "--include=usr-is-merged",
    ]  # not usrmerge: 100 MB of Perl
    argv += [f"--keyring={debs.KEYRING}", '--aptopt=APT::Install-Recommends "false"', "--format=tar"]
    argv += [f'--aptopt={name} "{value}"' for name, value in _options().items()]
    argv += [f"--dpkgopt=path-exclude={pattern}" for pattern in overlay.lean_patterns()]
    argv += ["--dpkgopt=path-include=/usr/share/doc/*/copyright"]
    argv += [f'--customize-hook=rm -rf "$1"{path}' for path in _CLEANING]
    steps.run([*argv, SUITE, str(tar), str(lists / "host.sources")], f"base: Debian {SUITE}, minimal")
    return tar


def _host_apt(folder: Path) -> tuple[Path, Path]:
    """Write this machine's package sources and options for the build; return the two folders to mount."""
    sources, options = folder / "sources.list.d", folder / "apt.conf.d"
    for each in (sources, options):
        each.mkdir(parents=True, exist_ok=True)
    listing = run(["apt-get", "indextargets", "--format", "$(RELEASE) $(COMPONENT) $(SITE)", "Created-By: Packages"])
    (sources / "host.sources").write_text(host_sources(listing.out, debs.mirror()))
    lines = [f'{name} "{value}";\n' for name, value in _options().items()]
    (options / "99host").write_text("".join(lines))
    return sources, options


def _options() -> dict[str, str]:
    told = host_apt_options(run(["apt-config", "dump"]).out)
    return {**told, "Acquire::Languages": "none", "Acquire::Retries": "3", "APT::Sandbox::User": "root"}


def host_sources(listing: str, mirror: str) -> str:
    """Return deb822 sources of Debian 12 as this machine gets it, from lines of `release component site`. Pure.

    Where the machine is no Debian 12: the suite itself, from its Debian mirror.
    """
    found = {}
    for line in listing.splitlines():
        release, component, site = [*line.split(maxsplit=2), "", "", ""][:3]
        if component == "main" and release in (SUITE, f"{SUITE}-updates", f"{SUITE}-security"):
            found[release] = site.rstrip("/")
    if SUITE not in found:
        found = {SUITE: mirror}
    return "\n".join(
        f"Types: deb\nURIs: {site}\nSuites: {release}\nComponents: main\nSigned-By: {debs.KEYRING}\n"
        for release, site in sorted(found.items())
    )


def _hub(name: str) -> str:
    return f"docker.io/{name if '/' in name else f'library/{name}'}"
