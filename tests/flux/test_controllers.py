"""The real source-controller and helm-controller take fluxcd/ as it is, on a real cluster: from registry to Pod.

No guest boots here (that is tests/cluster): a session's Pod need not become Ready for what Flux does with it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tools import kubetools
from tools.cluster import cluster, layout
from tools.flux import build, run

from tests.cluster.kube import Programs, running_node
from tests.flux.manifests import CHART, FLUXCD, NAMESPACE, variant_with_registry
from tests.support import until

pytestmark = [pytest.mark.root, pytest.mark.cluster, pytest.mark.timeout(600)]

POD = ("pod", "lab-session-example")
RELEASE = ("helmrelease", "example")
VERSION = "0.0.1"


class Cluster(Programs):
    """What is asked of Flux's objects in the test cluster."""

    def object(self, kind: str, name: str) -> dict[str, Any]:
        """Return an object of the sessions' namespace; empty where there is none."""
        found: dict[str, Any] = self.get(kind, name, "-n", NAMESPACE)
        return found

    def condition(self, kind: str, name: str, wanted: str = "Ready") -> dict[str, Any]:
        """Return one condition of an object, of its newest generation; empty before there is one."""
        found = self.object(kind, name)
        status = found.get("status", {})
        if status.get("observedGeneration") != found.get("metadata", {}).get("generation"):
            return {}
        return next((each for each in status.get("conditions", []) if each["type"] == wanted), {})

    def patch(self, change: dict[str, Any]) -> None:
        """Change the session's HelmRelease as a commit would."""
        self.kubectl(
            "patch", "helmrelease", "example", "-n", NAMESPACE, "--type=merge", "-p", json.dumps({"spec": change})
        )

    def reconcile(self) -> None:
        """What `flux reconcile helmrelease example` does."""
        stamp = f"reconcile.fluxcd.io/requestedAt={time.time()}"
        self.kubectl("annotate", "--overwrite", "helmrelease", "example", "-n", NAMESPACE, stamp)

    def wait_ready(self) -> None:
        """Wait until the session's HelmRelease is Ready at its newest generation."""
        until(lambda: self.condition(*RELEASE).get("status") == "True", what="HelmRelease Ready", seconds=180)

    def wait_refused(self, why: str) -> None:
        """Wait until an upgrade is refused for this reason.

        Flux tries again and again, and a try can fail for another: a forced replacement is a PUT of a Pod that kubelet
        may have changed since it was read.
        """

        def refused() -> bool:
            released = self.condition(*RELEASE, "Released")
            return released.get("status") == "False" and why in released["message"]

        until(refused, what=f"HelmRelease refused: {why}", seconds=180)


@pytest.fixture(scope="module")
def controllers() -> Iterator[Cluster]:
    """The controllers run; of fluxcd/ only the namespace is there."""
    lines: list[str] = []
    programs = build.ensure(lines.append)
    with running_node() as kubeconfig:
        found = Cluster(kubeconfig, kubetools.ensure().helm, cluster.programs() / "kubectl")
        run.up(programs, kubeconfig, found.kubectl_path, lines.append)
        try:
            found.kubectl("apply", "--server-side", "-f", str(FLUXCD / "base/namespace.yaml"))
            yield found
            assert set(run.running()) == set(build.CONTROLLERS)  # neither has died on the way
        finally:
            run.down(lines.append)


