"""A release in a registry, and a node that dozlab-node prepares out of it: devices, images and base images ahead."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.cluster.conftest import DOMAIN, Published
from tests.cluster.kube import Kube
from tests.support import until

pytestmark = [pytest.mark.timeout(1800)]


def test_a_release_is_whole(published: Published) -> None:
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=published.dist, check=True)
    named = {line.split()[1] for line in (published.dist / "SHA256SUMS").read_text().splitlines()}
    assert named == {path.name for path in published.dist.iterdir()} - {"SHA256SUMS"}
    host, _, folder = published.registry.partition("/")
    with urlopen(f"http://{host}/v2/_catalog", timeout=60) as answer:
        images = {"dozlab", "dozlab-firecracker", "dozlab-code-server"}
        charts = {"charts/dozlab-session", "charts/dozlab-node"}
        assert set(json.load(answer)["repositories"]) >= {f"{folder}/{name}" for name in images | charts}


def test_the_node_offers_the_devices(kube: Kube, node_chart: Path) -> None:
    """The chart's DaemonSet runs; its image is the stand-in for squat's plugin, with the same options."""

    def offered() -> bool:
        (node,) = kube.get("nodes")["items"]
        return bool(node["status"]["allocatable"].get(f"{DOMAIN}/tun") == "100")

    until(offered, what=f"{DOMAIN}/tun", seconds=240)


def test_the_images_are_on_the_node(kube: Kube, node_chart: Path, published: Published) -> None:
    def pulled() -> bool:
        (node,) = kube.get("nodes")["items"]
        names = {name for image in node["status"]["images"] for name in image["names"]}
        wanted = ("dozlab", "dozlab-firecracker", "dozlab-code-server")
        return names >= {f"{published.registry}/{name}:{published.version}" for name in wanted}

    until(pulled, what="the images in the node's status", seconds=240)


def test_the_base_image_is_on_the_node(node_chart: Path) -> None:
    assert node_chart.stat().st_uid == 1000
    assert [path for path in node_chart.rglob("*") if path.is_file() and path.stat().st_size == 32 << 20]
