"""Bad values are refused before anything is made: one line each, which names the value and says what it should be."""

# ruff: noqa: E501, ISC004  (one refusal, one line)

from __future__ import annotations

import json
from typing import Any

import pytest

from dozlab import values
from dozlab.lib.errors import BadUsage
from tests.chart.render import NEEDED, NODE, refusal, run, template

MEMORY = (
    "firecracker.resources.limits.memory: {} is less than vm.memory (2048 MiB) and firecracker.overhead (704Mi)"
    " together: 2752Mi"
)
LABEL = "must be a DNS label: 1 to 40 of a-z, 0-9 and -, not first or last a -"

REGISTRY = "not the address of an image in a registry (oci://HOST[:PORT]/NAME[:TAG]"
VOLUME = "rootfs.imageVolume.reference:"
USERINFO = (
    "rootfs.imageUrl: a user or password in an address; put them into a Secret (rootfs.auth), or on one machine into the"
    " file that IMAGE_AUTH_FILE names"
)

REFUSED = [
    ("codeServer.password=CHANGE-ME-INSECURE-PASSWORD", "codeServer.password: this is the original chart's placeholder; choose one"),
    ("codeServer.password=", "codeServer.password: not set; choose one, or name a Secret in codeServer.existingSecret.name"),
    ("codeServer.password=null", "codeServer.password: not set; choose one, or name a Secret in codeServer.existingSecret.name"),
    ("rootfs.imageUrl=", "rootfs.imageUrl: not set; give the URL of a base image (--set rootfs.imageUrl=https://...)"),
    ("rootfs.imageUrl=null", "rootfs.imageUrl: not set; give the URL of a base image (--set rootfs.imageUrl=https://...)"),
    ("rootfs.imageUrl=https://example.com/dozlab-k8s.ext4", "rootfs.imageUrl: this is the original chart's placeholder; give the URL of a base image"),
    ("rootfs.imageUrl=dozlab-vm", 'rootfs.imageUrl: must be a URL that starts with https://, http://, oci:// or file:// (got "dozlab-vm")'),
    ("rootfs.imageUrl=https://jane:secret@x.example/y", USERINFO),
    ("rootfs.mirrors={https://x.example/y,oci://jane:secret@x.example/y}", USERINFO),
    ("rootfs.imageUrl=oci://x.example", f'rootfs.imageUrl: {REGISTRY}; got "oci://x.example")'),
    ("rootfs.mirrors={https://x.example/y,oci://x.example/Y}", f'rootfs.mirrors.1: {REGISTRY}; got "oci://x.example/Y")'),
    ("rootfs.mirrors={lab}", r"- at '/rootfs/mirrors/0': 'lab' does not match pattern '^(https?|oci|file)://\\S+$'"),
    ("rootfs.imageVolume.reference=a/b:1", f"{VOLUME} set beside rootfs.imageUrl or rootfs.mirrors; choose one"),
    ("rootfs.imageUrl=,rootfs.imageVolume.reference=oci://a/b", f'{VOLUME} write it as a Pod names an image, without oci:// (got "oci://a/b")'),
    ("rootfs.imageUrl=,rootfs.imageVolume.reference=a/b,rootfs.ca.configMap.name=c", f"{VOLUME} rootfs.auth and rootfs.ca are for rootfs.imageUrl; here the kubelet logs in, with imagePullSecrets"),
    ("rootfs.ca.configMap.name=a,rootfs.ca.existingSecret.name=b", "rootfs.ca: a ConfigMap and a Secret; name one of them"),
    ("terminal.tls.certFile=/a", "terminal.tls: certFile and keyFile belong together; set both, or none"),
    ("terminal.tls.certFile=/a,terminal.tls.keyFile=/b,terminal.tls.existingSecret.name=c", "terminal.tls.existingSecret.name: set beside terminal.tls.certFile; choose one"),
    ("terminal.tls.certFile=a,terminal.tls.keyFile=/b", r"- at '/terminal/tls/certFile': 'a' does not match pattern '^(/\\S+)?$'"),
    ("session.id=Not_A_Label", f'session.id: {LABEL} (got "Not_A_Label")'),
    (f"session.id={'a' * 41}", f'session.id: {LABEL} (got "{"a" * 41}")'),
    ("session.id=-a", f'session.id: {LABEL} (got "-a")'),
    ("session.id=", f'session.id: {LABEL} (got "")'),
    ("rootfs.diskSize=5G", "volumes.vmData.sizeLimit: 5Gi cannot hold rootfs.diskSize 5G and volumes.workspace.sizeLimit 512Mi and terminal.recording.sizeLimit 64Mi"),
    ("rootfs.diskSize=5G,terminal.recording.enabled=false", "volumes.vmData.sizeLimit: 5Gi cannot hold rootfs.diskSize 5G and volumes.workspace.sizeLimit 512Mi"),
    ("terminal.recording.sizeLimit=64k", "terminal.recording.sizeLimit: 64k is too small; at least 1.0 MiB"),
    ("terminal.recording.sizeLimit=much", 'terminal.recording.sizeLimit: not a size: "much" (write 4G, 512Mi or a number of bytes)'),
    ("rootfs.diskSize=63M", "rootfs.diskSize: 63M is too small; at least 64.0 MiB"),
    ("rootfs.diskSize=lots", 'rootfs.diskSize: not a size: "lots" (write 4G, 512Mi or a number of bytes)'),
    ("volumes.tmp.sizeLimit=1X", 'volumes.tmp.sizeLimit: not a size: "1X" (write 4G, 512Mi or a number of bytes)'),
    ("firecracker.resources.limits.memory=2Gi", MEMORY.format("2Gi")),
    ("firecracker.resources.limits.memory=2687Mi", MEMORY.format("2687Mi")),
    ("firecracker.resources.limits.memory=2.5G", MEMORY.format("2.5G")),
    ("firecracker.resources.limits.memory=2818572287", MEMORY.format("2818572287")),
    ("firecracker.overhead=2Gi", MEMORY.format("3Gi").replace("704Mi", "2Gi").replace("2752Mi", "4096Mi")),
    ("vm.memory=4096", MEMORY.format("3Gi").replace("2048 MiB", "4096 MiB").replace("2752Mi", "4800Mi")),
    ("network.vmIp=172.16.1.2", "network.vmIp: 172.16.1.2 must be another address of 172.16.0.0/24"),
    ("network.vmIp=172.16.0.1", "network.vmIp: 172.16.0.1 must be another address of 172.16.0.0/24"),
    ("network.gatewayIp=172.16.0.256", 'network.gatewayIp: not an IPv4 address (got "172.16.0.256")'),
    ("network.dns={dns.example}", 'network.dns.0: not an IPv4 address (got "dns.example")'),
    ("network.egress.allow={10.0.0.1/16}", "network.egress.allow.0: 10.0.0.1/16 has host bits set; write the network's first address"),
    ("network.egress.deny={all}", 'network.egress.deny.0: not an IPv4 network such as 10.1.0.0/16 (got "all")'),
    ("ssh.authorizedKeys={jane}", "ssh.authorizedKeys.0: not an OpenSSH public key line (ssh-ed25519 AAAA... comment)"),
    ("labels.app=mine", "labels.app: this label is the chart's own"),
    ("labels.course=a b", "labels.course: not a label's value: at most 63 of letters, digits, - _ . (got \"a b\")"),
    ("ingress.enabled=true", "ingress.vscode.host: not set, nor ingress.terminal.host; name the host of at least one"),
    (
        "ingress.enabled=true,ingress.vscode.host=a.b,ingress.terminal.host=a.b",
        "ingress.terminal.host: the same host and path as ingress.vscode; give each a host of its own, or set"
        " terminal.basePath and ingress.vscode.path",
    ),
    (
        "snapshot.enabled=true",
        "snapshot.enabled: needs rootfs.cache.enabled, since snapshots lie in the node's cache"
        " (--set rootfs.cache.enabled=true)",
    ),
    ("snapshot.sizeLimit=lots", 'snapshot.sizeLimit: not a size: "lots" (write 4G, 512Mi or a number of bytes)'),
    (
        "ingress.enabled=true,ingress.terminal.host=a.b,ingress.ports.host=a.b",
        "ingress.ports.host: the same host as the terminal's or the editor's; web servers in the guest need one of"
        " their own",
    ),
    (
        "terminal.allowedOrigins={https://a.b},ports.origin=https://A.b",
        "ports.origin: https://A.b is the terminal's; web servers in the guest need an origin of their own",
    ),
    ("ports.origin=a.b", r"- at '/ports/origin': 'a.b' does not match pattern"
     r" '^(https?://(\\*\\.)?[A-Za-z0-9.-]+(:[0-9]+)?)?$'"),
    ("httpRoute.enabled=true,httpRoute.vscode.host=a.b", "httpRoute.parentRefs: not set; name the Gateway ({name: ...})"),
    ("terminal=null", "terminal: null is no group of values; leave it out for the defaults"),
    # by the schema, in helm's words
    ("vm.memroy=1", "- at '/vm': additional properties 'memroy' not allowed"),
    ("nonsense=1", "- at '': additional properties 'nonsense' not allowed"),
    ("vm.cpuCount=33", "- at '/vm/cpuCount': maximum: got 33, want 32"),
    ("vm.cpuCount=0", "- at '/vm/cpuCount': minimum: got 0, want 1"),
    ("vm.cpuCount=two", r"- at '/vm/cpuCount': 'two' does not match pattern '^\\s*[0-9]+\\s*$'"),
    ("vm.cpuCount=true", "- at '/vm/cpuCount': got boolean, want integer or string"),
    ("vm.idlePause=soon", r"- at '/vm/idlePause': 'soon' does not match pattern '^\\s*[0-9]{1,9}[smhd]?\\s*$'"),
    ("vm.idlePause=-1", "- at '/vm/idlePause': minimum: got -1, want 0"),
    (
        "snapshot.prepareTimeout=ten minutes",
        r"- at '/snapshot/prepareTimeout': 'ten minutes' does not match pattern '^\\s*[0-9]{1,9}[smhd]?\\s*$'",
    ),
    ("snapshot=null", "snapshot: null is no group of values; leave it out for the defaults"),
    ("codeServer.password=true", "- at '/codeServer/password': got boolean, want integer or string"),
    ("restartPolicy=Sometimes", "- at '/restartPolicy': value must be one of 'Always', 'OnFailure', 'Never'"),
    ("firecracker.vmm=xen", "- at '/firecracker/vmm': value must be one of 'auto', 'firecracker', 'qemu'"),
    ("rootfs.sha256=abc", "- at '/rootfs/sha256': 'abc' does not match pattern '^([0-9a-f]{64})?$'"),
    ("terminal.basePath=lab/", "- at '/terminal/basePath': 'lab/' does not match pattern '^(/[A-Za-z0-9._~-]+)*$'"),
    ("service.ports.ssh=70000", "- at '/service/ports/ssh': maximum: got 70,000, want 65,535"),
]  # fmt: skip


