"""What the chart knows of how a session is reached: Service, Ingress, routes, policies. Pure."""

# ruff: noqa: RUF012  (pydantic copies defaults; ruff does not see that Group is a model)

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dozlab.chart_values.kinds import Count, Host, Name, NodePort, Objects, ServicePort, Texts, UrlPath
from dozlab.values import Group, Text


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
