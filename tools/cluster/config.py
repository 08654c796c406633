"""Configuration files and command lines of every component. Pure: returns text and argv, touches nothing.

The reasons for single settings are facts about containers without CAP_SYS_RESOURCE and about cgroup v1; they stand
beside the settings.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tools.cluster import layout
from tools.cluster.layout import Layout

DEVICE_COUNT = 32
"""Pods that may hold a device at a time."""


@dataclass(frozen=True)
class Component:
    """A program that `up` starts; the order of the list is the order of the start."""

    name: str
    argv: tuple[str, ...]


def components(at: Layout, programs: Path, devices: tuple[str, ...]) -> list[Component]:
    """Return everything that runs, in the order of its start.

    :param programs: folder of the built programs
    :param devices: names of files under /dev that Pods may ask for, as `kvm` and `net/tun`
    """
    lines: dict[str, list[str]] = {
        "etcd": [
            "/usr/bin/etcd", f"--data-dir={at.data}/etcd", f"--listen-client-urls={layout.ETCD}",
            f"--advertise-client-urls={layout.ETCD}", f"--listen-peer-urls={layout.ETCD_PEER}",
            f"--initial-advertise-peer-urls={layout.ETCD_PEER}", f"--initial-cluster=default={layout.ETCD_PEER}",
            "--unsafe-no-fsync",  # the data is thrown away anyway
        ],
        "containerd": [f"{programs}/containerd", f"--config={at.config}/containerd.toml"],
        "registry": ["/usr/bin/docker-registry", "serve", f"{at.config}/registry.yml"],
        "kube-apiserver": [
            f"{programs}/kube-apiserver", f"--etcd-servers={layout.ETCD}", f"--bind-address={layout.NODE_IP}",
            f"--advertise-address={layout.NODE_IP}", f"--secure-port={layout.API_PORT}",
            f"--tls-cert-file={at.certs}/apiserver.crt", f"--tls-private-key-file={at.certs}/apiserver.key",
            f"--client-ca-file={at.certs}/ca.crt", f"--cert-dir={at.data}",
            f"--kubelet-client-certificate={at.certs}/apiserver-kubelet.crt",
            f"--kubelet-client-key={at.certs}/apiserver-kubelet.key",
            f"--kubelet-certificate-authority={at.certs}/ca.crt", "--kubelet-preferred-address-types=InternalIP",
            f"--requestheader-client-ca-file={at.certs}/ca.crt", "--requestheader-allowed-names=front-proxy",
            "--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            f"--proxy-client-cert-file={at.certs}/front-proxy.crt",
            f"--proxy-client-key-file={at.certs}/front-proxy.key",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={at.certs}/tokens.pub",
            f"--service-account-signing-key-file={at.certs}/tokens.key",
            f"--service-cluster-ip-range={layout.SERVICE_NET}", "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
        ],
        "kube-controller-manager": [
            f"{programs}/kube-controller-manager", *_as(at, "controller-manager"), "--bind-address=127.0.0.1",
            "--secure-port=20257", f"--cert-dir={at.data}", f"--service-account-private-key-file={at.certs}/tokens.key",
            f"--root-ca-file={at.certs}/ca.crt", f"--cluster-signing-cert-file={at.certs}/ca.crt",
            f"--cluster-signing-key-file={at.certs}/ca.key", "--use-service-account-credentials",
            "--leader-elect=false", f"--flex-volume-plugin-dir={at.data}/volume-plugins",
        ],
        "kube-scheduler": [
            f"{programs}/kube-scheduler", *_as(at, "scheduler"), "--bind-address=127.0.0.1", "--secure-port=20259",
            f"--cert-dir={at.data}", "--leader-elect=false",
        ],
        "kubelet": [
            f"{programs}/kubelet", f"--config={at.config}/kubelet.yaml", f"--kubeconfig={at.kubeconfig_of('kubelet')}",
            f"--hostname-override={layout.NODE}", f"--node-ip={layout.NODE_IP}", f"--root-dir={at.data}/kubelet",
            f"--cert-dir={at.data}/kubelet/pki",
        ],
        "kube-proxy": [f"{programs}/kube-proxy", f"--config={at.config}/proxy.yaml"],
    }  # fmt: skip
    if devices:
        offered = [word for name in devices for word in ("--device", _device(name))]
        lines["device-plugin"] = [f"{programs}/device-plugin", f"--domain={layout.DEVICE_DOMAIN}", *offered]
    return [Component(name, tuple(argv)) for name, argv in lines.items()]


def _device(name: str) -> str:
    """Return a device of /dev in the words of squat's generic-device-plugin."""
    group = {"count": DEVICE_COUNT, "paths": [{"path": f"/dev/{name}", "permissions": "rw"}]}
    return json.dumps({"name": Path(name).name, "groups": [group]})