@pytest.mark.parametrize(("expression", "line"), REFUSED, ids=[expression[:60] for expression, _ in REFUSED])
def test_refused_in_one_line(expression: str, line: str) -> None:
    assert refusal(*NEEDED, "--set", expression) == [line]


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("cache.images[0].url=https://jane:secret@x.example/y", "does not match pattern"),
        (
            "cache.ca.configMap.name=a,cache.ca.existingSecret.name=b",
            "cache.ca: a ConfigMap and a Secret; name one of them",
        ),
    ],
)
def test_the_node_refuses_the_same(expression: str, words: str) -> None:
    done = run("template", "x", str(NODE), "--set", f"cache.enabled=true,{expression}")
    assert done.returncode and words in done.stderr


def test_quoted_numbers_out_of_range() -> None:
    assert refusal(*NEEDED, "--set-string", "vm.cpuCount=33") == [
        'vm.cpuCount: must be a whole number from 1 to 32 (got "33")'
    ]


def test_all_faults_at_once() -> None:
    assert [line.split(":")[0] for line in refusal()] == ["rootfs.imageUrl", "codeServer.password"]
    assert len(refusal("--set", "session.id=A,rootfs.diskSize=9G,network.vmIp=x")) == 5


@pytest.mark.parametrize("limit", ["2752Mi", "2.6875Gi", "3G", "2886M", "2885681152", "4e9", "1Ti"])
def test_enough_memory(limit: str) -> None:
    template(*NEEDED, "--set-string", f"firecracker.resources.limits.memory={limit}")


