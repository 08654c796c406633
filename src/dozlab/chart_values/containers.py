"""What the chart knows of its containers: images, resources, probes, Secrets. Pure."""

# ruff: noqa: RUF012  (pydantic copies defaults; ruff does not see that Group is a model)

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from dozlab import values
from dozlab.chart_values.kinds import Count, Key, Name, Objects, Quantity, Seconds, UrlPath
from dozlab.values import Group, Size, Text


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


class TlsSecret(Group):
    """A Secret of type kubernetes.io/tls: `tls.crt` and `tls.key`, for the terminal's container alone."""

    name: Name = ""
    """Its name; empty: none. A renewed Secret is taken up without a restart."""


class Tls(values.Tls):
    """TLS of the terminal's own, the proxy to web servers in the guest included. Without it, plain HTTP."""

    existing_secret: TlsSecret = TlsSecret()


class Terminal(Container, values.Terminal):
    """The web terminal and its container."""

    tls: Tls = Tls()
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
    key: Key = "vscode-password"
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