@pytest.fixture(scope="module")
def flux(controllers: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """Chart, sources and a session of fluxcd/ are there as well."""
    _push(controllers, tmp_path_factory.mktemp("chart"))
    _apply(controllers, variant_with_registry(tmp_path_factory.mktemp("flux")))
    return controllers


def _push(kube: Cluster, folder: Path) -> None:
    chart = folder / f"dozlab-session-{VERSION}.tgz"
    for words in (
        ["package", str(CHART), "--version", VERSION, "-d", str(folder)],
        ["push", str(chart), f"oci://{layout.REGISTRY}/charts", "--plain-http"],
    ):
        kube.helm(*words)


def _apply(kube: Cluster, copy: Path) -> None:
    """Apply base and sessions of the copy, but for addresses and waiting times."""
    repository = copy / "base/ocirepository.yaml"
    told = yaml.safe_load(repository.read_text())
    told["spec"] |= {"url": f"oci://{layout.REGISTRY}/charts/dozlab-session", "insecure": True, "interval": "5s"}
    told["spec"]["ref"] = {"tag": VERSION}
    repository.write_text(yaml.safe_dump(told))
    release = copy / "sessions/release.yaml"
    told = yaml.safe_load(release.read_text())
    for action in ("install", "upgrade"):
        told["spec"][action]["disableWait"] = True
        told["spec"][action]["strategy"]["retryInterval"] = "5s"
    release.write_text(yaml.safe_dump(told))
    session = copy / "sessions/example.yaml"
    told = yaml.safe_load(session.read_text())
    del told["spec"]["suspend"]
    session.write_text(yaml.safe_dump(told))

    secret = ["create", "secret", "generic", "example-password", "--from-file=vscode-password=/dev/stdin"]
    kube.kubectl(*secret, "-n", NAMESPACE, input="only-for-this-test")
    kube.kubectl("apply", "-f", str(repository))
    kube.kubectl("apply", "-k", str(copy / "sessions"))


def test_the_api_server_takes_everything_as_it_stands(controllers: Cluster, tmp_path: Path) -> None:
    for folder in (FLUXCD, variant_with_registry(tmp_path)):
        for part in ("base", "sessions"):
            controllers.kubectl("apply", "--server-side", "--dry-run=server", "-k", str(folder / part))


def test_a_release_becomes_a_pod(flux: Cluster) -> None:
    until(lambda: flux.condition("ocirepository", "dozlab-session").get("status") == "True", what="chart", seconds=150)
    flux.wait_ready()
    pod = flux.object(*POD)
    assert pod["metadata"]["labels"]["session-id"] == "example"
    assert flux.object("service", "lab-service-example")
    # The password is only in the Secret that was there before.
    assert not flux.object("secret", "lab-session-example-secrets")
    assert "example-password" in json.dumps(pod["spec"])
    history = flux.kubectl("get", "secret", "-n", NAMESPACE, "-l", "owner=helm", "-o", "json").stdout
    assert "only-for-this-test" not in history


def test_a_label_changes_in_place(flux: Cluster) -> None:
    before = flux.object(*POD)["metadata"]["uid"]
    flux.patch({"values": {"labels": {"course": "docker-101"}}})
    flux.wait_ready()
    pod = flux.object(*POD)["metadata"]
    assert (pod["labels"]["course"], pod["uid"]) == ("docker-101", before)


def test_another_image_is_taken_in_place(flux: Cluster) -> None:
    before = flux.object(*POD)["metadata"]["uid"]
    flux.patch({"values": {"image": {"tag": "9.9.9"}}})
    flux.wait_ready()
    pod = flux.object(*POD)
    assert pod["metadata"]["uid"] == before
    assert {each["image"].rpartition(":")[2] for each in pod["spec"]["containers"]} == {"9.9.9"}


def test_a_change_of_the_vm_waits_until_the_pod_is_deleted(flux: Cluster) -> None:
    before = flux.object(*POD)
    flux.patch({"values": {"vm": {"memory": "1024"}}})
    flux.wait_refused("pod updates may not change fields")
    after = flux.object(*POD)
    assert (after["metadata"]["uid"], after["spec"]) == (before["metadata"]["uid"], before["spec"])

    flux.kubectl("delete", "pod", POD[1], "-n", NAMESPACE)
    flux.wait_ready()
    pod = flux.object(*POD)
    assert pod["metadata"]["uid"] != before["metadata"]["uid"]
    assert _env(pod, "firecracker-vm")["MEMORY"] == "1024"


def test_force_does_not_recreate_a_pod(flux: Cluster) -> None:
    before = flux.object(*POD)["metadata"]["uid"]
    force = {"force": True, "serverSideApply": "disabled"}
    flux.patch({"upgrade": force, "values": {"vm": {"memory": "1280"}}})
    flux.wait_refused("pod updates may not change fields")
    assert flux.object(*POD)["metadata"]["uid"] == before
    flux.patch({"upgrade": dict.fromkeys(force), "values": {"vm": {"memory": "1024"}}})
    flux.wait_ready()


def test_a_deleted_pod_comes_back(flux: Cluster) -> None:
    flux.kubectl("delete", "pod", POD[1], "-n", NAMESPACE)
    assert not flux.object(*POD)
    flux.reconcile()
    until(lambda: bool(flux.object(*POD)), what="the Pod again", seconds=150)
    flux.wait_ready()


def test_a_suspended_session_stays_as_it_is(flux: Cluster) -> None:
    before = flux.object(*POD)["metadata"]["uid"]
    flux.patch({"suspend": True, "values": {"labels": {"course": "other"}}})
    until(lambda: "suspended" in run.log_tail("helm-controller"), what="the change seen", seconds=180)
    pod = flux.object(*POD)["metadata"]
    assert (pod["labels"]["course"], pod["uid"]) == ("docker-101", before)
    flux.patch({"suspend": False})
    flux.wait_ready()
    pod = flux.object(*POD)["metadata"]
    assert (pod["labels"]["course"], pod["uid"]) == ("other", before)


def test_deleting_the_release_deletes_the_session(flux: Cluster) -> None:
    flux.kubectl("delete", "helmrelease", "example", "-n", NAMESPACE, "--timeout=90s")
    until(lambda: not flux.object(*POD), what="the end of the Pod", seconds=150)
    assert not flux.object("service", "lab-service-example")
    assert flux.object("secret", "example-password")  # it was not the release's


def _env(pod: dict[str, Any], container: str) -> dict[str, str]:
    (found,) = (each for each in pod["spec"]["containers"] if each["name"] == container)
    return {each["name"]: each.get("value", "") for each in found["env"]}
