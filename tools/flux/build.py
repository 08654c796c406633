"""Builds source-controller and helm-controller from Go modules, once: `~/.cache/dozlab/flux/KEY/`, KEY from all inputs.

Beside the two programs lie the CRDs of the same modules, and those of kustomize-controller, of which nothing is built.
Compiler cache and module sources are shared with tools/cluster: what both need is compiled once.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

from tools import gobuild
from tools.gobuild import Say

from dozlab.lib import paths
from dozlab.lib.errors import DozlabError

HERE = Path(__file__).resolve().parent

CONTROLLERS = ("source-controller", "helm-controller")
KUSTOMIZE = "github.com/fluxcd/kustomize-controller@v1.9.1"
KUSTOMIZE_SUM = "h1:jggQk9hMsnXG9QdPWNSKhttH5NdVN+HXm/dbKAJ3Uw8="
"""What go.sum would say; the module is in no go.mod, since only a YAML file of it is used."""

PACKAGES = 2500
"""To compile, about: for the progress line only."""


def arguments(out: Path) -> list[str]:
    """Return the words after `go`. Pure."""
    return [
        "build", "-v", "-trimpath", "-buildvcs=false", "-mod=readonly", "-ldflags", "-s -w", "-o", f"{out}/",
        *(f"github.com/fluxcd/{name}" for name in CONTROLLERS),
    ]  # fmt: skip


def key() -> str:
    """Return the name of what these sources build: it changes with go.mod, go.sum, versions and flags."""
    digest = hashlib.sha256("\0".join([gobuild.GO, KUSTOMIZE, *arguments(Path("out"))]).encode())
    for name in ("go.mod", "go.sum"):
        digest.update((HERE / name).read_bytes())
    return digest.hexdigest()[:12]


def cache() -> Path:
    """Return the folder that holds one folder for each key."""
    return paths.cache() / "flux"


def programs() -> Path:
    """Return the folder of programs and CRDs, which may not exist yet."""
    return cache() / key()


def ensure(say: Say, *, keep: bool = False) -> Path:
    """Return the folder of programs and CRDs, built first where it is missing (`gobuild.once`)."""

    def make(go: Path, out: Path) -> None:
        _crds(go, out / "crds", say)
        name = " and ".join(CONTROLLERS)
        gobuild.build(go, arguments(out), HERE, cache() / "build.log", say, name=name, count=PACKAGES)

    return gobuild.once(programs(), make, say, what="Flux controllers", keep=keep)


def _crds(go: Path, out: Path, say: Say) -> None:
    """Copy the CRDs out of the modules; go checks two of them against go.sum, we the third."""
    say("fetching the modules of the Flux controllers")
    out.mkdir()
    modules = [*(f"github.com/fluxcd/{name}" for name in CONTROLLERS), KUSTOMIZE]
    for module in modules:
        done = subprocess.run(
            [go, "mod", "download", "-json", module], cwd=HERE, env=gobuild.environment(go),
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        told = json.loads(done.stdout or "{}")
        if done.returncode or "Error" in told:
            raise DozlabError(f"{module} could not be fetched: {told.get('Error') or done.stderr.strip()}")
        if module == KUSTOMIZE and told["Sum"] != KUSTOMIZE_SUM:
            raise DozlabError(f"{module} has the sum {told['Sum']}, not {KUSTOMIZE_SUM}: not used")
        for file in (Path(told["Dir"]) / "config/crd/bases").glob("*.yaml"):
            (out / file.name).write_bytes(file.read_bytes())
