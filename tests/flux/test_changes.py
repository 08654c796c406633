"""What fluxcd/README.md says of changes holds for the Pods that the chart renders: in place, restart, or refused.

Kubernetes lets an update of a Pod change its labels and annotations, and in its spec images and little else.
"""

from __future__ import annotations

import copy
import re
import subprocess
from typing import Any

import pytest
import yaml
from tools import kubetools

from dozlab.values import merge
from tests.flux.manifests import CHART, FLUXCD

BASE: dict[str, Any] = {
    "rootfs": {"imageUrl": "https://images.example/a.ext4"},
    "codeServer": {"existingSecret": {"name": "secret"}},
}
HOST = {"enabled": True, "vscode": {"host": "code.example"}}

IN_PLACE: dict[str, list[dict[str, Any]]] = {
    "labels": [{"labels": {"course": "docker-101"}}],
    "podAnnotations": [{"podAnnotations": {"example.com/a": "b"}}],
    "session.userId": [{"session": {"userId": "b@example.com"}}],
    "service.*": [
        {"service": {"type": "NodePort"}},
        {"service": {"ports": {"vscode": 80, "terminal": 81, "ssh": 2222}}},
    ],
    "networkPolicy.*": [{"networkPolicy": {"enabled": True}}],
    "serviceMonitor.*": [{"serviceMonitor": {"enabled": True}}],
    "ingress.*": [{"ingress": HOST}],
    "httpRoute.*": [{"httpRoute": {**HOST, "parentRefs": [{"name": "gateway"}]}}],
}
RESTART: dict[str, list[dict[str, Any]]] = {
    "image.tag": [{"image": {"tag": "9.9.9"}}],
    "*.tag": [{"firecracker": {"tag": "9.9.9"}}, {"initContainers": {"rootfs": {"tag": "9.9.9"}}}],
    "*.digest": [{"terminal": {"digest": "sha256:" + "0" * 64}}],
    "*.image": [{"codeServer": {"image": "registry.example/editor"}}],
    "image.registry": [{"image": {"registry": "registry.example"}}],
}
REFUSED: dict[str, list[dict[str, Any]]] = {
    "vm.*": [{"vm": {"memory": 1024}}, {"vm": {"cpuCount": 1}}],
    "rootfs.*": [{"rootfs": {"imageUrl": "https://images.example/b.ext4"}}, {"rootfs": {"diskSize": "2G"}}],
    "network.*": [{"network": {"egress": {"deny": ["0.0.0.0/0"]}}}],
    "ssh.*": [{"ssh": {"authorizedKeys": ["ssh-ed25519 AAAA a"]}}],
    "firecracker.*": [
        {"firecracker": {"requireKvm": True}},
        {"firecracker": {"resources": {"limits": {"memory": "4Gi"}}}},
    ],
    "terminal.*": [{"terminal": {"basePath": "/a"}}],
    "codeServer.*": [{"codeServer": {"enabled": False}}],
    "volumes.*": [{"volumes": {"vmData": {"persistence": {"enabled": True}}}}],
}
TERMINAL_HOST = {"ingress": {"enabled": True, "terminal": {"host": "term.example"}}}


def pod(*changes: dict[str, Any]) -> dict[str, Any]:
    """Return the Pod that the chart renders with these values."""
    values = BASE
    for change in changes:
        values = merge(values, change)
    done = subprocess.run(
        [kubetools.ensure().helm, "template", "a", CHART, "-f", "-"], input=yaml.safe_dump(values),
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (found,) = (
        each
        for each in yaml.safe_load_all(done.stdout)
        if each and each["kind"] == "Pod" and "helm.sh/hook" not in each["metadata"].get("annotations", {})
    )
    return dict(found)


def without_images(spec: dict[str, Any]) -> dict[str, Any]:
    """Return a Pod's spec but for what a restart may change."""
    spec = copy.deepcopy(spec)
    for container in [*spec["initContainers"], *spec["containers"]]:
        del container["image"]
    return spec


def rows() -> list[set[str]]:
    """Return the names in the first column of the guide's table of changes."""
    section = (FLUXCD / "README.md").read_text().split("## Change a session\n", 1)[1].split("\n### ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [set(re.findall(r"`([a-zA-Z.*]+)`", line.split("|")[1])) - {"appVersion"} for line in lines]


def cases(table: dict[str, list[dict[str, Any]]]) -> list[Any]:
    return [pytest.param(change, id=f"{name}-{at}") for name, each in table.items() for at, change in enumerate(each)]


def test_every_name_of_the_guide_is_tried() -> None:
    assert rows() == [set(IN_PLACE), set(RESTART), set(REFUSED)]


@pytest.mark.parametrize("change", cases(IN_PLACE))
def test_changes_in_place(change: dict[str, Any]) -> None:
    assert pod(change)["spec"] == pod()["spec"]


@pytest.mark.parametrize("change", cases(RESTART))
def test_changes_with_a_restart(change: dict[str, Any]) -> None:
    before, after = pod()["spec"], pod(change)["spec"]
    assert after != before
    assert without_images(after) == without_images(before)


@pytest.mark.parametrize("change", cases(REFUSED))
def test_changes_that_are_refused(change: dict[str, Any]) -> None:
    assert without_images(pod(change)["spec"]) != without_images(pod()["spec"])


def test_a_host_for_the_terminal_is_no_change_in_place_unless_its_origins_are_set() -> None:
    origins = {"terminal": {"allowedOrigins": ["https://term.example"]}}
    assert pod(TERMINAL_HOST)["spec"] != pod()["spec"]
    assert pod(origins, TERMINAL_HOST)["spec"] == pod(origins)["spec"]
