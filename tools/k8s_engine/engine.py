"""The cluster without k3s: what `tools.cluster` builds, etcd and CNI plugins of Debian, and the units in `files/`.

k3s's places and commands are kept where they mean the same (`files/`): /etc/rancher/k3s/k3s.yaml, containerd's socket,
`systemctl restart k3s`, the networks of Pods and Services. runc comes with the image's Docker.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tools.cluster import build
from tools.gobuild import Say
from tools.k8s_engine.programs import lay

from dozlab.lib import debs, paths

HERE = Path(__file__).resolve().parent
FILES = HERE / "files"
PLACE = Path("usr/lib/dozlab-k8s")
"""Folder of programs in the image."""
SUITE = "trixie"
"""Debian's release in the image: its etcd needs the C library of that release."""
PARTS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")
CONTAINERD = ("containerd", "containerd-shim-runc-v2", "ctr")
DEBIAN = {
    "etcd-server": ("usr/bin/etcd",),
    "containernetworking-plugins": tuple(
        f"usr/lib/cni/{name}" for name in ("ptp", "host-local", "portmap", "loopback")
    ),
}
"""Debian package -> programs taken out of it: the whole packages have 80 MB more."""


def lay_in(out: Path, say: Say) -> None:
    """Fill `out` with the engine.

    :raises DozlabError: one line, when a build fails or Debian's packages cannot be had
    """
    programs = build.ensure(say)
    for name in ("kube", *CONTAINERD):
        lay(programs / name, out / PLACE / "bin" / name)
    for name in PARTS:
        (out / PLACE / "bin" / name).symlink_to("kube")
    with tempfile.TemporaryDirectory(prefix=".engine-", dir=out.parent) as work:
        for deb in debs.fetch(SUITE, list(DEBIAN), paths.cache() / "debs" / f"engine-{SUITE}", cache=paths.cache()):
            package = deb.name.partition("_")[0]
            debs.unpack(deb, Path(work) / package)
            for name in DEBIAN[package]:
                lay(Path(work) / package / name, out / place_of(name))
            about = f"usr/share/doc/{package}/copyright"
            (out / about).parent.mkdir(parents=True)
            shutil.copyfile(Path(work) / package / about, out / about)
    shutil.copytree(FILES, out, dirs_exist_ok=True)


def place_of(program: str) -> Path:
    """Return where a program of a Debian package goes in the image. Pure."""
    return PLACE / ("cni" if program.startswith("usr/lib/cni/") else "bin") / Path(program).name


def key() -> str:
    """Return what changes when the engine would."""
    digest = hashlib.sha256(f"{build.key()}{SUITE}{DEBIAN}{PARTS}{CONTAINERD}".encode())
    for path in _sources():
        digest.update(f"{path.relative_to(HERE)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _sources() -> Iterator[Path]:
    yield HERE / "engine.py"
    yield from sorted(path for path in FILES.rglob("*") if path.is_file())
