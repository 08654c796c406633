"""Each value does something, and what it does is what it says: no more paths change than are listed."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from dozlab import values
from dozlab.chart_values import ChartValues
from dozlab.session import environment as one_machine
from tests.chart.render import (
    EVERYTHING,
    NEEDED,
    Objects,
    changes,
    container,
    environment,
    kind,
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
    "terminal.trustedProxies={10.0.0.0/8,fd00::/8}": {
        main("terminal-sidecar", "env[TRUSTED_PROXIES].value"): "10.0.0.0/8,fd00::/8",
    },
}  # fmt: skip


CACHE = ("--set", "rootfs.cache.enabled=true")


def test_snapshots_are_made_by_a_container_of_their_own() -> None:
    """Beside it init-rootfs gets a folder to fill for it, and firecracker-vm is told where snapshots are."""
    before, after = objects(*NEEDED, *CACHE), objects(*NEEDED, *CACHE, "--set", "snapshot.enabled=true")
    maker = init("prepare-snapshot", "")
    other = {path: value for path, value in changes(before, after).items() if not path.startswith(maker)}
    assert other == {
        init("init-rootfs", "env[PREPARE_DIR].name"): "PREPARE_DIR",
        init("init-rootfs", "env[PREPARE_DIR].value"): "/prepare",
        init("init-rootfs", "volumeMounts[prepare].name"): "prepare",
        init("init-rootfs", "volumeMounts[prepare].mountPath"): "/prepare",
        main("firecracker-vm", "env[SNAPSHOTS_DIR].name"): "SNAPSHOTS_DIR",
        main("firecracker-vm", "env[SNAPSHOTS_DIR].value"): "/srv/vm/kernels/snapshots",
        main("firecracker-vm", "env[PROBE_CACHE].name"): "PROBE_CACHE",
        main("firecracker-vm", "env[PROBE_CACHE].value"): "/srv/vm/kernels/snapshots/.probe.json",
        f"{POD}:spec.volumes[prepare].name": "prepare",
        f"{POD}:spec.volumes[prepare].emptyDir.sizeLimit": "5Gi",
    }
    names = [item["name"] for item in kind(after, "Pod")["spec"]["initContainers"]]
    assert names == ["network-setup", "init-rootfs", "prepare-snapshot"]


def test_what_prepares_is_the_machine_of_the_session() -> None:
    """A snapshot is for equal machines only; one that is to be saved is neither paused nor given a workspace."""
    found = objects("-f", str(EVERYTHING))
    maker, user = environment(found, "prepare-snapshot"), environment(found, "firecracker-vm")
    assert set(user) - set(maker) == {"WORKSPACE_PORT", "IDLE_PAUSE", "CHECKPOINTS_LIMIT", "NETWORK_WAIT"}
    own = {"SHARED_DIR", "TMPDIR", "PREPARE_TIMEOUT", "SNAPSHOTS_LIMIT"}
    assert {name: value for name, value in maker.items() if name in user} == {
        name: value for name, value in user.items() if name in maker
    }
    assert set(maker) - set(user) == own
    assert (maker["PREPARE_TIMEOUT"], maker["SNAPSHOTS_LIMIT"]) == ("300", str(4 << 30))
    one, other = container(found, "prepare-snapshot"), container(found, "firecracker-vm")
    assert one["args"] == ["firecracker-vm", "--prepare"]
    assert [one[name] for name in ("image", "resources", "securityContext")] == [
        other[name] for name in ("image", "resources", "securityContext")
    ]


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


# --- single subjects


def test_numbers_and_names_may_be_numbers_or_text() -> None:
    as_text = objects(*NEEDED, "--set-string", "vm.cpuCount=3,vm.memory=1024,session.id=7,session.userId=9,image.tag=5")
    assert as_text == objects(
        *NEEDED, "--set", "vm.cpuCount=3,vm.memory=1024,session.id=7,session.userId=9,image.tag=5"
    )
    from_file = {"vm": {"cpuCount": 3, "memory": 1024}, "session": {"id": 7, "userId": 9}, "image": {"tag": 5}}
    assert as_text == objects(*NEEDED, values=from_file)


@pytest.mark.parametrize("password", ["1234567890123", "päss wörd", 'quote"\\', "$(id)", "{{ x }}"])
def test_a_password_arrives_as_it_is(password: str) -> None:
    found = objects(*NEEDED, values={"codeServer": {"password": password}})
    assert base64.b64decode(kind(found, "Secret")["data"]["vscode-password"]).decode() == "hunter2222"  # --set wins
    url = {"imageUrl": "https://images.example/x"}
    found = objects(values={"rootfs": url, "codeServer": {"password": password}})
    assert base64.b64decode(kind(found, "Secret")["data"]["vscode-password"]).decode() == password
    assert password not in str(kind(found, "Pod"))


def test_a_number_as_password() -> None:
    for values_file in ({"codeServer": {"password": 1234567890123}}, {}):
        text = ("--set", "codeServer.password=1234567890123") if not values_file else ()
        found = objects("--set", "rootfs.imageUrl=https://x.example/y", *text, values=values_file)
        assert base64.b64decode(kind(found, "Secret")["data"]["vscode-password"]) == b"1234567890123"


@pytest.mark.parametrize(
    ("user", "label"),
    [
        ("jane.doe@example.org", "jane.doe-example.org"), ("user-456", "user-456"), ("-x-", "x"), ("@@@", ""),
        ("Zoë Ünal", "Zo---nal"), ("a" * 70, "a" * 63), ('a"b\n: c', "a-b---c"),
    ],
)  # fmt: skip
def test_any_user_id(user: str, label: str) -> None:
    meta = kind(objects(*NEEDED, values={"session": {"userId": user}}), "Pod")["metadata"]
    assert meta["annotations"]["dozlab.io/user-id"] == user
    assert meta["labels"]["user-id"].replace("--", "-") == label.replace("--", "-")
    assert len(meta["labels"]["user-id"]) <= 63


@pytest.mark.parametrize(
    ("expressions", "image"),
    [
        ([], "ghcr.io/dozlab/dozlab-firecracker:0.1.0"),
        (["image.registry="], "dozlab-firecracker:0.1.0"),
        (["image.registry=", "image.tag=dev"], "dozlab-firecracker:dev"),
        (["image.registry=localhost:5000"], "localhost:5000/dozlab-firecracker:0.1.0"),
        (["firecracker.image=localhost:5000/vm", "firecracker.tag=9"], "localhost:5000/vm:9"),
        (["firecracker.image=quay.io/x/vm"], "quay.io/x/vm:0.1.0"),
        (["firecracker.image=team/vm"], "ghcr.io/dozlab/team/vm:0.1.0"),
        (
            [f"firecracker.digest=sha256:{'c' * 64}"],
            f"ghcr.io/dozlab/dozlab-firecracker:0.1.0@sha256:{'c' * 64}",
        ),
    ],
)
def test_image_references(expressions: list[str], image: str) -> None:
    arguments = [word for expression in expressions for word in ("--set", expression)]
    assert container(objects(*NEEDED, *arguments), "firecracker-vm")["image"] == image


def test_existing_secret() -> None:
    found = objects(
        "--set",
        "rootfs.imageUrl=https://x.example/y",
        "--set",
        "codeServer.existingSecret.name=s,codeServer.existingSecret.key=k",
    )
    assert not [item for item in found if item["kind"] == "Secret"]
    volume = next(item for item in kind(found, "Pod")["spec"]["volumes"] if item["name"] == "password")
    assert volume["secret"] == {"secretName": "s", "defaultMode": 0o440, "items": [{"key": "k", "path": "password"}]}


@pytest.mark.parametrize("gone", ["terminal", "codeServer", "ports"])
def test_a_part_that_is_off_leaves_no_trace(gone: str) -> None:
    text = template(*NEEDED, "--set", f"{gone}.enabled=false")
    for word in {"terminal": ["8081", "8082"], "codeServer": ["8080"], "ports": ["8082"]}[gone]:
        assert word not in text
    found = objects(*NEEDED, "--set", f"{gone}.enabled=false")
    assert len(kind(found, "Service")["spec"]["ports"]) == (2 if gone == "terminal" else 3)
    assert environment(found, "network-setup")["PORTS_PORT"] == ("8082" if gone == "codeServer" else "0")
    assert environment(found, "firecracker-vm")["WORKSPACE_PORT"] == ("0" if gone == "codeServer" else "5540")


def test_without_both_there_is_no_password() -> None:
    found = objects("--set", "rootfs.imageUrl=https://x.example/y,terminal.enabled=false,codeServer.enabled=false")
    assert sorted(item["kind"] for item in found) == ["Pod", "Pod", "Service"]


def test_names_can_be_overridden() -> None:
    names = {(item["kind"], item["metadata"]["name"]) for item in objects(*NEEDED, "--set", "nameOverride=class")}
    base = "class-example-session-123"
    assert names == {("Pod", base), ("Service", base), ("Secret", f"{base}-secrets"), ("Pod", f"{base}-test")}
    names = {(item["kind"], item["metadata"]["name"]) for item in objects(*NEEDED, "--set", "fullnameOverride=jane")}
    assert names == {("Pod", "jane"), ("Service", "jane"), ("Secret", "jane-secrets"), ("Pod", "jane-test")}


def origins(*expressions: str) -> str:
    arguments = [word for expression in expressions for word in ("--set", expression)]
    return environment(objects(*NEEDED, *arguments), "terminal-sidecar")["ALLOWED_ORIGINS"]


def test_the_terminal_takes_pages_from_the_routes_made_here() -> None:
    local = "http://localhost:8081,http://127.0.0.1:8081"
    ingress = "ingress.enabled=true,ingress.terminal.host=term.example"
    assert origins(ingress) == f"http://term.example,{local}"
    assert origins(ingress, "ingress.tls[0].hosts={term.example}") == f"https://term.example,{local}"
    route = "httpRoute.enabled=true,httpRoute.parentRefs[0].name=gw,httpRoute.terminal.host=term.example"
    assert origins(route) == f"https://term.example,{local}"
    assert origins(route, "httpRoute.tls=false") == f"http://term.example,{local}"
    assert origins(route, "terminal.allowedOrigins={https://mine.example}") == "https://mine.example"
    assert origins("ingress.enabled=true,ingress.vscode.host=code.example") == ""


def test_the_proxy_is_found_by_the_route_made_here() -> None:
    def origin(*expressions: str) -> str:
        arguments = [word for expression in expressions for word in ("--set", expression)]
        return environment(objects(*NEEDED, *arguments), "terminal-sidecar")["PORTS_ORIGIN"]

    ingress = "ingress.enabled=true,ingress.terminal.host=term.example,ingress.ports.host=*.ports.example"
    assert origin(ingress) == "http://*.ports.example"
    assert origin(ingress, "ingress.tls[0].hosts={*.ports.example}") == "https://*.ports.example"
    route = "httpRoute.enabled=true,httpRoute.parentRefs[0].name=gw,httpRoute.terminal.host=term.example"
    assert origin(route) == ""
    assert origin(route, "httpRoute.ports.host=ports.example") == "https://ports.example"
    assert origin(route, "httpRoute.ports.host=ports.example,ports.origin=https://mine") == "https://mine"


def test_claims() -> None:
    on = "volumes.{0}.persistence.enabled=true"
    found = objects(*NEEDED, *(w for v in ("kernels", "vmData", "vscodeData") for w in ("--set", on.format(v))))
    claims = {item["metadata"]["name"]: item for item in found if item["kind"] == "PersistentVolumeClaim"}
    base = "lab-session-example-session-123"
    assert set(claims) == {f"{base}-kernels", f"{base}-vm-data", f"{base}-vscode-data"}
    claim = claims[f"{base}-vm-data"]
    assert claim["spec"] == {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "5Gi"}}}
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    volumes = {item["name"]: item for item in kind(found, "Pod")["spec"]["volumes"]}
    assert volumes["vm-data"] == {"name": "vm-data", "persistentVolumeClaim": {"claimName": f"{base}-vm-data"}}
    assert "emptyDir" in volumes["shared"]


# --- the same environment as on one machine


def test_components_are_told_what_one_machine_tells_them() -> None:
    """Variable by variable, but for those that say where things lie."""
    raw = yaml.safe_load(EVERYTHING.read_text())
    parsed = values.parse(raw)
    found: Objects = objects(values=raw)
    common = one_machine.common(parsed, dns="")
    places = {
        "PATH", "LANG", "HOME", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "KERNELS_DIR", "VM_DATA",
        "SHARED_DIR", "KIT_DIR", "PROBE_CACHE", "NETWORK_WAIT", "PASSWORD_FILE", "VSCODE_DATA", "SANDBOX",
        "CODE_SERVER_DIR", "DOCKER_CLI_DIR", "SNAPSHOTS_DIR", "RECORDING_DIR",
        "KERNELS_SIZE_LIMIT",  # of a volume that is not used: the node's cache is on
    }  # fmt: skip
    ours = {
        "init-rootfs": one_machine.init_rootfs(parsed),
        "network-setup": one_machine.network_setup(parsed, tap_uid=1234),
        "firecracker-vm": one_machine.firecracker_vm(parsed),
        "terminal-sidecar": one_machine.terminal_sidecar(parsed),
        "code-server": one_machine.code_server(parsed),
    }
    for name, own in ours.items():
        pod = environment(found, name)
        wrong = {
            key: (value, pod.get(key)) for key, value in own.items() if key not in places and pod.get(key) != value
        }
        assert wrong == {}, name
        shared = {key: value for key, value in common.items() if key in pod and key not in places}
        assert {key: pod[key] for key in shared} == shared, name
        assert pod["SESSION_ID"] == "s-42"
