"""`python -m tools.images_check`: each image does its work as a Pod runs it; no layer has a trace of this machine.

Needs root and runc; takes some 30 s beside the build.
"""

from __future__ import annotations

import argparse
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import urlsplit

from tools import images_run
from tools.images import build_all, say
from tools.images_context import IMAGES
from tools.images_oci import Archive
from tools.images_run import Conditions

from dozlab.lib import paths
from dozlab.lib.errors import DozlabError
from dozlab.lib.files import read_json
from dozlab.lib.proc import run as run_here
from dozlab.lib.units import MIB, format_seconds

PUBLIC = ("debian", "pypi", "pythonhosted", "npmjs", "golang", "github", "ubuntu", "go")
"""Owners (the label before the last) of hosts that anybody's configuration may name."""
PASSWORD = "a password of the check"  # noqa: S105
_CHUNK = 4 * MIB


class Failed(DozlabError):
    """A check did not hold."""


class Room:
    """One unpacked image, and a folder for what its containers write."""

    def __init__(self, archive: Path, folder: Path) -> None:
        self.folder = folder
        self.rootfs = folder / "rootfs"
        with Archive(archive) as image:
            image.unpack(self.rootfs)
            self.config = image.config
        self._count = 0
        self._id = folder.parent.name.replace(".", "-")

    def spec(self, argv: list[str], given: Conditions) -> tuple[str, dict[str, object]]:
        """Return a name of its own and the specification of a container."""
        self._count += 1
        name = f"dozlab-check-{self._id}-{self.folder.name}-{self._count}"
        return name, images_run.specification(self.rootfs, self.config, argv, given)

    def run(self, argv: list[str], given: Conditions | None = None, *, code: int = 0) -> str:
        """Run a command to its end and return its output.

        :raises Failed: when it ends otherwise than with `code`
        """
        name, spec = self.spec(argv, given or Conditions())
        found, words = images_run.run(self.folder, name, spec)
        if found != code:
            raise Failed(f"{' '.join(argv)}: status {found}, not {code}: {words.strip()[-400:]}")
        return words

    def answers(self, argv: list[str], given: Conditions, url: str, patience: float = 120.0) -> str:
        """Start a command, wait for a 200 from `url`, end it by SIGTERM; return the body.

        :raises Failed: when there is no 200, or it does not end with status 0
        """
        name, spec = self.spec(argv, given)
        log = self.folder / f"{name}.log"
        with images_run.running(self.folder, name, spec, log) as process:
            deadline = time.monotonic() + patience
            while True:
                try:
                    with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310
                        body = str(answer.read(1000), "utf-8", "replace")
                    break
                except (OSError, urllib.error.URLError) as error:
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise Failed(f"{' '.join(argv)}: {error}: {log.read_text()[-800:]}") from error
                    time.sleep(0.1)
        if process.returncode != 0:
            raise Failed(f"{' '.join(argv)}: status {process.returncode} after SIGTERM: {log.read_text()[-400:]}")
        return body


def check_dozlab(room: Room, folder: Path) -> None:
    """Session disk from a file URL, rules and tap in a namespace of its own, the terminal's /health."""
    for component in IMAGES["dozlab"].components:
        room.run(["dozlab-run", component, "--help"])
    if "this image has: init-rootfs" not in room.run(["dozlab-run", "firecracker-vm"], code=2):
        raise Failed("dozlab-run does not say what the image has")
    given = images_run.folder_for(folder / "given")
    run_here(["mke2fs", "-q", "-t", "ext4", given / "base.ext4", "16M"])
    mounts = {place: images_run.folder_for(folder / place.strip("/").replace("/", "-"))
              for place in ("/srv/vm/kernels", "/vm-data", "/shared")}  # fmt: skip
    env = {"SESSION_ID": "check", "IMAGE_DOWNLOAD_URL": "file:///given/base.ext4", "IMAGE_SIZE": "64Mi",
           "DNS_SERVERS": "192.0.2.53", "PASSWORD": PASSWORD, "HOST": "127.0.0.1"}  # fmt: skip
    room.run(["dozlab-run", "init-rootfs"], Conditions(env, {**mounts, "/given": given}))
    disk = read_json(folder / "shared/rootfs.json")["disk"]
    if not (folder / "vm-data" / disk).stat().st_size:
        raise Failed("init-rootfs made no session disk")
    network = Conditions(env, mounts, uid=0, capabilities=("CAP_NET_ADMIN",), tun=True, own_network=True)
    room.run(["dozlab-run", "network-setup"], network)
    port = free_port()
    body = room.answers(
        ["dozlab-run", "terminal-sidecar"], Conditions({**env, "PORT": str(port)}, mounts),
        f"http://127.0.0.1:{port}/health",
    )  # fmt: skip
    if "ok" not in body:
        raise Failed(f"/health says {body}")