def _as(at: Layout, name: str) -> list[str]:
    path = at.kubeconfig_of(name)
    return [f"--{use}kubeconfig={path}" for use in ("", "authentication-", "authorization-")]


def files(at: Layout, runc: str, nameservers: Sequence[object] = ()) -> dict[Path, str]:
    """Return path -> text of every configuration file but the kubeconfigs.

    :param nameservers: what Pods ask, since the cluster has no DNS of its own
    """
    return {
        at.config / "containerd.toml": containerd(at, runc),
        at.config / "cni" / "10-dozlab.conflist": json.dumps(cni(at), indent=2) + "\n",
        at.config / "registry.yml": _yaml(registry(at)),
        at.config / "kubelet.yaml": _yaml(kubelet(at)),
        at.config / "proxy.yaml": _yaml(proxy(at)),
        at.config / "resolv.conf": "".join(f"nameserver {server}\n" for server in nameservers),
    }


def containerd(at: Layout, runc: str) -> str:
    """Return containerd's configuration (version 3, of containerd 2)."""
    return f"""version = 3
root = "{at.data}/containerd"
state = "{at.root}/run"
disabled_plugins = [
  "io.containerd.nri.v1.nri", "io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.blockfile",
  "io.containerd.snapshotter.v1.erofs", "io.containerd.differ.v1.erofs", "io.containerd.snapshotter.v1.native",
]

[grpc]
address = "{at.containerd}"

[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = "{layout.PAUSE}"

[plugins.'io.containerd.cri.v1.runtime']
# A device that a Pod asks for belongs to the Pod's user, else only root could open it.
device_ownership_from_security_context = true
# Without CAP_SYS_RESOURCE nobody may lower oom_score_adj: runc would end with "can't get final child's PID from pipe".
restrict_oom_score_adj = true
disable_apparmor = true
netns_mounts_under_state_dir = true

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
SystemdCgroup = false
BinaryName = "{runc}"

[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ["/usr/lib/cni"]
conf_dir = "{at.config}/cni"
"""


