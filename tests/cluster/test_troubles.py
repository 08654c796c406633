"""What goes wrong in practice, made to happen: the cause is where the chart's README says to look, in plain words."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.kube import Kube, pod
from tests.support import until

pytestmark = [pytest.mark.timeout(1200)]


def said(kube: Kube, session: str, container: str, words: str) -> None:
    """Wait until a container's log, of this run or of the one before, has these words."""

    def there() -> bool:
        return any(words in kube.logs(session, container, *more) for more in ([], ["--previous"]))

    try:
        until(there, what=f"{words!r} in the log of {container}", seconds=300)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{kube.evidence(session)}") from error
    assert "Traceback" not in kube.logs(session, container)


def test_no_such_image(kube: Kube, trouble: str) -> None:
    kube.install(trouble, rootfs__imageUrl=kube.image_url + "-missing")
    said(kube, trouble, "init-rootfs", "404")
    until(lambda: kube.container(trouble, "init-rootfs").get("restartCount", 0) > 0, what="another try", seconds=300)


def test_a_wrong_checksum(kube: Kube, trouble: str) -> None:
    kube.install(trouble, rootfs__imageUrl=kube.small_url, rootfs__sha256="0" * 64)
    said(kube, trouble, "init-rootfs", "sha256")


def test_an_image_without_sshd_and_docker(kube: Kube, trouble: str, node_chart: Path) -> None:
    """It cannot be prepared either, which is told at once and fails nothing: what it lacks is told by the machine."""
    kube.install(
        trouble, rootfs__imageUrl=kube.small_url, rootfs__cache__enabled="true",
        rootfs__cache__hostPath=str(node_chart), snapshot__enabled="true",
    )  # fmt: skip
    said(kube, trouble, "prepare-snapshot", "the session boots: no snapshot was made: the image has no sshd")
    said(kube, trouble, "firecracker-vm", "the image has no sshd")
    said(kube, trouble, "firecracker-vm", "the image has no Docker")
    assert not kube.ready(trouble)
    failed = {row["stage"] for row in kube.timeline(trouble) if row["event"] == "failed"}
    assert {"sshd", "dockerd"} <= failed


def test_an_image_without_docker_alone(kube: Kube, trouble: str) -> None:
    """The machine is of use all the same: the Pod is Ready, and says what it lacks."""
    kube.install(trouble, rootfs__imageUrl=kube.image_url.replace("dozlab-vm", "no-docker"))
    said(kube, trouble, "firecracker-vm", "the image has no Docker")
    kube.wait_ready(trouble)
    failed = {row["stage"] for row in kube.timeline(trouble) if row["event"] == "failed"}
    assert failed == {"dockerd"}


def test_no_tun_device(kube: Kube, trouble: str) -> None:
    kube.install(trouble, rootfs__imageUrl=kube.small_url, devices__tun__enabled="false")
    said(kube, trouble, "network-setup", "there is no /dev/net/tun")


def test_a_node_without_the_device_plugin(kube: Kube, trouble: str) -> None:
    kube.install(trouble, rootfs__imageUrl=kube.small_url, devices__tun__resource="example.org/none")
    until(
        lambda: "Insufficient example.org/none" in kube.kubectl("describe", "pod", pod(trouble)).stdout,
        what="the scheduler's word", seconds=150,
    )  # fmt: skip


def test_snapshots_on_a_node_without_the_cache(kube: Kube, trouble: str) -> None:
    """The Pod waits, and says for what: see docs/how-to/node-setup.md."""
    kube.install(
        trouble, rootfs__imageUrl=kube.small_url, rootfs__cache__enabled="true", snapshot__enabled="true",
        rootfs__cache__hostPath="/var/lib/dozlab-nowhere",
    )  # fmt: skip
    why = "hostPath type check failed: /var/lib/dozlab-nowhere is not a directory"
    until(
        lambda: why in kube.kubectl("describe", "pod", pod(trouble)).stdout, what="the kubelet's word", seconds=150
    )  # fmt: skip


def test_kvm_required_and_not_there(kube: Kube, trouble: str) -> None:
    kube.install(trouble, "--set", "firecracker.requireKvm=true", "--set", "devices.kvm.enabled=false",
                 rootfs__imageUrl=kube.small_url)  # fmt: skip
    said(kube, trouble, "firecracker-vm", "KVM")


def test_a_node_with_too_little_memory(kube: Kube, trouble: str) -> None:
    kube.install(
        trouble, rootfs__imageUrl=kube.small_url,
        firecracker__resources__requests__memory="900Gi", firecracker__resources__limits__memory="900Gi",
    )  # fmt: skip
    until(
        lambda: "Insufficient memory" in kube.kubectl("describe", "pod", pod(trouble)).stdout,
        what="the scheduler's word", seconds=150,
    )  # fmt: skip


def test_a_limit_below_the_machines_memory_is_refused_at_once(kube: Kube, trouble: str) -> None:
    done = kube.helm("install", trouble, kube.chart, *kube.values(trouble, vm__memory="4096"), check=False)
    assert done.returncode != 0
    assert "firecracker.resources.limits.memory" in done.stderr