def test_no_memory_limit_is_no_fault() -> None:
    template(*NEEDED, "--set", "firecracker.resources.limits.memory=null")


def test_a_password_is_in_no_message() -> None:
    done = run("template", "x", "charts/dozlab-session", "--set-string", "codeServer.password=hunter2222")
    assert done.returncode
    assert "hunter2222" not in done.stderr + done.stdout


ONE_MACHINE: list[dict[str, Any]] = [
    {"session": {"id": "Not_A_Label"}}, {"session": {"id": ""}}, {"session": {"id": 7}}, {"session": {"userId": 7}},
    {"rootfs": {"diskSize": "5G"}}, {"rootfs": {"diskSize": "4608Mi"}}, {"rootfs": {"diskSize": "4.5 GiB"}},
    {"rootfs": {"diskSize": 4831838208}}, {"rootfs": {"diskSize": 4831838209}}, {"rootfs": {"diskSize": "63M"}},
    {"rootfs": {"diskSize": "4T"}}, {"rootfs": {"diskSize": "-1"}}, {"rootfs": {"sha256": "x"}},
    {"volumes": {"vmData": {"sizeLimit": "4.5G"}}}, {"volumes": {"vmData": {"sizeLimit": "4.4G"}}},
    {"volumes": {"workspace": {"sizeLimit": "2G"}}}, {"volumes": {"kernels": {"sizeLimit": "x"}}},
    {"network": {"vmIp": "172.16.1.2"}}, {"network": {"vmIp": "172.16.0.1"}}, {"network": {"vmIp": "172.16.0.999"}},
    {"network": {"vmIp": "172.016.0.2"}}, {"network": {"gatewayIp": "10.9.8.1", "vmIp": "10.9.8.77"}},
    {"network": {"dns": ["1.1.1.1", "x"]}}, {"network": {"tapDevice": "0123456789abcdef"}},
    {"network": {"egress": {"allow": ["10.0.0.0/8", "10.1.2.3", "0.0.0.0/0"]}}},
    {"network": {"egress": {"allow": ["10.0.0.1/8"]}}}, {"network": {"egress": {"deny": ["10.0.0.0/33"]}}},
    {"network": {"egress": {"deny": ["10.0.0.0/08"]}}}, {"network": {"egress": {"deny": ["::/0"]}}},
    {"vm": {"cpuCount": 33}}, {"vm": {"cpuCount": "33"}}, {"vm": {"cpuCount": "4"}}, {"vm": {"memory": 127}},
    {"vm": {"memory": "512"}}, {"vm": {"memory": 1.5}}, {"vm": {"cpuCount": True}}, {"vm": {"cores": 2}},
    {"vm": {"idlePause": "90s"}}, {"vm": {"idlePause": 90}}, {"vm": {"idlePause": " 1d "}}, {"vm": {"idlePause": "1.5h"}},
    {"vm": {"idlePause": -1}}, {"vm": {"idlePause": True}}, {"vm": {"idlePause": ""}}, {"vm": {"idlePause": 10**9}},
    {"ssh": {"authorizedKeys": ["ssh-ed25519 AAAA jane"]}}, {"ssh": {"authorizedKeys": ["nonsense"]}},
    {"ssh": {"authorizedKeys": ["ssh-ed25519 AAAA a\nssh-ed25519 AAAA b"]}},
    {"terminal": {"basePath": "/a/b"}}, {"terminal": {"basePath": "a"}}, {"terminal": {"enabled": "yes please"}},
    {"terminal": {"allowedOrigins": ["https://a.b"]}}, {"terminal": {"allowedOrigins": ["a.b"]}},
    {"terminal": {"trustedProxies": ["10.0.0.0/8"]}}, {"terminal": {"trustedProxies": ["ingress.example"]}},
    {"terminal": {"tls": {"certFile": "/a"}}}, {"terminal": {"tls": {"keyFile": "/a"}}},
    {"terminal": {"tls": {"certFile": "/a", "keyFile": "/b"}}}, {"terminal": {"tls": {"certFile": "a", "keyFile": "b"}}},
    {"rootfs": {"mirrors": ["oci://a.b/c"]}}, {"rootfs": {"mirrors": ["c"]}}, {"rootfs": {"mirrors": ["https://a@b/c"]}},
    {"ports": {"origin": "https://a.b"}}, {"ports": {"origin": "https://a.*.b"}}, {"ports": {"enabled": False}},
    {"terminal": {"allowedOrigins": ["https://a.b"]}, "ports": {"origin": "https://a.b"}},
    {"codeServer": {"password": "CHANGE-ME-INSECURE-PASSWORD"}}, {"codeServer": {"password": 12345}},
    {"firecracker": {"vmm": "xen"}}, {"publish": {"vscode": 18080}}, {"publish": {"address": "0.0.0.0"}},
    {"publish": {"nonsense": 1}}, {"session": {"id": "a\n"}},
]  # fmt: skip


@pytest.mark.parametrize("raw", ONE_MACHINE, ids=str)
def test_chart_and_one_machine_agree(raw: dict[str, Any]) -> None:
    """What `dozlab up -f` refuses the chart refuses, and the other way round."""
    try:
        values.parse(raw)
        ours = True
    except BadUsage:
        ours = False
    memory = "firecracker.resources.limits.memory=null"
    done = run(
        "template", "x", "charts/dozlab-session", "-f", "-", "--set", f"rootfs.imageUrl=https://x.example/y,{memory}",
        *(() if "codeServer" in raw else ("--set", "codeServer.password=hunter2222")), text=json.dumps(raw),
    )  # fmt: skip
    assert (done.returncode == 0) is ours, done.stderr
