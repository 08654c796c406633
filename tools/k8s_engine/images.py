"""The container images that come with the machine, as OCI archives in `usr/share/dozlab-k8s/images`."""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
from pathlib import Path

from tools.cluster import oci
from tools.cluster.oci import Entry

from dozlab.lib import debs, paths
from dozlab.lib.files import write_atomic

PLACE = Path("usr/share/dozlab-k8s/images")
SUITE = "trixie"
BUSYBOX = "localhost/busybox:1"
"""Not `latest`, which Kubernetes would ask a registry for at each start."""


def lay_in(out: Path) -> None:
    """Write the images of the machine into an image's folder.

    :raises DozlabError: one line, when a compiler is missing or Debian's package cannot be had
    """
    folder = out / PLACE
    folder.mkdir(parents=True, exist_ok=True)
    oci.pause(folder / "pause.tar")
    with tempfile.TemporaryDirectory(prefix=".busybox-", dir=out.parent) as work:
        (deb,) = debs.fetch(SUITE, ["busybox-static"], paths.cache() / "debs" / f"kit-{SUITE}", cache=paths.cache())
        debs.unpack(deb, Path(work))
        program = next(path for path in Path(work).rglob("bin/busybox") if not path.is_symlink())
        listed = subprocess.run([program, "--list"], capture_output=True, text=True, check=True).stdout.split()
        write_atomic(folder / "busybox.tar", busybox(program.read_bytes(), listed))


def busybox(program: bytes, applets: list[str]) -> bytes:
    """Return an image of busybox under `BUSYBOX` with a shell as its command. Pure."""
    entries = {f"bin/{applet}": Entry(link="busybox") for applet in applets}
    entries["bin/busybox"] = Entry(program)
    entries["etc/passwd"] = Entry(b"root:x:0:0::/:/bin/sh\nlab:x:1000:1000::/tmp:/bin/sh\n", mode=0o644)
    entries["etc/group"] = Entry(b"root:x:0:\nlab:x:1000:\n", mode=0o644)
    # A static program may not load the modules that glibc asks for when this file is missing.
    entries["etc/nsswitch.conf"] = Entry(b"hosts: files dns\n", mode=0o644)
    entries |= {"tmp": Entry(mode=0o1777), "dev": Entry(), "proc": Entry(), "sys": Entry()}
    return oci.archive(BUSYBOX, entries, command=["/bin/sh"], env={"PATH": "/bin"})


def key() -> str:
    """Return what changes when the images would."""
    sources = (Path(__file__), Path(oci.__file__), oci.HERE / "pause.c")
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]
