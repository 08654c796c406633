"""The cluster, its images and the sessions that tests share.

Enabled by `make test-cluster`, as root: it builds Kubernetes and the container images where they are not in the cache,
starts a node, and proves at the end that the machine is as it was.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from tools import images, kubetools
from tools.cluster import cluster, layout, oci

import dozlab
from dozlab.images.store import Store
from dozlab.lib import paths
from tests.cluster.kube import PYTHON, Kube, pod, running_node
from tests.support import REPOSITORY, until
from tests.tiny import without_docker, without_services

OUTSIDE = "203.0.113.7"
"""An address of the internet, as far as a guest can tell (RFC 5737); this machine's while the tests run."""
DOMAIN = "lab.example"
"""Of the devices that dozlab-node offers; the cluster's own plugin offers dozlab.io's."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give a boot the time it takes under emulation."""
    for item in items:
        if "tests/cluster" in str(item.path):
            item.add_marker(pytest.mark.cluster)
            if not item.get_closest_marker("timeout"):
                item.add_marker(pytest.mark.timeout(1200))


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_args: object) -> None:
        pass


@contextmanager
def _serving(address: str, folder: Path) -> Iterator[int]:
    """Serve a folder over HTTP; yield the port."""
    server = ThreadingHTTPServer((address, 0), partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="session")
def archives() -> dict[str, Path]:
    """The three container images."""
    os.environ.setdefault("DOZLAB_FIRECRACKER", "test-copy")
    return images.build_all()


@pytest.fixture(scope="session")
def node(archives: dict[str, Path]) -> Iterator[Path]:
    """A running cluster that has the images; yields its kubeconfig."""
    with running_node(*archives.values()) as kubeconfig:
        yield kubeconfig


@pytest.fixture(scope="session")
def web(node: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of base images that Pods reach; yields its URL."""
    folder = tmp_path_factory.mktemp("web")
    store = Store(paths.cache() / "store")
    base = store.path(store.inspect("dozlab-vm").digest)
    (folder / "dozlab-vm.ext4").symlink_to(base)
    without_docker(base, folder)
    (folder / "small.ext4").symlink_to(without_services(tmp_path_factory.mktemp("small")))
    (folder / "dist").symlink_to(REPOSITORY / "dist")
    with _serving(layout.NODE_IP, folder) as port:
        yield f"http://{layout.NODE_IP}:{port}"


@pytest.fixture(scope="session")
def kube(node: Path, web: str) -> Kube:
    """The cluster as a user has it: kubectl, helm, and the URLs of two base images."""
    return Kube(
        kubeconfig=node, helm_path=kubetools.ensure().helm, kubectl_path=cluster.programs() / "kubectl",
        image_url=f"{web}/dozlab-vm.ext4", small_url=f"{web}/small.ext4",
    )  # fmt: skip


@pytest.fixture(scope="session")
def outside(node: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """A server on the internet's side."""
    where = [f"{OUTSIDE}/32", "dev", layout.LINK]
    subprocess.run(["ip", "address", "add", *where], check=True)
    with _serving(OUTSIDE, tmp_path_factory.mktemp("outside")) as port:
        yield OUTSIDE, port
    subprocess.run(["ip", "address", "del", *where], check=True)


@pytest.fixture(scope="session")
def probe(kube: Kube, archives: dict[str, Path]) -> str:
    """A Pod beside the sessions, with Python and an SSH client; it listens on 8000."""
    (image,) = cluster.archive_names(archives["dozlab-code-server"])
    wanted = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "probe"},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "probe", "image": image, "command": [PYTHON, "-m", "http.server", "8000"]}],
        },
    }
    kube.kubectl("apply", "-f", "-", input=yaml.safe_dump(wanted))
    kube.kubectl("wait", "pod/probe", "--for=condition=Ready", "--timeout=240s", timeout=300)
    return "probe"


@pytest.fixture(scope="session")
def learner_key(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A learner's own key pair: private and public text."""
    path = tmp_path_factory.mktemp("key") / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "dozlab-learner", "-f", str(path)], check=True)
    return path.read_text(), path.with_suffix(".pub").read_text().strip()


@dataclass(frozen=True)
class Published:
    """What `make release` has pushed to the node's registry."""

    registry: str
    dist: Path
    version: str = dozlab.__version__

    def chart(self, name: str) -> list[str]:
        """Return how helm names a chart of the registry."""
        return [f"oci://{self.registry}/charts/{name}", "--version", self.version, "--plain-http"]


