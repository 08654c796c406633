"""What a session is on Kubernetes: the values of `values.py` and those that only the chart has. Pure.

The truth behind the chart's `values.schema.json`, its values.yaml and its README's table (`make docs`). One machine
accepts these values and passes over them, so that one file serves both. What must fit together is checked where it is
rendered: `charts/dozlab-session/templates/_validate.tpl`.
"""

# ruff: noqa: RUF012  (pydantic copies defaults; ruff does not see that Group is a model)

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from dozlab import values
from dozlab.values import Duration, Group, Size, Text, Whole

QUANTITY = r"^[0-9]+(\.[0-9]+)?([eE][0-9]+|[kKMGTP]i?|m)?$"


def _quantity(value: Any) -> Any:
    if value is None:
        return ""
    text = str(value)
    if isinstance(value, bool) or not re.match(QUANTITY, text):
        raise ValueError("not a Kubernetes quantity such as 500m, 2 or 3Gi")
    return text


Quantity = Annotated[
    str, BeforeValidator(_quantity), WithJsonSchema({"type": ["string", "number"], "pattern": QUANTITY, "minimum": 0})
]
Texts = Annotated[dict[str, Text], AfterValidator(lambda value: {key: str(item) for key, item in value.items()})]
Objects = list[dict[str, Any]]
Name = Annotated[str, Field(pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$", max_length=253)]
Resource = Annotated[str, Field(pattern=r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$")]
UrlPath = Annotated[str, Field(pattern=r"^/[A-Za-z0-9._~/-]*$")]
Host = Annotated[str, Field(pattern=r"^([a-z0-9*]([-a-z0-9.]*[a-z0-9])?)?$", max_length=253)]
ServicePort = Annotated[Whole, Field(ge=1, le=65535)]
NodePort = Annotated[Whole, Field(ge=0, le=65535)]
AccessMode = Literal["ReadWriteOnce", "ReadWriteMany", "ReadOnlyMany", "ReadWriteOncePod"]
Seconds = Annotated[Whole, Field(ge=0, le=31536000)]
Count = Annotated[Whole, Field(ge=1, le=100000)]


class Image(Group):
    """Where the images come from."""

    registry: Annotated[str, Field(pattern=r"^([a-zA-Z0-9][a-zA-Z0-9._:/-]*[a-zA-Z0-9])?$")] = "ghcr.io/dozlab"
    """Put before every image name that does not name a registry itself. Empty: names stay as they are."""
    tag: Text = ""
    """Tag of all images; empty: the chart's appVersion."""
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When the kubelet asks the registry."""


class PullSecret(Group):
    """A Secret of the namespace."""

    name: Name
    """Its name."""


class Resources(Group):
    """Compute resources of one container."""

    requests: dict[str, Quantity] = {}
    """What the scheduler reserves."""
    limits: dict[str, Quantity] = {}
    """What the kernel enforces."""


class Container(Group):
    """What every container has."""

    image: Annotated[str, Field(pattern=r"^[a-z0-9][a-zA-Z0-9._:/-]*$")] = "dozlab"
    """Image name, below `image.registry` unless it names a registry itself (`registry.example/dozlab`)."""
    tag: Text = ""
    """Its tag; empty: `image.tag`."""
    digest: Annotated[str, Field(pattern=r"^(sha256:[0-9a-f]{64})?$")] = ""
    """Its digest, `sha256:...`; pins it whatever the tag says."""
    resources: Resources = Resources()
    security_context: dict[str, Any] = {}
    """Laid over the container's securityContext."""
    extra_env: Objects = []
    """Further environment variables, as in a Pod."""
    extra_volume_mounts: Objects = []
    """Further mounts of `extraVolumes`."""


class Probe(Group):
    """One probe of a container. Times in seconds."""

    enabled: bool = True
    """Use it."""
    initial_delay_seconds: Seconds = 0
    """Before the first."""
    period_seconds: Count = 10
    """Between two."""
    timeout_seconds: Count = 5
    """For one answer."""
    failure_threshold: Count = 3
    """Failures in a row that count."""


class HttpProbe(Probe):
    """One probe over HTTP."""

    path: UrlPath = "/"
    """What is asked."""


def _resources(requests: tuple[str, str], limits: tuple[str, str]) -> Resources:
    def pair(cpu: str, memory: str) -> dict[str, str]:
        return {"cpu": cpu, "memory": memory}

    return Resources(requests=pair(*requests), limits=pair(*limits))


class InitContainers(Group):
    """The two that run before the VM."""

    rootfs: Container = Container(resources=_resources(("100m", "128Mi"), ("1000m", "256Mi")))
    """Fetches and unpacks the base image, makes the session disk and the keys."""
    network: Container = Container(resources=_resources(("50m", "32Mi"), ("100m", "64Mi")))
    """Makes the tap and the rules; the only container with a capability (NET_ADMIN), and the only one of user 0."""


class Firecracker(Container, values.Firecracker):
    """The VMM and its container."""

    image: Annotated[str, Field(pattern=r"^[a-z0-9][a-zA-Z0-9._:/-]*$")] = "dozlab-firecracker"
    """Image name, below `image.registry` unless it names a registry itself (`registry.example/dozlab`)."""
    resources: Resources = _resources(("1000m", "2Gi"), ("2000m", "3Gi"))
    overhead: Size = "704Mi"
    """Memory of the VMM and its supervisor beside the guest's, 512 MiB of it for code that QEMU has translated where
    there is no KVM; `resources.limits.memory` must hold both."""
    startup_probe: Probe = Probe(period_seconds=5, failure_threshold=120)
    """The guest's SSH must answer within period x failures: ten minutes, for a VM without KVM."""
    readiness_probe: Probe = Probe(period_seconds=5)
    """Ready while the guest's SSH answers (TCP 2222)."""
    liveness_probe: Probe = Probe(enabled=False, period_seconds=10)
    """Off: the container ends by itself when the VM is lost, and a restart would cost the learner's processes."""


class Terminal(Container, values.Terminal):
    """The web terminal and its container."""

    resources: Resources = _resources(("100m", "128Mi"), ("250m", "256Mi"))
    startup_probe: HttpProbe = HttpProbe(path="/health", period_seconds=2, failure_threshold=60)
    """Serves at all."""
    liveness_probe: HttpProbe = HttpProbe(path="/health", period_seconds=10)
    """Restarted when it no longer answers."""
    readiness_probe: HttpProbe = HttpProbe(path="/ready", period_seconds=5)
    """Ready while it is logged in to the guest."""


class ExistingSecret(Group):
    """A Secret that holds the password."""

    name: Name = ""
    """Its name; empty: the chart makes one from `codeServer.password`."""
    key: Annotated[str, Field(pattern=r"^[-._a-zA-Z0-9]+$")] = "vscode-password"
    """The key in it."""


class CodeServer(Container, values.CodeServer):
    """VS Code and its container."""

    image: Annotated[str, Field(pattern=r"^[a-z0-9][a-zA-Z0-9._:/-]*$")] = "dozlab-code-server"
    """Image name, below `image.registry` unless it names a registry itself (`registry.example/dozlab`)."""
    resources: Resources = _resources(("250m", "512Mi"), ("500m", "1Gi"))
    existing_secret: ExistingSecret = ExistingSecret()
    startup_probe: HttpProbe = HttpProbe(path="/healthz", period_seconds=2, failure_threshold=90)
    """Serves at all."""
    liveness_probe: HttpProbe = HttpProbe(path="/healthz", period_seconds=10)
    """Restarted when it no longer answers."""
    readiness_probe: HttpProbe = HttpProbe(path="/healthz", period_seconds=5)
    """Ready while it answers."""


class Cache(Group):
    """Base images kept on the node, for all its sessions."""

    enabled: bool = False
    """Use the node's folder in place of the volume `kernels`. A hostPath: see Security."""
    host_path: Annotated[str, Field(pattern=r"^/[A-Za-z0-9._/-]+$")] = "/var/lib/dozlab/kernels"
    """The folder; the chart `dozlab-node` makes it, owned by user 1000."""


class Rootfs(values.Rootfs):
    """The base image and the learner's disk over it."""

    cache: Cache = Cache()


class Snapshot(Group):
    """Prepared snapshots: a session goes on from a machine that its node has booted and saved before."""

    enabled: bool = False
    """Begin from one, and let the first session of a node make it. Needs `rootfs.cache.enabled`: they lie there."""
    prepare_timeout: Duration = "10m"
    """Time for making one; after that the session boots as ever."""
    size_limit: Size = "8Gi"
    """Most that all snapshots of a node take together; the oldest go first. One takes 0.3 to 0.5 GiB."""


class Device(Group):
    """One device of the node, handed out by a device plugin."""

    enabled: bool
    """Ask the scheduler for it."""
    resource: Resource
    """The plugin's name for it."""


class Devices(Group):
    """Devices of the node (`dozlab-node` brings the plugin)."""

    tun: Device = Device(enabled=True, resource="dozlab.io/tun")
    """/dev/net/tun, always needed. False only where containers get it in another way."""
    kvm: Device = Device(enabled=False, resource="dozlab.io/kvm")
    """/dev/kvm. Without it the guest is emulated: 10 to 30 times slower. `firecracker.requireKvm` asks for it too."""


class Persistence(Group):
    """A PersistentVolumeClaim in place of an emptyDir."""

    enabled: bool = False
    """Use one; its size is `sizeLimit`."""
    existing_claim: Name = ""
    """A claim that is there already; none is made then."""
    storage_class: Annotated[str, Field(pattern=r"^(-|[a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$")] = ""
    """Storage class; empty: the cluster's default, `-`: none (no provisioning)."""
    access_modes: list[AccessMode] = ["ReadWriteOnce"]
    """Access modes."""
    annotations: Texts = {}
    """Annotations of the claim."""
    retain: bool = True
    """Keep the claim when the release is uninstalled; the next install of the same release takes it up again."""


class Volume(values.Volume):
    """One volume."""

    persistence: Persistence = Persistence()


class Volumes(values.Volumes):
    """Room for each volume."""

    kernels: Volume = Volume(size_limit="2Gi")
    """Base images."""
    vm_data: Volume = Volume(size_limit="5Gi")
    """Session disk, workspace and recordings together."""
    vscode_data: Volume = Volume(size_limit="1Gi")
    """VS Code's home: settings and extensions."""
    tmp: values.Volume = values.Volume(size_limit="1Gi")
    """/tmp of VS Code and of the VMM, one for each."""  # noqa: S108


class Ports(Group):
    """Ports of the Service."""

    vscode: ServicePort = 8080
    """VS Code."""
    terminal: ServicePort = 8081
    """The terminal."""
    ssh: ServicePort = 22
    """The guest's SSH (to the relay on 2222)."""
    ports: ServicePort = 8082
    """The proxy to web servers in the guest. A port-forward opens them on this one."""


class NodePorts(Group):
    """Ports on every node, for `NodePort` and `LoadBalancer`."""

    vscode: NodePort = 0
    """VS Code; 0: the cluster chooses."""
    terminal: NodePort = 0
    """The terminal; 0: the cluster chooses."""
    ssh: NodePort = 0
    """SSH; 0: the cluster chooses."""
    ports: NodePort = 0
    """The proxy to web servers in the guest; 0: the cluster chooses."""


class Service(Group):
    """How the session is reached."""

    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"
    """Kind of Service."""
    annotations: Texts = {}
    """Annotations of the Service."""
    ports: Ports = Ports()
    node_ports: NodePorts = NodePorts()


class Site(Group):
    """One host."""

    host: Host = ""
    """Host name; empty: not routed."""


class PathSite(Site):
    """One host, below a path."""

    path: UrlPath = "/"
    """Path there. Anything but / needs a proxy that takes it off (see Access)."""


class IngressTls(Group):
    """Certificate of some hosts."""

    secret_name: Name = ""
    """The Secret with the certificate."""
    hosts: list[str] = []
    """The hosts."""


class Ingress(Group):
    """An Ingress in front of editor and terminal."""

    enabled: bool = False
    """Make one."""
    class_name: Name = ""
    """ingressClassName; empty: the cluster's default."""
    annotations: Texts = {}
    """Annotations for the controller."""
    vscode: PathSite = PathSite()
    terminal: Site = Site()
    """Below `terminal.basePath`."""
    ports: Site = Site()
    """Web servers in the guest: a host of their own; `*.ports.lab.example` gives each port a name."""
    tls: list[IngressTls] = []
    """Certificates: `{secretName, hosts}`."""


class HttpRoute(Group):
    """Routes of a Gateway (Gateway API v1) in front of editor and terminal."""

    enabled: bool = False
    """Make one for each host."""
    parent_refs: Objects = []
    """The Gateways: `{name, namespace, sectionName}`."""
    annotations: Texts = {}
    """Annotations of the routes."""
    tls: bool = True
    """The Gateway's listener speaks TLS: pages come from https://."""
    vscode: PathSite = PathSite()
    terminal: Site = Site()
    """Below `terminal.basePath`."""
    ports: Site = Site()


class NetworkPolicy(Group):
    """A NetworkPolicy. Rendered and schema-checked here, enforced by your CNI."""

    enabled: bool = False
    """Make one: in to the four ports, out to DNS, the internet and `network.egress.allow`."""
    ingress_from: Annotated[Objects, Field(alias="from")] = []
    """Peers that may connect, as in a NetworkPolicy; empty: all."""
    extra_egress: Objects = []
    """Further egress rules, such as to an image server inside the cluster."""


class ServiceMonitor(Group):
    """Lets a Prometheus operator scrape the terminal's /metrics."""

    enabled: bool = False
    """Make one."""
    labels: Texts = {}
    """Labels that the operator selects by."""
    interval: Text = "30s"
    """Between two scrapes."""


class Tests(Group):
    """`helm test`."""

    deadline_seconds: Count = 120
    """How long the ports may take to answer."""


class ChartValues(values.Values):
    """A whole session on Kubernetes."""

    global_values: Annotated[dict[str, Any], Field(alias="global")] = {}
    """Helm's own, for a chart above this one; not used."""
    name_override: Annotated[str, Field(pattern=r"^([a-z]([-a-z0-9]{0,19}[a-z0-9])?)?$")] = ""
    """Objects are called `NAME-<session.id>` in place of `lab-session-<session.id>` and `lab-service-<session.id>`."""
    fullname_override: Annotated[str, Field(pattern=r"^([a-z]([-a-z0-9]{0,50}[a-z0-9])?)?$")] = ""
    """Objects are called exactly this; wins over `nameOverride`."""
    labels: Texts = {}
    """Further labels of every object."""
    image: Image = Image()
    image_pull_secrets: list[PullSecret] = []
    """Secrets for the registry: `{name}`."""
    init_containers: InitContainers = InitContainers()
    rootfs: Rootfs = Rootfs()
    snapshot: Snapshot = Snapshot()
    firecracker: Firecracker = Firecracker()
    terminal: Terminal = Terminal()
    ports: values.PortProxy = values.PortProxy()
    code_server: CodeServer = CodeServer()
    devices: Devices = Devices()
    volumes: Volumes = Volumes()
    service: Service = Service()
    ingress: Ingress = Ingress()
    http_route: HttpRoute = HttpRoute()
    network_policy: NetworkPolicy = NetworkPolicy()
    service_monitor: ServiceMonitor = ServiceMonitor()
    tests: Tests = Tests()
    restart_policy: Literal["Always", "OnFailure", "Never"] = "OnFailure"
    """A dead terminal, editor or VM comes back; a guest that was powered off stays off."""
    termination_grace_period_seconds: Seconds = 40
    """Room for the guest to shut down (25 s) and the VMM to end."""
    active_deadline_seconds: Seconds = 0
    """The session ends after this, whatever it does; 0: never."""
    pod_annotations: Texts = {}
    """Annotations of the Pod."""
    pod_security_context: dict[str, Any] = {}
    """Laid over the Pod's securityContext."""
    service_account_name: Name = ""
    """ServiceAccount of the Pod; its token is never mounted."""
    node_selector: Texts = {}
    """Nodes by their labels."""
    tolerations: Objects = []
    """Tolerations."""
    affinity: dict[str, Any] = {}
    """Affinity."""
    topology_spread_constraints: Objects = []
    """Topology spread constraints; without a labelSelector, over all sessions."""
    priority_class_name: Name = ""
    """PriorityClass."""
    runtime_class_name: Name = ""
    """RuntimeClass."""
    dns_policy: Literal["", "ClusterFirst", "Default", "None"] = ""
    """DNS of the Pod, and of the guest unless `network.dns` says otherwise."""
    dns_config: dict[str, Any] = {}
    """dnsConfig of the Pod."""
    extra_volumes: Objects = []
    """Further volumes of the Pod."""
    extra_init_containers: Objects = []
    """Further init containers, after ours."""
    extra_containers: Objects = []
    """Further containers. They share the session's network: 172.16.0.2:2375 is open to them."""
