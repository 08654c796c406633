"""The rendered Pod against Pod Security Standards, level `restricted` (Kubernetes 1.20 to 1.37), and our own promises.

What it breaks is known by name: one init container is user 0 and has NET_ADMIN. Nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.chart.render import EVERYTHING, NEEDED, Objects, container, kind, objects

VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip
SYSCTLS = {
    "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range",
}  # fmt: skip
SELINUX_TYPES = {"", "container_t", "container_init_t", "container_kvm_t"}


def violations(pod: dict[str, Any]) -> Iterator[str]:
    """Yield what breaks `restricted`, each as `where: what`."""
    spec = pod["spec"]
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(name):
            yield f"pod: {name}"
    for volume in spec.get("volumes", []):
        kinds = set(volume) - {"name"}
        if not kinds <= VOLUMES:
            yield f"volume {volume['name']}: {sorted(kinds)}"
    above = spec.get("securityContext", {})
    if {item["name"] for item in above.get("sysctls", [])} - SYSCTLS:
        yield "pod: sysctls"
    for item in spec.get("initContainers", []) + spec["containers"]:
        name, own = item["name"], item.get("securityContext", {})
        if own.get("privileged"):
            yield f"{name}: privileged"
        if any("hostPort" in port for port in item.get("ports", [])):
            yield f"{name}: hostPort"
        if own.get("procMount", "Default") != "Default":
            yield f"{name}: procMount"
        if own.get("allowPrivilegeEscalation") is not False:
            yield f"{name}: allowPrivilegeEscalation"
        if "ALL" not in own.get("capabilities", {}).get("drop", []):
            yield f"{name}: capabilities not dropped"
        for capability in set(own.get("capabilities", {}).get("add", [])) - {"NET_BIND_SERVICE"}:
            yield f"{name}: capability {capability}"
        if own.get("runAsNonRoot", above.get("runAsNonRoot")) is not True:
            yield f"{name}: not runAsNonRoot"
        if own.get("runAsUser", above.get("runAsUser")) == 0:
            yield f"{name}: user 0"
        if own.get("seccompProfile", above.get("seccompProfile", {})).get("type") not in (
            "RuntimeDefault",
            "Localhost",
        ):
            yield f"{name}: seccomp"
        for context in (own, above):
            options = context.get("seLinuxOptions", {})
            if options.get("type", "") not in SELINUX_TYPES or options.get("user") or options.get("role"):
                yield f"{name}: seLinuxOptions"


ALLOWED = ["network-setup: capability NET_ADMIN", "network-setup: not runAsNonRoot", "network-setup: user 0"]
"""user 0 is one thing that the standard names twice: runAsNonRoot, and runAsUser from its v1.22 on."""


def test_what_breaks_restricted_is_one_capability_and_user_0_in_one_container() -> None:
    assert list(violations(kind(objects(*NEEDED), "Pod"))) == ALLOWED


def test_nor_with_everything_on() -> None:
    pod = kind(objects("-f", str(EVERYTHING)), "Pod")
    pod["spec"]["containers"] = [item for item in pod["spec"]["containers"] if item["name"] != "recorder"]  # the user's
    pod["spec"]["initContainers"] = [item for item in pod["spec"]["initContainers"] if item["name"] != "greet"]
    assert list(violations(pod)) == ["volume kernels: ['hostPath']", *ALLOWED]


def test_the_test_pod_breaks_nothing() -> None:
    (pod,) = [item for item in objects(*NEEDED) if "helm.sh/hook" in item["metadata"].get("annotations", {})]
    assert list(violations(pod)) == []


def test_only_the_node_cache_brings_a_host_path() -> None:
    pod = kind(objects(*NEEDED, "--set", "rootfs.cache.enabled=true"), "Pod")
    assert list(violations(pod)) == ["volume kernels: ['hostPath']", *ALLOWED]


@pytest.mark.parametrize(
    ("path", "value", "found"),
    [
        ("privileged", True, "privileged"), ("allowPrivilegeEscalation", True, "allowPrivilegeEscalation"),
        ("capabilities", {"add": ["SYS_ADMIN"]}, "capability SYS_ADMIN"), ("runAsUser", 0, "user 0"),
        ("seccompProfile", {"type": "Unconfined"}, "seccomp"),
    ],
)  # fmt: skip
def test_a_loosened_container_would_be_found(path: str, value: Any, found: str) -> None:
    pod = kind(objects(*NEEDED, values={"terminal": {"securityContext": {path: value}}}), "Pod")
    assert f"terminal-sidecar: {found}" in list(violations(pod))


def pods() -> Iterator[Objects]:
    yield objects(*NEEDED)
    yield objects("-f", str(EVERYTHING))


def test_every_container_has_a_read_only_root_and_limits() -> None:
    for found in pods():
        spec = kind(found, "Pod")["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
        for item in spec["initContainers"] + spec["containers"]:
            if item["name"] in ("greet", "recorder"):
                continue
            assert item["securityContext"]["readOnlyRootFilesystem"] is True, item["name"]
            assert {"cpu", "memory"} <= set(item["resources"]["limits"]), item["name"]
            assert item["securityContext"]["runAsGroup"] == 1000


def test_who_sees_what() -> None:
    """The editor sees neither keys nor session disk; the password goes to the two that ask for it."""
    mounts = {
        item["name"]: {mount["mountPath"]: mount for mount in item["volumeMounts"]}
        for item in (container(objects(*NEEDED), name) for name in (
            "init-rootfs", "network-setup", "firecracker-vm", "terminal-sidecar", "code-server",
        ))
    }  # fmt: skip
    assert set(mounts["init-rootfs"]) == {"/srv/vm/kernels", "/vm-data", "/shared"}
    assert set(mounts["network-setup"]) == {"/shared"}
    assert set(mounts["firecracker-vm"]) == {"/srv/vm/kernels", "/vm-data", "/shared", "/tmp"}
    assert set(mounts["terminal-sidecar"]) == {"/shared", "/recordings", "/run/secrets/dozlab"}
    recordings = {"name": "vm-data", "mountPath": "/recordings", "subPath": "recordings"}
    assert mounts["terminal-sidecar"]["/recordings"] == recordings
    assert set(mounts["code-server"]) == {"/workspace", "/home/coder", "/tmp", "/run/secrets/dozlab"}
    assert mounts["code-server"]["/workspace"] == {"name": "vm-data", "mountPath": "/workspace", "subPath": "workspace"}
    assert mounts["firecracker-vm"]["/srv/vm/kernels"]["readOnly"] is True
    assert mounts["code-server"]["/run/secrets/dozlab"]["readOnly"] is True


def test_who_sees_what_is_secret() -> None:
    """Login and certificates for the image: init-rootfs. The terminal's key: the terminal. None in an environment."""
    found = objects("-f", str(EVERYTHING))
    spec = kind(found, "Pod")["spec"]
    seen = {
        name: [item["name"] for item in spec["initContainers"] + spec["containers"] if name in str(item)]
        for name in ("image-access", "terminal-tls", "registry-login", "own-ca")
    }
    assert seen == {
        "image-access": ["init-rootfs"], "terminal-tls": ["terminal-sidecar"], "registry-login": [], "own-ca": [],
    }  # fmt: skip
    volumes = {item["name"]: item for item in spec["volumes"]}
    assert volumes["terminal-tls"]["secret"]["defaultMode"] == 0o440
    assert volumes["image-access"]["projected"]["defaultMode"] == 0o440