def check_firecracker(room: Room, folder: Path) -> None:
    """The decision for a VMM without /dev/kvm, and our own kernel booted by QEMU in emulation."""
    env = {"SESSION_ID": "check"}
    mounts = {"/shared": images_run.folder_for(folder / "shared")}
    room.run(["dozlab-run", "firecracker-vm", "--help"])
    if "qemu (tcg)" not in room.run(["dozlab-run", "firecracker-vm", "--probe"], Conditions(env, mounts)):
        raise Failed("firecracker-vm --probe does not choose QEMU where there is no /dev/kvm")
    kit = "/usr/lib/dozlab/kit"
    words = room.run([
        "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-sandbox", "on",
        "-machine", "q35,usb=off,vmport=off,sata=off", "-accel", "tcg", "-cpu", "max", "-m", "128M",
        "-kernel", f"{kit}/vmlinuz", "-initrd", f"{kit}/probe.img", "-append", "console=ttyS0 panic=-1",
        "-serial", "stdio", "-device", "virtio-rng-pci", "-device", "virtio-blk-pci,drive=kit",
        "-drive", f"if=none,id=kit,format=raw,file={kit}/kit.ext4,readonly=on",
    ])  # fmt: skip
    if "dozlab: probe=ok" not in words:
        raise Failed(f"QEMU booted no probe guest: {words[-400:]}")
    room.run(["firecracker", "--version"])
    room.run(["ip", "addr", "show"])


def check_code_server(room: Room, folder: Path) -> None:
    """The editor's /healthz, and the learner's tools."""
    room.run(["dozlab-run", "code-server", "--help"])
    for argv in ("docker --version", "docker compose version", "docker buildx version", "git --version", "ssh -V",
                 "curl --version", "ps"):  # fmt: skip
        room.run(argv.split())
    mounts = {place: images_run.folder_for(folder / place.strip("/").replace("/", "-"))
              for place in ("/home/coder", "/vm-data", "/tmp")}  # noqa: S108  # fmt: skip
    port = free_port()
    env = {"SESSION_ID": "check", "PASSWORD": PASSWORD, "PORT": str(port), "WORKSPACE_PORT": str(free_port())}
    room.answers(["dozlab-run", "code-server"], Conditions(env, mounts), f"http://127.0.0.1:{port}/healthz")


CHECKS: dict[str, Callable[[Room, Path], None]] = {
    "dozlab": check_dozlab,
    "dozlab-firecracker": check_firecracker,
    "dozlab-code-server": check_code_server,
}


def hosts() -> set[str]:
    """Return the hosts that this machine's pip, apt, npm, Go and proxy settings name, public ones left out."""
    said = [Path(file).read_text(errors="replace") for file in _SETTINGS if Path(file).is_file()]
    for argv in (
        [sys.executable, "-m", "pip", "config", "list"], ["npm", "config", "list"], ["apt-config", "dump", "Acquire"],
        ["apt-get", "indextargets", "--format", "$(SITE)"], ["go", "env", "GOPROXY", "GOSUMDB"], ["env"],
    ):  # fmt: skip
        try:
            said.append(run_here(argv, timeout=60, check=False).out)
        except DozlabError:
            continue  # not installed here
    return private_hosts(said, socket.gethostname())


_SETTINGS = ("/etc/pip.conf", "/etc/npmrc", Path.home() / ".npmrc", Path.home() / ".config/pip/pip.conf")


def private_hosts(texts: Iterable[str], own: str) -> set[str]:
    """Return the hosts of all URLs in the texts, and our own name; not the public ones, nor names of one word. Pure."""
    found = {own} if len(own) > 5 else set()
    for text in texts:
        for url in re.findall(r"(?i)\b(?:https?|socks5h?)://[^\s\"'<>,|]+", text):
            try:
                host = urlsplit(url).hostname or ""
            except ValueError:
                continue
            if "." in host and host != "127.0.0.1" and host.split(".")[-2] not in PUBLIC:
                found.add(host)
    return found


def leaks(archive: Path, needles: Iterable[str]) -> list[str]:
    """Return `layer: needle` for each needle found in a layer's files or in what the image says of itself."""
    wanted = {needle: needle.encode() for needle in needles}
    longest = max((len(each) for each in wanted.values()), default=0)
    found = set()
    with Archive(archive) as image:
        found |= {f"manifest: {name}" for name, needle in wanted.items() if needle in image.texts()}
        for layer in image.layers():
            tail = b""
            with image.open(layer) as stream:
                while chunk := stream.read(_CHUNK):
                    data = tail + chunk
                    found |= {f"{layer.digest[:19]}: {name}" for name, needle in wanted.items() if needle in data}
                    tail = data[-longest:]
    return sorted(found)


def free_port() -> int:
    """Return a TCP port that is free at the moment."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def main(argv: list[str] | None = None) -> int:
    """Check the images; returns 0, or 1 with one line that says what does not hold."""
    parser = argparse.ArgumentParser(prog="tools.images_check", description=__doc__)
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help=f"one of {', '.join(IMAGES)}")
    options = parser.parse_args(argv)
    try:
        archives = build_all(options.only)
        needles = hosts()
        with tempfile.TemporaryDirectory(prefix="check.", dir=paths.cache() / "images") as name:
            for image, archive in archives.items():
                started = time.monotonic()
                if found := leaks(archive, needles):
                    raise Failed(f"{image} names hosts of this machine's settings: {', '.join(found)}")
                folder = Path(name) / image
                folder.mkdir()
                CHECKS[image](Room(archive, folder), folder / "volumes")
                say(f"{image}: works ({format_seconds(time.monotonic() - started)})")
    except (DozlabError, OSError, subprocess.TimeoutExpired) as error:
        sys.stderr.write(f"images_check: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
