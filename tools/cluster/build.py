"""Kubernetes and containerd from Go modules, in `~/.cache/dozlab/cluster/KEY/`: KEY is made of all inputs."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from tools import gobuild
from tools.cluster import layout
from tools.gobuild import Say

HERE = Path(__file__).resolve().parent

KUBERNETES = "1.36.3"
CONTAINERD = "2.4.2"

PARTS = (
    "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl", "device-plugin",
)  # fmt: skip
"""Names under which the program `kube` is called (kube/main.go)."""

_VERSION = "k8s.io/component-base/version"
_CLIENT = "k8s.io/client-go/pkg/version"
_CONTAINERD = "github.com/containerd/containerd/v2"


@dataclass(frozen=True)
class Target:
    """One `go build`."""

    name: str
    folder: str
    packages: tuple[str, ...]
    stamps: tuple[str, ...]
    """What the linker writes into variables, `-X`."""
    tags: str
    count: int
    """Packages to compile, about: for the progress line only."""


TARGETS = (
    Target(
        f"Kubernetes {KUBERNETES}", "kube", (".",),
        (f"{_VERSION}.gitVersion=v{KUBERNETES}", f"{_VERSION}.gitMajor={KUBERNETES.split('.')[0]}",
         f"{_VERSION}.gitMinor={KUBERNETES.split('.')[1]}", f"{_VERSION}.gitTreeState=clean",
         f"{_CLIENT}.gitVersion=v{KUBERNETES}"),
        "", 2900,
    ),
    Target(
        f"containerd {CONTAINERD}", "containerd",
        tuple(f"{_CONTAINERD}/cmd/{name}" for name in ("containerd", "containerd-shim-runc-v2", "ctr")),
        (f"{_CONTAINERD}/version.Version={CONTAINERD}",),
        "no_btrfs no_zfs no_devmapper no_tracing netgo osusergo urfave_cli_no_docs", 700,
    ),
)  # fmt: skip


def arguments(target: Target, out: Path) -> list[str]:
    """Return the words after `go`. Pure."""
    stamps = " ".join(f"-X {stamp}" for stamp in target.stamps)
    return [
        "build", "-v", "-trimpath", "-buildvcs=false", "-mod=readonly", "-tags", target.tags,
        "-ldflags", f"-s -w {stamps}", "-o", f"{out}/", *target.packages,
    ]  # fmt: skip


def key(folder: Path = HERE) -> str:
    """Return the name of what these sources build: it changes with any of them, and with versions and flags."""
    digest = hashlib.sha256(gobuild.GO.encode())
    for target in TARGETS:
        digest.update("\0".join(arguments(target, Path("out"))).encode())
        for file in sorted((folder / target.folder).glob("*")):
            if file.suffix in {".go", ".mod", ".sum"}:
                digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return f"{KUBERNETES}-{digest.hexdigest()[:12]}"


def programs() -> Path:
    """Return the folder of the built programs, which may not exist yet."""
    return layout.cache() / key()


def ensure(say: Say, *, keep: bool = False) -> Path:
    """Return the folder of the programs, built first where it is missing (`gobuild.once`)."""

    def make(go: Path, out: Path) -> None:
        for target in TARGETS:
            log = layout.cache() / f"build-{target.folder}.log"
            words = arguments(target, out)
            gobuild.build(go, words, HERE / target.folder, log, say, name=target.name, count=target.count)
        for part in PARTS:
            (out / part).symlink_to("kube")

    return gobuild.once(programs(), make, say, what="programs", keep=keep)
