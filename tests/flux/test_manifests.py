"""fluxcd/ builds as it stands and in its commented variant, names what it should, and holds no password."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from tools import kubetools

from tests.flux.manifests import (
    CHART,
    FLUXCD,
    NAMESPACE,
    kustomize,
    names,
    session_values,
    the,
    variant_with_registry,
)

FILES = sorted(FLUXCD.rglob("*.yaml"))
VERSIONS = {
    "Namespace": "v1",
    "ConfigMap": "v1",
    "GitRepository": "source.toolkit.fluxcd.io/v1",
    "OCIRepository": "source.toolkit.fluxcd.io/v1",
    "HelmRelease": "helm.toolkit.fluxcd.io/v2",
    "Kustomization": "kustomize.toolkit.fluxcd.io/v1",
}


def test_base_builds() -> None:
    objects = kustomize(FLUXCD / "base")
    assert names(objects) == {
        ("Namespace", NAMESPACE),
        ("GitRepository", "dozlab"),
        ("Kustomization", "dozlab-sessions"),
    }
    assert {each["kind"]: each["apiVersion"] for each in objects}.items() <= VERSIONS.items()
    sessions = the("Kustomization", objects)["spec"]
    assert (FLUXCD.parent / sessions["path"] / "kustomization.yaml").is_file()
    assert sessions["prune"] is True
    assert sessions["sourceRef"]["name"] == the("GitRepository", objects)["metadata"]["name"]


def test_sessions_build_to_whole_releases() -> None:
    objects = kustomize(FLUXCD / "sessions")
    assert names(objects) == {("ConfigMap", "dozlab-session-values"), ("HelmRelease", "example")}
    assert {each["kind"]: each["apiVersion"] for each in objects}.items() <= VERSIONS.items()
    assert {each["metadata"]["namespace"] for each in objects} == {NAMESPACE}
    spec = the("HelmRelease", objects)["spec"]
    assert (FLUXCD.parent / spec["chart"]["spec"]["chart"]) == CHART
    assert spec["chart"]["spec"]["sourceRef"] == {"kind": "GitRepository", "name": "dozlab"}
    assert spec["interval"] and spec["timeout"]
    # What is answered with an uninstall or a rollback ends a session.
    assert spec["install"]["strategy"]["name"] == spec["upgrade"]["strategy"]["name"] == "RetryOnFailure"
    assert "remediation" not in spec["install"] | spec["upgrade"]
    assert spec["suspend"] is True  # the example starts nothing


def test_the_chart_can_come_from_a_registry(tmp_path: Path) -> None:
    copy = variant_with_registry(tmp_path)
    base, sessions = kustomize(copy / "base"), kustomize(copy / "sessions")
    repository = the("OCIRepository", base)
    assert repository["apiVersion"] == VERSIONS["OCIRepository"]
    spec = the("HelmRelease", sessions)["spec"]
    assert "chart" not in spec
    assert spec["chartRef"] == {"kind": "OCIRepository", "name": repository["metadata"]["name"]}


def test_every_session_file_is_listed() -> None:
    listed = yaml.safe_load((FLUXCD / "sessions/kustomization.yaml").read_text())
    known = {*listed["resources"], "kustomization.yaml", "release.yaml", "values.yaml"}
    assert {path.name for path in (FLUXCD / "sessions").iterdir()} == known


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(FLUXCD)))
def test_no_password_is_in_git(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"^kind: Secret$", text, re.MULTILINE)
    assert not re.search(r"^[^#\n]*password\s*:\s*\S", text, re.MULTILINE | re.IGNORECASE)
    assert "--from-literal" not in text  # it would be in the shell's history and in the process list


def test_a_password_would_be_found(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("codeServer:\n  password: hunter2\n")
    with pytest.raises(AssertionError):
        test_no_password_is_in_git(file)


def test_the_chart_takes_each_sessions_values(tmp_path: Path) -> None:
    objects = kustomize(FLUXCD / "sessions")
    for release in (each for each in objects if each["kind"] == "HelmRelease"):
        values = session_values(objects, release)
        file = tmp_path / "values.yaml"
        file.write_text(yaml.safe_dump(values))
        name = release["metadata"]["name"]
        done = subprocess.run(
            [kubetools.ensure().helm, "template", name, CHART, "--namespace", NAMESPACE, "-f", file],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        rendered = [each for each in yaml.safe_load_all(done.stdout) if each]
        session = values["session"]["id"]
        assert {("Pod", f"lab-session-{session}"), ("Service", f"lab-service-{session}")} <= names(rendered)
        # The password stays where it is: the chart makes no Secret of its own, the Pod names the existing one.
        assert not [each for each in rendered if each["kind"] == "Secret"]
        assert values["codeServer"]["existingSecret"]["name"] in done.stdout