def test_what_sessions_start_from_is_written_where_no_learner_has_been() -> None:
    """The VMM of a session cannot write snapshots; the container that can sees neither its disk nor its keys."""
    found = objects("-f", str(EVERYTHING))
    mounts = {
        name: {mount["mountPath"]: mount for mount in container(found, name)["volumeMounts"]}
        for name in ("init-rootfs", "prepare-snapshot", "firecracker-vm", "terminal-sidecar", "code-server")
    }
    own = {path: mount for path, mount in mounts["prepare-snapshot"].items() if path != "/etc/ssl/certs"}
    assert own == {
        "/srv/vm/kernels": {"name": "kernels", "mountPath": "/srv/vm/kernels", "readOnly": True},
        "/srv/vm/kernels/snapshots": {
            "name": "kernels", "mountPath": "/srv/vm/kernels/snapshots", "subPath": "snapshots",
        },
        "/vm-data": {"name": "prepare", "mountPath": "/vm-data"},
    }  # fmt: skip
    assert mounts["firecracker-vm"]["/srv/vm/kernels"]["readOnly"] is True
    users = {name for name, seen in mounts.items() if "prepare" in {mount["name"] for mount in seen.values()}}
    assert users == {"init-rootfs", "prepare-snapshot"}


def test_keys_stay_in_memory() -> None:
    for found in pods():
        shared = next(item for item in kind(found, "Pod")["spec"]["volumes"] if item["name"] == "shared")
        assert shared["emptyDir"]["medium"] == "Memory"


def test_the_grace_period_holds_the_guests() -> None:
    """STOP_GRACE of firecracker-vm is 25 s by default."""
    assert kind(objects(*NEEDED), "Pod")["spec"]["terminationGracePeriodSeconds"] >= 25 + 10
