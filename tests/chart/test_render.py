"""What the charts render to, whole: defaults, everything on, the node; and that helm and Kubernetes accept it."""

from __future__ import annotations

from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
from kubernetes_validate.utils import all_versions  # type: ignore[import-untyped]

from tests.chart.render import GOLDEN, HERE, NEEDED, NODE, SESSION, objects, run, template

VERSIONS = [version for version in all_versions() if version.removeprefix("v") >= "1.20"]
CUSTOM = ("HTTPRoute", "ServiceMonitor")
"""Kinds of CRDs, which Kubernetes itself has no schema of."""
RENDERED: dict[str, Any] = {name: (chart, arguments) for name, (chart, arguments) in GOLDEN.items()}


@pytest.mark.parametrize("name", GOLDEN)
def test_rendered_whole(name: str) -> None:
    """Compared byte for byte; `python -m tests.chart.render` rewrites the files after a change that is meant."""
    chart, arguments = GOLDEN[name]
    assert template(*arguments, chart=chart) == (HERE / f"{name}.golden.yaml").read_text()


@pytest.mark.parametrize("name", GOLDEN)
def test_helm_lint_has_no_complaint(name: str) -> None:
    chart, arguments = GOLDEN[name]
    done = run("lint", "--strict", str(chart), *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[WARNING]" not in done.stdout + done.stderr
    assert "[ERROR]" not in done.stdout + done.stderr


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", GOLDEN)
def test_valid_for_kubernetes(name: str, version: str) -> None:
    chart, arguments = GOLDEN[name]
    checked = 0
    for item in objects(*arguments, chart=chart):
        if item["kind"] not in CUSTOM:
            kubernetes_validate.validate(item, version, strict=True)
            checked += 1
    assert checked >= 2


def test_the_schemas_reach_to_the_newest_kubernetes() -> None:
    assert len(VERSIONS) >= 13
    assert VERSIONS[-1].startswith("1.37")


def test_a_wrong_object_would_be_found() -> None:
    (pod,) = [item for item in objects(*NEEDED) if item["kind"] == "Pod" and "test" not in item["metadata"]["name"]]
    pod["spec"]["containers"][0]["imagePulPolicy"] = "Always"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(pod, "1.33.0", strict=True)


@pytest.mark.parametrize(
    ("version", "accepted"), [("1.19.16", False), ("1.20.0", True), ("1.37.0", True), ("1.31.2-gke.5", True)]
)
@pytest.mark.parametrize(("chart", "arguments"), [(SESSION, NEEDED), (NODE, ())])
def test_kubernetes_versions(chart: Any, arguments: tuple[str, ...], version: str, accepted: bool) -> None:
    done = run("template", "x", str(chart), *arguments, "--kube-version", version)
    assert (done.returncode == 0) is accepted, done.stderr


def test_two_sessions_share_nothing() -> None:
    """Names and selectors differ, also where only the release differs."""
    one, two = objects(*NEEDED, "--set", "session.id=a"), objects(*NEEDED, "--set", "session.id=b")
    names = [{(item["kind"], item["metadata"]["name"]) for item in found} for found in (one, two)]
    assert not names[0] & names[1]
    third = objects(*NEEDED, "--set", "session.id=a,fullnameOverride=other", release="other")
    selectors = []
    for found in (one, two, third):
        service = next(item for item in found if item["kind"] == "Service")
        labels = next(item for item in found if item["kind"] == "Pod" and "hook" not in str(item))["metadata"]["labels"]
        assert service["spec"]["selector"].items() <= labels.items()
        selectors.append(service["spec"]["selector"])
    assert len({str(item) for item in selectors}) == 3


def test_a_test_pod_is_not_the_sessions() -> None:
    found = objects(*NEEDED)
    service = next(item for item in found if item["kind"] == "Service")
    hook = next(item for item in found if "helm.sh/hook" in item["metadata"].get("annotations", {}))
    assert not service["spec"]["selector"].items() <= hook["metadata"]["labels"].items()


def test_notes_show_the_way_and_no_secret() -> None:
    done = run("install", "lab", str(SESSION), "--dry-run=client", "--hide-secret", *NEEDED)
    assert done.returncode == 0, done.stderr
    notes = done.stdout.split("NOTES:")[1]
    assert "hunter2222" not in notes
    assert "WARNING: ephemeral storage" in notes
    assert "port-forward svc/lab-service-example-session-123 8080:8080 8081:8081" in notes
    assert "dozlab.io/tun" in notes
    kept = run(
        "install", "lab", str(SESSION), "--dry-run=client", *NEEDED, "--set", "volumes.vmData.persistence.enabled=true"
    )
    assert "ephemeral" not in kept.stdout.split("NOTES:")[1]
    cached = ("--set", "rootfs.cache.enabled=true", "--set", "snapshot.enabled=true")
    prepared = run("install", "lab", str(SESSION), "--dry-run=client", *NEEDED, *cached)
    pod = "lab-session-example-session-123"
    assert f" logs {pod} -c prepare-snapshot -f " in prepared.stdout.split("NOTES:")[1]
    assert "prepare-snapshot" not in notes


def test_packages_whole(tmp_path: Any) -> None:
    for chart in (SESSION, NODE):
        done = run("package", str(chart), "-d", str(tmp_path))
        assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("dozlab-*.tgz"))) == 2