def cni(at: Layout) -> dict[str, Any]:
    """Return the network of Pods: a veth pair each, routed (no bridge to leave behind); addresses from one range."""
    return {
        "cniVersion": "1.0.0",
        "name": "dozlab",
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": False,  # our own nftables table does it, see host.py
                "mtu": 1500,
                "ipam": {
                    "type": "host-local",
                    "dataDir": f"{at.data}/ipam",
                    "ranges": [[{"subnet": layout.POD_NET}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            }
        ],
    }


def registry(at: Layout) -> dict[str, Any]:
    """Return the registry's configuration: files, loopback only, no login."""
    return {
        "version": 0.1,
        "log": {"accesslog": {"disabled": True}, "level": "warn"},
        "storage": {"filesystem": {"rootdirectory": f"{at.data}/registry"}, "delete": {"enabled": True}},
        "http": {"addr": layout.REGISTRY},
    }


def kubelet(at: Layout) -> dict[str, Any]:
    """Return kubelet's configuration."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": layout.NODE_IP,
        "healthzBindAddress": "127.0.0.1",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{at.certs}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{at.certs}/kubelet.crt",
        "tlsPrivateKeyFile": f"{at.certs}/kubelet.key",
        "containerRuntimeEndpoint": f"unix://{at.containerd}",
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": False,  # true by default since 1.35
        "failSwapOn": False,
        "oomScoreAdj": 0,  # lower needs CAP_SYS_RESOURCE
        "maxOpenFiles": 20000,  # more than the hard limit needs CAP_SYS_RESOURCE
        "makeIPTablesUtilChains": False,  # nothing here uses iptables
        "podLogsDir": f"{at.data}/pod-logs",
        "volumePluginDir": f"{at.data}/volume-plugins",
        "resolvConf": f"{at.config}/resolv.conf",
        "clusterDomain": "cluster.local",
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        # Images loaded by hand may be used under every name they have (see the README).
        "imagePullCredentialsVerificationPolicy": "NeverVerify",
        "serializeImagePulls": False,
        "allowedUnsafeSysctls": ["net.ipv4.ip_forward"],
        "shutdownGracePeriod": "0s",
        "nodeStatusUpdateFrequency": "5s",
    }


def proxy(at: Layout) -> dict[str, Any]:
    """Return kube-proxy's configuration: nftables, and hands off the conntrack settings of the host."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": {"kubeconfig": str(at.kubeconfig_of("proxy"))},
        "hostnameOverride": layout.NODE,
        "bindAddress": layout.NODE_IP,
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        "clusterCIDR": layout.POD_NET,
        "nodePortAddresses": [f"{layout.NODE_IP}/32"],
        "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }


def kubeconfig(certs: Path, name: str) -> str:
    """Return a kubeconfig that holds the certificate `name` (it is a secret)."""

    def held(file: str) -> str:
        return base64.b64encode((certs / file).read_bytes()).decode()

    return _yaml(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": "dozlab", "cluster": {"server": layout.SERVER, "certificate-authority-data": held("ca.crt")}}
            ],
            "users": [
                {
                    "name": name,
                    "user": {
                        "client-certificate-data": held(f"{name}.crt"),
                        "client-key-data": held(f"{name}.key"),
                    },
                }
            ],
            "contexts": [{"name": "dozlab", "context": {"cluster": "dozlab", "user": name}}],
            "current-context": "dozlab",
        }
    )


def objects(at: Layout, volumes: int) -> str:
    """Return what every new cluster holds: a default StorageClass and `volumes` empty volumes on the node.

    The volumes are of type `local`, since `fsGroup` works on those and not on `hostPath`.
    """
    made: list[dict[str, Any]] = [
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {
                "name": "local",
                "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
            },
            "provisioner": "kubernetes.io/no-provisioner",
            "volumeBindingMode": "WaitForFirstConsumer",
        }
    ]
    for number in range(volumes):
        name = f"local-{number:02}"
        made.append(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {"name": name},
                "spec": {
                    "capacity": {"storage": "100Gi"},
                    "accessModes": ["ReadWriteOnce", "ReadWriteMany", "ReadOnlyMany"],
                    "persistentVolumeReclaimPolicy": "Retain",
                    "storageClassName": "local",
                    "local": {"path": str(at.volumes / name)},
                    "nodeAffinity": {
                        "required": {
                            "nodeSelectorTerms": [
                                {
                                    "matchExpressions": [
                                        {"key": "kubernetes.io/hostname", "operator": "In", "values": [layout.NODE]}
                                    ]
                                }
                            ]
                        }
                    },
                },
            }
        )
    return yaml.safe_dump_all(made, sort_keys=False)


def masquerade() -> str:
    """Return the nftables rules that let Pods out under the machine's own address."""
    return f"""table ip {layout.NFT_TABLE} {{
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {layout.POD_NET} ip daddr != {layout.POD_NET} fib daddr type != local masquerade
  }}
}}
"""


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False)
