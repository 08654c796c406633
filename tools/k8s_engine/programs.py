"""kubectl, helm and kind for the image: each from what this machine can reach."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from tools import gobuild, kubetools

from dozlab.lib import paths

HERE = Path(__file__).resolve().parent
KIND = HERE / "kind"
"""Module that pins kind and all it needs."""
KIND_PACKAGE = "sigs.k8s.io/kind"
KIND_PACKAGES = 290
"""Packages to compile, about: for the progress line only."""


def kubectl(out: Path) -> None:
    """Lay kubectl into an image's folder (`tools.kubetools`)."""
    lay(kubetools.ensure().kubectl, out / "usr/local/bin/kubectl")


def helm(out: Path) -> None:
    """Lay helm into an image's folder (`tools.kubetools`)."""
    lay(kubetools.ensure().helm, out / "usr/local/bin/helm")


def kind(out: Path, say: gobuild.Say) -> None:
    """Lay kind into an image's folder, built from its Go module where it was not yet."""

    def make(go: Path, folder: Path) -> None:
        words = kind_arguments(folder)
        gobuild.build(go, words, KIND, cache / "build.log", say, name="kind", count=KIND_PACKAGES)

    cache = paths.cache() / "kind"
    lay(gobuild.once(cache / kind_key(), make, say, what="kind") / "kind", out / "usr/lib/dozlab-k8s/kind")


def kind_arguments(out: Path) -> list[str]:
    """Return the words after `go`. Pure."""
    return [
        "build", "-v", "-trimpath", "-buildvcs=false", "-mod=readonly", "-ldflags", "-s -w", "-o", f"{out}/",
        KIND_PACKAGE,
    ]  # fmt: skip


def kind_key() -> str:
    """Return the name of what the module builds: it changes with versions and flags."""
    digest = hashlib.sha256("\0".join([gobuild.GO, *kind_arguments(Path("out"))]).encode())
    for name in ("go.mod", "go.sum"):
        digest.update((KIND / name).read_bytes())
    return digest.hexdigest()[:12]


def lay(program: Path, to: Path) -> None:
    """Copy a program into an image's folder, executable."""
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(program, to)
    to.chmod(0o755)
