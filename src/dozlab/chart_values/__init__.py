"""What a session is on Kubernetes: the values of `values.py` and those that only the chart has. Pure.

The truth behind the chart's `values.schema.json`, its values.yaml and its README's table (`make docs`). One machine
accepts these values and passes over them, so that one file serves both. What must fit together is checked where it is
rendered: `charts/dozlab-session/templates/_validate.tpl`.
"""

# ruff: noqa: RUF012  (pydantic copies defaults; ruff does not see that Group is a model)

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from dozlab import values
from dozlab.chart_values.containers import CodeServer, Firecracker, Image, InitContainers, PullSecret, Terminal
from dozlab.chart_values.kinds import Name, Objects, Seconds, Texts
from dozlab.chart_values.routes import HttpRoute, Ingress, NetworkPolicy, Service, ServiceMonitor, Tests
from dozlab.chart_values.storage import Devices, Rootfs, Snapshot, Volumes


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
