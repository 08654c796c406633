"""Configuration of the test cluster: what must hold for a machine without CAP_SYS_RESOURCE, and no file outside."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
import yaml
from tools.cluster import certs, config, layout
from tools.cluster.layout import Layout

AT = Layout(Path("/state/cluster"))


def test_component_order_and_names() -> None:
    names = [part.name for part in config.components(AT, Path("/programs"), ("kvm", "net/tun"))]
    assert names == [
        "etcd", "containerd", "registry", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet",
        "kube-proxy", "device-plugin",
    ]  # fmt: skip


def test_devices_are_offered_by_their_last_name() -> None:
    plugin = config.components(AT, Path("/programs"), ("kvm", "net/tun"))[-1]
    assert plugin.argv[1] == "--domain=dozlab.io"
    assert plugin.argv[2::2] == ("--device", "--device")
    path = {"path": "/dev/net/tun", "permissions": "rw"}
    assert json.loads(plugin.argv[5]) == {"name": "tun", "groups": [{"count": 32, "paths": [path]}]}
    assert "device-plugin" not in [part.name for part in config.components(AT, Path("/programs"), ())]


def test_nothing_listens_on_the_machines_own_network() -> None:
    words = [word for part in config.components(AT, Path("/programs"), ()) for word in part.argv]
    for word in words:
        if "://" in word and "service-account-issuer" not in word:
            assert "//127.0.0.1" in word
        if word.startswith("--bind-address="):
            assert word.partition("=")[2] in {"127.0.0.1", layout.NODE_IP}
    assert config.registry(AT)["http"]["addr"].startswith("127.0.0.1:")
    assert config.kubelet(AT)["address"] == config.proxy(AT)["bindAddress"] == layout.NODE_IP


def test_paths_stay_in_the_clusters_folder() -> None:
    texts = list(config.files(AT, "/usr/sbin/runc").values())
    texts += [" ".join(part.argv) for part in config.components(AT, Path("/programs"), ())]
    for text in texts:
        assert "/var/" not in text
        assert "/etc/" not in text
        assert "/run/" not in text.replace("/state/cluster/run", "")


def test_containerd_settings() -> None:
    parsed = tomllib.loads(config.containerd(AT, "/usr/sbin/runc"))
    runtime = parsed["plugins"]["io.containerd.cri.v1.runtime"]
    assert runtime["restrict_oom_score_adj"] is True
    assert runtime["device_ownership_from_security_context"] is True
    assert runtime["containerd"]["runtimes"]["runc"]["options"]["BinaryName"] == "/usr/sbin/runc"
    assert parsed["plugins"]["io.containerd.cri.v1.images"]["pinned_images"]["sandbox"] == layout.PAUSE


def test_kubelet_and_proxy_settings() -> None:
    kubelet = config.kubelet(AT)
    assert (kubelet["failCgroupV1"], kubelet["oomScoreAdj"], kubelet["makeIPTablesUtilChains"]) == (False, 0, False)
    assert config.proxy(AT)["mode"] == "nftables"
    assert config.proxy(AT)["conntrack"]["maxPerCore"] == 0


def test_files_parse() -> None:
    made = config.files(AT, "/usr/sbin/runc")
    for path, text in made.items():
        if path.suffix in {".yaml", ".yml"}:
            assert yaml.safe_load(text)
        elif path.suffix == ".conflist":
            assert json.loads(text)["plugins"][0]["type"] == "ptp"


def test_volumes() -> None:
    kinds = [found["kind"] for found in yaml.safe_load_all(config.objects(AT, 3))]
    assert kinds == ["StorageClass", *["PersistentVolume"] * 3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("certs")
    certs.write_all(path)
    return path


def test_certificates_are_private_and_complete(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    assert {f"{name}.{end}" for name in (*certs.SUBJECTS, "ca") for end in ("crt", "key")} <= names
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_kubeconfig(folder: Path) -> None:
    parsed = yaml.safe_load(config.kubeconfig(folder, "admin"))
    assert parsed["clusters"][0]["cluster"]["server"] == layout.SERVER
    assert set(parsed["users"][0]["user"]) == {"client-certificate-data", "client-key-data"}