@pytest.fixture(scope="session")
def begun(kube: Kube, learner_key: tuple[str, str]) -> None:
    """The first session, begun: it boots while the release is made."""
    kube.install("lab", "--set-json", f'ssh.authorizedKeys=["{learner_key[1]}"]')


@pytest.fixture(scope="session")
def published(node: Path, begun: None) -> Published:
    """Images, charts and base image of this commit, in dist/ and in a registry."""
    registry = f"{layout.REGISTRY}/dozlab"
    subprocess.run(["make", "release", f"REGISTRY={registry}"], cwd=REPOSITORY, check=True, timeout=1500)
    return Published(registry, REPOSITORY / "dist")


@pytest.fixture(scope="session")
def node_chart(kube: Kube, published: Published, web: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The node, prepared by dozlab-node out of the registry; yields the folder of its base images."""
    folder = tmp_path_factory.mktemp("node")
    repository, _, tag = oci.device_plugin(folder / "plugin.tar", cluster.programs()).rpartition(":")
    cluster.load(folder / "plugin.tar")
    values = {
        "image": {"registry": published.registry},
        "devices": {"domain": DOMAIN, "image": {"repository": repository, "tag": tag, "digest": ""}},
        "prePull": {"enabled": True},
        "cache": {"enabled": True, "hostPath": str(folder / "kernels"), "images": [{"url": f"{web}/small.ext4"}]},
    }
    (folder / "values.yaml").write_text(yaml.safe_dump(values))
    words = [*published.chart("dozlab-node"), "-n", "dozlab-node", "--create-namespace"]
    kube.helm("install", "node", *words, "-f", str(folder / "values.yaml"), "--wait", "--timeout", "480s", timeout=540)
    yield folder / "kernels"
    kube.helm("uninstall", "node", "-n", "dozlab-node", "--wait", "--timeout", "240s")


@pytest.fixture(scope="session")
def second_words(
    kube: Kube, node_chart: Path, published: Published, web: str, tmp_path_factory: pytest.TempPathFactory
) -> list[str]:
    """The words of `helm install` for the second session: all of it released, on a prepared node, out of a file."""
    folder = tmp_path_factory.mktemp("second")
    packed = next(published.dist.glob("dozlab-vm-*.ext4.zst"))
    values = {
        "session": {"id": "two", "userId": "ada.lovelace@example.org"},
        "image": {"registry": published.registry},
        "rootfs": {
            "imageUrl": f"{web}/dist/{packed.name}",
            "sha256": json.loads(packed.with_suffix("").with_suffix(".json").read_text())["sha256"],
            "diskSize": "2G",
            "cache": {"enabled": True, "hostPath": str(node_chart)},
        },
        "snapshot": {"enabled": True},
        "devices": {kind: {"resource": f"{DOMAIN}/{kind}"} for kind in ("tun", "kvm")},
        "vm": {"cpuCount": "2", "memory": "768"},
        "firecracker": {"resources": {"requests": {"cpu": "100m", "memory": "1200Mi"}}},
        "codeServer": {
            "existingSecret": {"name": "my-lab-password", "key": "password"},
            "resources": {"requests": {"cpu": "50m"}},
            "workspaceReadOnly": True,
        },
        "volumes": {"vmData": {"persistence": {"enabled": True}}},
    }
    (folder / "values.yaml").write_text(yaml.safe_dump(values))
    kube.kubectl("create", "secret", "generic", "my-lab-password", "--from-literal=password=own-pass-word", check=False)
    return ["-f", str(folder / "values.yaml")]


@pytest.fixture(scope="session")
def lab(kube: Kube, begun: None) -> str:
    """The first session, Ready."""
    kube.wait_ready("lab")
    return "lab"


@pytest.fixture(scope="session")
def second(kube: Kube, published: Published, second_words: list[str]) -> str:
    """The second one, Ready: the first that begins on the prepared node."""
    kube.helm("install", "two", *published.chart("dozlab-session"), *second_words)
    kube.wait_ready("two")
    return "two"


@pytest.fixture
def trouble(kube: Kube) -> Iterator[str]:
    """Name of a session that is going to fail; removed afterwards."""
    yield "trouble"
    kube.helm("uninstall", "trouble", "--wait", "--timeout", "240s", check=False)
    until(lambda: not kube.get("pod", pod("trouble")), what="the end of the Pod", seconds=300)
