"""Each value does something, and what it does is what it says: no more paths change than are listed."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from dozlab.chart_values import ChartValues
from tests.chart.render import (
    EVERYTHING,
    NEEDED,
    changes,
    container,
    objects,
    run,
    template,
)

POD = "Pod/lab-session-example-session-123"
SERVICE = "Service/lab-service-example-session-123"


def option(*expressions: str) -> dict[str, Any]:
    """Return what changes against the defaults."""
    arguments = [word for expression in expressions for word in ("--set", expression)]
    return changes(objects(*NEEDED), objects(*NEEDED, *arguments))


def init(name: str, path: str) -> str:
    return f"{POD}:spec.initContainers[{name}].{path}"


def main(name: str, path: str) -> str:
    return f"{POD}:spec.containers[{name}].{path}"


KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFake jane"
LEFT = main("firecracker-vm", "env[CHECKPOINTS_LIMIT].value")
"""What session disk, workspace and recordings (64 MiB) leave of vmData: the room for checkpoints."""

MOUNTED = {
    init("init-rootfs", "volumeMounts[image-access].name"): "image-access",
    init("init-rootfs", "volumeMounts[image-access].mountPath"): "/run/secrets/image",
    init("init-rootfs", "volumeMounts[image-access].readOnly"): True,
    f"{POD}:spec.volumes[image-access].name": "image-access",
    f"{POD}:spec.volumes[image-access].projected.defaultMode": 0o440,
}
CA = {
    init("init-rootfs", "env[IMAGE_CA_FILE].name"): "IMAGE_CA_FILE",
    init("init-rootfs", "env[IMAGE_CA_FILE].value"): "/run/secrets/image/ca.crt",
}


def projected(kind: str, name: str, key: str, file: str) -> dict[str, Any]:
    source = f"{POD}:spec.volumes[image-access].projected.sources[0].{kind}"
    return {f"{source}.name": name, f"{source}.items[0].key": key, f"{source}.items[0].path": file}


OPTIONS: dict[str, dict[str, Any]] = {
    "vm.cpuCount=4": {main("firecracker-vm", "env[CPU_COUNT].value"): "4"},
    "vm.memory=1024": {main("firecracker-vm", "env[MEMORY].value"): "1024"},
    "vm.idlePause=30m": {main("firecracker-vm", "env[IDLE_PAUSE].value"): "1800"},
    "rootfs.diskSize=2G": {init("init-rootfs", "env[IMAGE_SIZE].value"): str(2 << 30), LEFT: str(2496 << 20)},
    f"ssh.authorizedKeys[0]={KEY}": {init("init-rootfs", "env[SSH_AUTHORIZED_KEYS].value"): KEY},
    "network.egress.deny={0.0.0.0/0}": {init("network-setup", "env[EGRESS_DENY].value"): "0.0.0.0/0"},
    "firecracker.vmm=qemu": {main("firecracker-vm", "env[VMM].value"): "qemu"},
    "firecracker.requireKvm=true": {
        main("firecracker-vm", "env[REQUIRE_KVM].value"): "true",
        main("firecracker-vm", "resources.limits.dozlab.io/kvm"): "1",
    },
    "devices.kvm.enabled=true": {main("firecracker-vm", "resources.limits.dozlab.io/kvm"): "1"},
    "devices.tun.enabled=false": {
        init("network-setup", "resources.limits.dozlab.io/tun"): None,
        main("firecracker-vm", "resources.limits.dozlab.io/tun"): None,
    },
    "firecracker.startupProbe.failureThreshold=240": {main("firecracker-vm", "startupProbe.failureThreshold"): 240},
    "firecracker.readinessProbe.enabled=false": {
        main("firecracker-vm", f"readinessProbe.{name}"): None
        for name in ("tcpSocket.port", "initialDelaySeconds", "periodSeconds", "timeoutSeconds", "failureThreshold")
    },
    "terminal.livenessProbe.path=/lab/health": {main("terminal-sidecar", "livenessProbe.httpGet.path"): "/lab/health"},
    "terminal.recording.enabled=false": {
        main("terminal-sidecar", "env[RECORDING].value"): "false", LEFT: str(1 << 29),
        **{main("terminal-sidecar", f"env[{name}].{field}"): None
           for name in ("RECORDING_DIR", "RECORDING_LIMIT", "RECORD_INPUT") for field in ("name", "value")},
        **{main("terminal-sidecar", f"volumeMounts[vm-data].{key}"): None for key in ("name", "mountPath", "subPath")},
    },
    "terminal.basePath=/lab/terminal": {main("terminal-sidecar", "env[BASE_PATH].value"): "/lab/terminal"},
    "codeServer.workspaceReadOnly=true": {
        main("code-server", "env[WORKSPACE_READ_ONLY].value"): "true",
        main("code-server", "volumeMounts[vm-data].readOnly"): True,
    },
    "volumes.workspace.sizeLimit=256Mi": {
        main("code-server", "env[WORKSPACE_SIZE].value"): str(256 << 20),
        LEFT: str(704 << 20),
    },
    "volumes.kernels.sizeLimit=4G": {
        init("init-rootfs", "env[KERNELS_SIZE_LIMIT].value"): str(4 << 30),
        f"{POD}:spec.volumes[kernels].emptyDir.sizeLimit": str(4 << 30),
    },
    "volumes.vmData.sizeLimit=8Gi": {
        f"{POD}:spec.volumes[vm-data].emptyDir.sizeLimit": "8Gi",
        LEFT: str(3520 << 20),
    },
    "restartPolicy=Never": {f"{POD}:spec.restartPolicy": "Never"},
    "serviceAccountName=learner": {f"{POD}:spec.serviceAccountName": "learner"},
    "runtimeClassName=kata": {f"{POD}:spec.runtimeClassName": "kata"},
    "activeDeadlineSeconds=3600": {f"{POD}:spec.activeDeadlineSeconds": 3600},
    "podSecurityContext.fsGroup=2000": {f"{POD}:spec.securityContext.fsGroup": 2000},
    "service.type=NodePort": {f"{SERVICE}:spec.type": "NodePort"},
    "service.ports.ssh=2222": {
        f"{SERVICE}:spec.ports[ssh].port": 2222, f"{POD}-test:spec.containers[test].args[3]": "ssh:2222",
    },
    "rootfs.cache.enabled=true": {
        init("init-rootfs", "env[KERNELS_SIZE_LIMIT].value"): "0",
        f"{POD}:spec.volumes[kernels].emptyDir.sizeLimit": None,
        f"{POD}:spec.volumes[kernels].hostPath.path": "/var/lib/dozlab/kernels",
        f"{POD}:spec.volumes[kernels].hostPath.type": "Directory",
    },
    "volumes.vmData.persistence.existingClaim=disk": {
        f"{POD}:spec.volumes[vm-data].emptyDir.sizeLimit": None,
        f"{POD}:spec.volumes[vm-data].persistentVolumeClaim.claimName": "disk",
    },
    "terminal.allowedOrigins={https://lab.example}": {
        main("terminal-sidecar", "env[ALLOWED_ORIGINS].value"): "https://lab.example",
    },
    "rootfs.mirrors={oci://r.example/a:1,http://b.example/c}": {
        init("init-rootfs", "env[IMAGE_DOWNLOAD_URL].value"):
            "https://images.example/base.ext4.zst oci://r.example/a:1 http://b.example/c",
    },
    "rootfs.imageUrl=oci://r.example:5000/labs/a@sha256:" + 64 * "a": {
        init("init-rootfs", "env[IMAGE_DOWNLOAD_URL].value"): f"oci://r.example:5000/labs/a@sha256:{64 * 'a'}",
    },
    "rootfs.auth.existingSecret.name=pull": {
        init("init-rootfs", "env[IMAGE_AUTH_FILE].name"): "IMAGE_AUTH_FILE",
        init("init-rootfs", "env[IMAGE_AUTH_FILE].value"): "/run/secrets/image/auth",
        **MOUNTED, **projected("secret", "pull", ".dockerconfigjson", "auth"),
    },
    "rootfs.ca.configMap.name=own,rootfs.ca.configMap.key=own.pem": {
        **CA, **MOUNTED, **projected("configMap", "own", "own.pem", "ca.crt"),
    },
    "rootfs.ca.existingSecret.name=own": {**CA, **MOUNTED, **projected("secret", "own", "ca.crt", "ca.crt")},
    "terminal.trustedProxies={10.0.0.0/8,fd00::/8}": {
        main("terminal-sidecar", "env[TRUSTED_PROXIES].value"): "10.0.0.0/8,fd00::/8",
    },
}  # fmt: skip


@pytest.mark.parametrize("expression", OPTIONS)
def test_one_value_changes_what_it_says_and_nothing_else(expression: str) -> None:
    assert option(expression) == OPTIONS[expression]


# --- every value has an effect

NO_EFFECT_IN_EVERYTHING = {
    "fullnameOverride": ["fullnameOverride=mine"],
    "codeServer.password": ["codeServer.password=other"],
    "codeServer.enabled": ["codeServer.enabled=false"],
    "terminal.enabled": ["terminal.enabled=false"],
    "terminal.recording.enabled": ["terminal.recording.enabled=false"],
    "ports.enabled": ["ports.enabled=false"],
    "image.tag": ["image.tag=9"],
    "rootfs.imageVolume.reference": [
        "rootfs.imageUrl=,rootfs.imageVolume.reference=a/b:1",
        "rootfs.imageVolume.reference=c",
    ],
    "rootfs.imageVolume.pullPolicy": [
        "rootfs.imageUrl=,rootfs.imageVolume.reference=a/b:1",
        "rootfs.imageVolume.pullPolicy=Always",
    ],
    "rootfs.ca.existingSecret.name": ["rootfs.ca.existingSecret.name=own-ca"],
    "rootfs.ca.existingSecret.key": ["rootfs.ca.existingSecret.name=own-ca", "rootfs.ca.existingSecret.key=x"],
    "terminal.tls.certFile": ["terminal.tls.certFile=/a,terminal.tls.keyFile=/b", "terminal.tls.certFile=/c"],
    "terminal.tls.keyFile": ["terminal.tls.certFile=/a,terminal.tls.keyFile=/b", "terminal.tls.keyFile=/c"],
    "devices.kvm.enabled": ["devices.kvm.enabled=true"],
    "volumes.kernels.sizeLimit": ["volumes.kernels.sizeLimit=3G"],
    "volumes.kernels.persistence.enabled": ["volumes.kernels.persistence.enabled=true"],
    "httpRoute.tls": [
        "httpRoute.enabled=true,httpRoute.parentRefs[0].name=gw,httpRoute.terminal.host=a.example",
        "httpRoute.tls=false",
    ],
    **{
        f"volumes.{volume}.persistence.{name}": [f"volumes.{volume}.persistence.enabled=true", expression]
        for volume, names in {
            "kernels": ("existingClaim", "storageClass", "accessModes", "annotations", "retain"),
            "vmData": ("existingClaim", "retain"),
            "vscodeData": ("existingClaim",),
        }.items()
        for name in names
        for expression in [
            f"volumes.{volume}.persistence."
            + {
                "storageClass": "storageClass=fast",
                "accessModes": "accessModes={ReadWriteMany}",
                "annotations": "annotations.a=b",
                "retain": "retain=false",
                "existingClaim": "existingClaim=mine",
            }[name]
        ]
    },
}
"""Values that the everything-on file cannot show (two exclude each other): how they are shown instead."""


def leaf_paths(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        path, inner = f"{prefix}{field.alias or name}", field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from leaf_paths(inner, f"{path}.")
        elif path.split(".")[0] not in ("publish", "global"):
            yield path


def without(tree: dict[str, Any], path: str) -> dict[str, Any]:
    """Return the tree without one leaf.

    :raises KeyError: when it is not there
    """
    changed = copy.deepcopy(tree)
    *above, last = path.split(".")
    node = changed
    for key in above:
        node = node[key]
    del node[last]
    return changed


@pytest.mark.timeout(400)
def test_every_value_has_an_effect() -> None:
    everything = yaml.safe_load(EVERYTHING.read_text())
    whole = template(values=everything)

    def idle(path: str) -> bool:
        if path in NO_EFFECT_IN_EVERYTHING:
            expressions = NO_EFFECT_IN_EVERYTHING[path]
            before = [word for expression in expressions[:-1] for word in ("--set", expression)]
            after = [word for expression in expressions for word in ("--set", expression)]
            return bool(expressions) and template(*NEEDED, *before) == template(*NEEDED, *after)
        text = json.dumps(without(everything, path))
        return run("template", "lab", "charts/dozlab-session", "-n", "labs", "-f", "-", text=text).stdout == whole

    paths = list(leaf_paths(ChartValues))
    assert len(paths) > 150
    # On by default and in the file, so that removing them cannot show (tests below); overhead is only checked.
    on = {"firecracker.overhead"} | {
        path for path in paths if path.endswith("robe.enabled") or path == "devices.tun.enabled"
    }
    with ThreadPoolExecutor(4) as pool:
        found = dict(zip(paths, pool.map(lambda path: path not in on and idle(path), paths), strict=True))
    assert [path for path, nothing in found.items() if nothing] == []


@pytest.mark.parametrize(
    ("name", "owner"),
    [("firecracker", "firecracker-vm"), ("terminal", "terminal-sidecar"), ("codeServer", "code-server")],
)
@pytest.mark.parametrize("probe", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_each_probe_can_be_switched(name: str, owner: str, probe: str) -> None:
    for wanted in ("true", "false"):
        found = objects(*NEEDED, "--set", f"{name}.{probe}.enabled={wanted}")
        assert (probe in container(found, owner)) is (wanted == "true")
