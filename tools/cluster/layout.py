"""Where the cluster's files lie, its addresses and its fixed names. Pure but for the environment.

Everything is under one folder, except what Kubernetes and containerd fix in their code (OUTSIDE).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dozlab.lib import paths

NODE = "dozlab"
"""Name of the node."""

LINK = "dozlab-node"
"""A bridge without ports: it carries the node's address, so that nothing listens on the machine's own network."""

NODE_IP = "10.245.0.1"
POD_NET = "10.244.0.0/16"
SERVICE_NET = "10.96.0.0/16"
API_SERVICE_IP = "10.96.0.1"
API_PORT = 16443
ETCD = "http://127.0.0.1:12379"
ETCD_PEER = "http://127.0.0.1:12380"
REGISTRY = "127.0.0.1:15000"
SERVER = f"https://{NODE_IP}:{API_PORT}"
PAUSE = "localhost/dozlab-pause:1"
DEVICE_DOMAIN = "dozlab.io"
NFT_TABLE = "dozlab-cluster"

CGROUP = "kubepods"
"""Folder that kubelet makes in every cgroup hierarchy: all processes of Pods are in it."""

MARK = "DOZLAB_CLUSTER"
"""Variable in the environment of all that we start (containerd's shims inherit it): so `down` knows them."""

OUTSIDE = (
    Path("/var/lib/kubelet"),  # device plugins register there, whatever --root-dir says
    Path("/var/lib/cni"),  # libcni's cache of results
    Path("/var/log/containers"),  # kubelet's links to logs
    Path("/run/containerd"),  # sockets of the shims
    Path("/usr/libexec/kubernetes"),
    Path("/etc/cni"),
    Path("/run/xtables.lock"),
    Path("/run/flannel"),
)
"""Paths that may appear outside our folder; `down` removes those that were not there before `up`."""

SYSCTLS = (
    "vm.overcommit_memory", "vm.panic_on_oom", "kernel.panic", "kernel.panic_on_oops", "kernel.keys.root_maxkeys",
    "kernel.keys.root_maxbytes", "net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding",
    "net.ipv4.conf.all.route_localnet", "net.netfilter.nf_conntrack_max",
    "net.netfilter.nf_conntrack_tcp_timeout_established", "net.netfilter.nf_conntrack_tcp_timeout_close_wait",
)  # fmt: skip
"""What kubelet, kube-proxy and the CNI plugins set; saved by `up`, put back by `down`."""


@dataclass(frozen=True)
class Layout:
    """The cluster's folder and what is in it."""

    root: Path

    @property
    def record(self) -> Path:
        """Return the file that says what was started and what the host was like before."""
        return self.root / "cluster.json"

    @property
    def lock(self) -> Path:
        """Return the file that one `up` or `down` holds at a time."""
        return self.root.parent / "cluster.lock"

    @property
    def certs(self) -> Path:
        """Return the folder of keys and certificates (0700)."""
        return self.root / "certs"

    @property
    def config(self) -> Path:
        """Return the folder of configuration files (0700: kubeconfigs hold keys)."""
        return self.root / "config"

    @property
    def logs(self) -> Path:
        """Return the folder with one log per component."""
        return self.root / "logs"

    @property
    def data(self) -> Path:
        """Return the folder of what the components write: etcd, containerd, kubelet, registry, volumes."""
        return self.root / "data"

    @property
    def kubeconfig(self) -> Path:
        """Return the administrator's kubeconfig."""
        return self.config / "admin.kubeconfig"

    @property
    def containerd(self) -> Path:
        """Return containerd's socket."""
        return self.root / "containerd.sock"

    @property
    def volumes(self) -> Path:
        """Return the folder whose subfolders are the cluster's persistent volumes."""
        return self.data / "volumes"

    def kubeconfig_of(self, name: str) -> Path:
        """Return the kubeconfig of one component."""
        return self.config / f"{name}.kubeconfig"


def default() -> Layout:
    """Return the layout under the user's state folder."""
    return Layout(paths.state() / "cluster")


def cache() -> Path:
    """Return the folder of built programs."""
    return paths.cache() / "cluster"
