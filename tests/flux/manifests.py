"""What the tests of fluxcd/ share: kustomize, the variant with the chart from a registry, merged values."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml
from tools import kubetools

from dozlab.values import merge
from tests.support import REPOSITORY

FLUXCD = REPOSITORY / "fluxcd"
CHART = REPOSITORY / "charts/dozlab-session"
NAMESPACE = "dozlab"


def kustomize(folder: Path) -> list[dict[str, Any]]:
    """Return the objects that `kubectl kustomize FOLDER` prints."""
    done = subprocess.run(
        [kubetools.ensure().kubectl, "kustomize", folder], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def names(objects: list[dict[str, Any]]) -> set[tuple[str, str]]:
    """Return kind and name of each."""
    return {(each["kind"], each["metadata"]["name"]) for each in objects}


def the(kind: str, objects: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the one object of that kind."""
    (found,) = (each for each in objects if each["kind"] == kind)
    return found


def variant_with_registry(folder: Path) -> Path:
    """Copy fluxcd/ and make the choice that its comments offer: the chart from an OCIRepository."""
    copy = folder / "fluxcd"
    shutil.copytree(FLUXCD, copy)
    _edit(copy / "base/kustomization.yaml", "# - ocirepository.yaml", "- ocirepository.yaml")
    release = copy / "sessions/release.yaml"
    text = release.read_text()
    text, chart = re.subn(r"^  chart:\n(?:    .*\n)+", "", text, flags=re.MULTILINE)
    text, reference = re.subn(
        r"^  # (chartRef:|  kind: OCIRepository|  name: dozlab-session)$", r"  \1", text, flags=re.M
    )
    assert (chart, reference) == (1, 3)
    release.write_text(text)
    return copy


def _edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert text.count(old) == 1, f"{file}: {old}"
    file.write_text(text.replace(old, new))


def session_values(objects: list[dict[str, Any]], release: dict[str, Any]) -> dict[str, Any]:
    """Return the values a HelmRelease ends with: its ConfigMaps first, its own last."""
    found: dict[str, Any] = {}
    for source in release["spec"].get("valuesFrom", []):
        (data,) = (each["data"] for each in objects if each["metadata"]["name"] == source["name"])
        found = merge(found, yaml.safe_load(data["values.yaml"]))
    return merge(found, release["spec"]["values"])
