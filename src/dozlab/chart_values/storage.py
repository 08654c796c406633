"""What the chart knows of a session's images, volumes and devices. Pure."""

# ruff: noqa: RUF012  (pydantic copies defaults; ruff does not see that Group is a model)

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dozlab import values
from dozlab.chart_values.kinds import AccessMode, Key, Name, Resource, Texts
from dozlab.values import Duration, Group, Size


class Cache(Group):
    """Base images kept on the node, for all its sessions."""

    enabled: bool = False
    """Use the node's folder in place of the volume `kernels`. A hostPath: see Security."""
    host_path: Annotated[str, Field(pattern=r"^/[A-Za-z0-9._/-]+$")] = "/var/lib/dozlab/kernels"
    """The folder; the chart `dozlab-node` makes it, owned by user 1000."""


class ImageVolume(Group):
    """The base image mounted in place of `imageUrl`: the kubelet's cache and pull secrets serve. Kubernetes 1.35."""

    reference: Annotated[str, Field(pattern=r"^([a-zA-Z0-9][a-zA-Z0-9._:/@-]*)?$", max_length=512)] = ""
    """What `dozlab image push` has pushed, as a Pod names it: `registry.example/labs/mylab:v1`. Empty: none."""
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When the kubelet asks the registry."""


class LoginSecret(Group):
    """A Secret with credentials for the image's addresses: docker's config.json, netrc lines or a bearer token."""

    name: Name = ""
    """Its name; empty: none. One of type kubernetes.io/dockerconfigjson, as for pulling, will do."""
    key: Key = ".dockerconfigjson"
    """The key in it."""


class Login(Group):
    """Who init-rootfs is to the servers of the image. A file in its container; no other one has it."""

    existing_secret: LoginSecret = LoginSecret()


class Bundle(Group):
    """A ConfigMap or Secret with certificates in PEM."""

    name: Name = ""
    """Its name; empty: none."""
    key: Key = "ca.crt"
    """The key in it."""


class Authority(Group):
    """Certificates that init-rootfs believes beside the system's: of a ConfigMap, or of a Secret."""

    config_map: Bundle = Bundle()
    existing_secret: Bundle = Bundle()


class Rootfs(values.Rootfs):
    """The base image and the learner's disk over it."""

    image_volume: ImageVolume = ImageVolume()
    auth: Login = Login()
    ca: Authority = Authority()
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
    """Session disk, workspace, recordings and checkpoints together."""
    vscode_data: Volume = Volume(size_limit="1Gi")
    """VS Code's home: settings and extensions."""
    tmp: values.Volume = values.Volume(size_limit="1Gi")
    """/tmp of VS Code and of the VMM, one for each."""  # noqa: S108
