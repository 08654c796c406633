"""What single values mean, subject by subject: snapshots, images, TLS, names, passwords, routes, claims."""

from __future__ import annotations

import base64
import re

import pytest
import yaml

from dozlab import values
from dozlab.images import layers
from dozlab.session import environment as one_machine
from tests.chart.render import (
    EVERYTHING,
    NEEDED,
    REPOSITORY,
    Objects,
    changes,
    container,
    environment,
    kind,
    objects,
    run,
    template,
)
from tests.chart.test_options import POD, SERVICE, init, main

CONTAINERS = ("init-rootfs", "network-setup", "firecracker-vm", "terminal-sidecar", "code-server")
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


def test_the_volume_that_the_guide_gives_has_room_for_a_checkpoint() -> None:
    """The default has none, and the guide says so: what is asked for is the memory, and twice what the disk holds."""
    guide = (REPOSITORY / "docs/how-to/go-back.md").read_text()
    (size,) = re.findall(r"sizeLimit: (\S+)", guide)
    room = [
        environment(objects(*NEEDED, *more), "firecracker-vm")
        for more in ((), ("--set", f"volumes.vmData.sizeLimit={size}"))
    ]
    least = int(room[0]["MEMORY"]) << 20
    default, given = (int(each["CHECKPOINTS_LIMIT"]) for each in room)
    assert default < least and f"{default >> 20} MiB, too little for any" in guide
    assert given >= least + 2 * (3 << 29)  # 1.5 GiB


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


def test_credentials_and_certificates_together_are_one_volume_of_one_container() -> None:
    given = ("--set", "rootfs.auth.existingSecret.name=pull", "--set", "rootfs.ca.configMap.name=own")
    found = objects(*NEEDED, *given)
    volume = next(item for item in kind(found, "Pod")["spec"]["volumes"] if item["name"] == "image-access")
    assert [list(source) for source in volume["projected"]["sources"]] == [["secret"], ["configMap"]]
    users = [name for name in CONTAINERS if "image-access" in str(container(found, name))]
    assert users == ["init-rootfs"]


IMAGE = ("--set", "rootfs.imageVolume.reference=registry.example:5000/labs/a:v1", "--set", "codeServer.password=x")


def test_an_image_volume_is_read_where_it_is_mounted() -> None:
    found = objects(*IMAGE)
    volume = next(item for item in kind(found, "Pod")["spec"]["volumes"] if item["name"] == "image")
    assert volume["image"] == {"reference": "registry.example:5000/labs/a:v1", "pullPolicy": "IfNotPresent"}
    assert environment(found, "init-rootfs")["IMAGE_DOWNLOAD_URL"] == f"file:///image/{layers.FILE}"
    mount = {"name": "image", "mountPath": "/image", "readOnly": True}
    assert [name for name in CONTAINERS if mount in container(found, name)["volumeMounts"]] == ["init-rootfs"]


@pytest.mark.parametrize(("version", "accepted"), [("1.34.9", False), ("1.35.0", True), ("v1.36.2-gke.5", True)])
def test_an_image_volume_needs_a_kubernetes_that_has_them(version: str, accepted: bool) -> None:
    done = run("template", "x", "charts/dozlab-session", *IMAGE, "--kube-version", version)
    assert (done.returncode == 0) is accepted, done.stderr
    assert ("image volumes need Kubernetes 1.35 or newer, this is v1.34.9" in done.stderr) is not accepted


def test_the_terminal_speaks_tls() -> None:
    """And with it the proxy to web servers in the guest, the probes, the Service, the monitor and `helm test`."""
    more = ("--set", "serviceMonitor.enabled=true")
    changed = changes(
        objects(*NEEDED, *more), objects(*NEEDED, *more, "--set", "terminal.tls.existingSecret.name=mine")
    )
    own = main("terminal-sidecar", "")
    monitor = f"ServiceMonitor/{POD.partition('/')[2]}:spec.endpoints[0]"
    tests = f"{POD}-test:spec.containers[test].args"
    assert changed == {
        f"{own}env[TLS_CERT].name": "TLS_CERT", f"{own}env[TLS_CERT].value": "/run/secrets/tls/tls.crt",
        f"{own}env[TLS_KEY].name": "TLS_KEY", f"{own}env[TLS_KEY].value": "/run/secrets/tls/tls.key",
        **{f"{own}{probe}Probe.httpGet.scheme": "HTTPS" for probe in ("startup", "readiness", "liveness")},
        f"{own}volumeMounts[terminal-tls].name": "terminal-tls",
        f"{own}volumeMounts[terminal-tls].mountPath": "/run/secrets/tls",
        f"{own}volumeMounts[terminal-tls].readOnly": True,
        f"{POD}:spec.volumes[terminal-tls].name": "terminal-tls",
        f"{POD}:spec.volumes[terminal-tls].secret.secretName": "mine",
        f"{POD}:spec.volumes[terminal-tls].secret.defaultMode": 0o440,
        **{f"{POD}:spec.volumes[terminal-tls].secret.items[{at}].{field}": name
           for at, name in enumerate(("tls.crt", "tls.key")) for field in ("key", "path")},
        f"{SERVICE}:spec.ports[terminal].appProtocol": "https", f"{SERVICE}:spec.ports[ports].appProtocol": "https",
        f"{monitor}.scheme": "https", f"{monitor}.tlsConfig.insecureSkipVerify": True,
        f"{tests}[5]": "https:/health:8081", f"{tests}[6]": "https:/.dozlab/enter:8082",
    }  # fmt: skip
    assert origins("ingress.enabled=true,ingress.terminal.host=a.b,terminal.tls.existingSecret.name=mine") == (
        "http://a.b,https://localhost:8081,https://127.0.0.1:8081"
    )


def test_a_certificate_of_the_users_own_volume() -> None:
    """Such as one that cert-manager's CSI driver makes."""
    expression = "terminal.tls.certFile=/tls/a.pem,terminal.tls.keyFile=/tls/a.key"
    told = environment(objects(*NEEDED, "--set", expression), "terminal-sidecar")
    assert (told["TLS_CERT"], told["TLS_KEY"]) == ("/tls/a.pem", "/tls/a.key")


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
        "TLS_CERT", "TLS_KEY",
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
