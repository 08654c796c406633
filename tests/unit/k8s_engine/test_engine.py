"""What is laid into dozlab-k8s agrees with itself: units, programs, networks, versions, names of images."""

from __future__ import annotations

import io
import json
import re
import subprocess
import tarfile
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from tools.cluster import build, layout
from tools.k8s_engine import engine, images, programs

from dozlab.images import recipe

ROOT = Path(__file__).resolve().parents[3]
RECIPE = ROOT / "rootfs/dozlab-k8s"
UNITS = engine.FILES / "etc/systemd/system"
LAID = {f"/usr/lib/dozlab-k8s/bin/{name}" for name in ("kube", *engine.PARTS, *engine.CONTAINERD)} | {
    f"/{engine.place_of(name)}" for names in engine.DEBIAN.values() for name in names
}


def _read(name: str) -> str:
    return (engine.FILES / name).read_text()


def _scripts() -> list[Path]:
    files = [path for folder in (engine.FILES, RECIPE / "files") for path in sorted(folder.rglob("*"))]
    return [path for path in files if path.is_file() and path.read_bytes().startswith(b"#!")]


def test_every_unit_is_wanted_and_goes_with_k3s() -> None:
    wanted = re.findall(r"k3s-[a-z-]+\.service", (UNITS / "k3s.service.d/10-engine.conf").read_text())
    there = sorted(path.name for path in UNITS.glob("k3s-*.service"))
    assert sorted(set(wanted)) == there
    stay = [name for name in there if "PartOf=k3s.service" not in (UNITS / name).read_text()]
    assert stay == ["k3s-pods.service"]


def test_every_program_that_units_start_is_laid_in() -> None:
    started = set()
    for unit in [*UNITS.glob("*.service"), *UNITS.rglob("*.conf")]:
        started |= set(re.findall(r"^Exec\w+=-?(/\S+)", unit.read_text(), re.MULTILINE))
    files = {f"/{path.relative_to(engine.FILES)}" for path in engine.FILES.rglob("*") if path.is_file()}
    assert len(started) > 8
    assert started - {"/bin/true"} <= LAID | files


@pytest.mark.parametrize("script", _scripts(), ids=lambda path: path.name)
def test_scripts_are_executable_and_parse(script: Path) -> None:
    assert script.stat().st_mode & 0o111 == 0o111
    shell = script.read_text().splitlines()[0].removeprefix("#!/bin/")
    assert subprocess.run([shell, "-n", script], capture_output=True, check=False).stderr == b""


def test_the_networks_are_the_same_everywhere() -> None:
    pods = yaml.safe_load(_read("etc/rancher/dozlab/proxy.yaml"))["clusterCIDR"]
    assert pods in _read("usr/lib/dozlab-k8s/prepare")
    chain = json.loads(_read("etc/rancher/dozlab/cni/10-dozlab.conflist"))["plugins"]
    assert chain[0]["ipam"]["ranges"][0][0]["subnet"].startswith(pods.rpartition(".0/")[0].removesuffix(".0"))
    services = re.findall(r"--service-cluster-ip-range=(\S+)", (UNITS / "k3s-apiserver.service").read_text())
    assert services == ["10.43.0.0/16"]
    assert "IP:10.43.0.1," in _read("usr/lib/dozlab-k8s/prepare")


def test_cni_plugins_are_laid_in() -> None:
    chain = json.loads(_read("etc/rancher/dozlab/cni/10-dozlab.conflist"))["plugins"]
    needed = {plugin["type"] for plugin in chain} | {chain[0]["ipam"]["type"], "loopback"}
    assert needed <= {Path(path).name for path in LAID if "/cni/" in path}


def test_the_pause_image_has_the_name_that_containerd_knows() -> None:
    assert tomllib.loads(_read("etc/rancher/dozlab/containerd.toml"))["plugins"]["io.containerd.cri.v1.images"] == {
        "pinned_images": {"sandbox": layout.PAUSE}
    }


def test_versions_agree() -> None:
    urls = [download.url for download in recipe.load(RECIPE).downloads]
    kind = re.search(r"sigs.k8s.io/kind (v[\d.]+)", (programs.KIND / "go.mod").read_text())
    assert kind
    assert [url for url in urls if "/kind/" in url and f"/{kind[1]}/" in url]
    assert len([url for url in urls if f"/v{build.KUBERNETES}" in url]) == 3  # kubectl, k3s, its images
    assert [url for url in urls if "/helm-v" in url]


def test_every_download_has_another_way() -> None:
    made = recipe.load(RECIPE)
    assert {download.otherwise for download in made.downloads} == {"kubectl", "helm", "kind", "engine"}
    assert all(download.checksums and not download.sha256 for download in made.downloads)


def test_keys_follow_their_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {programs.kind_key()}
    for name in ("go.mod", "go.sum"):
        (tmp_path / name).write_bytes((programs.KIND / name).read_bytes())
    monkeypatch.setattr(programs, "KIND", tmp_path)
    assert programs.kind_key() in keys
    (tmp_path / "go.sum").write_text("other")
    keys.add(programs.kind_key())
    assert len(keys) == 2
    before = engine.key()
    monkeypatch.setattr(engine, "PARTS", engine.PARTS[1:])
    assert engine.key() != before


def test_the_busybox_image_has_name_applets_and_shell() -> None:
    held = images.busybox(b"program", ["sh", "ls"])
    assert images.BUSYBOX.encode() in held
    layer = _layer(held)
    assert layer["bin/sh"] == layer["bin/ls"] == "busybox"
    assert images.BUSYBOX in (RECIPE / "recipe.toml").read_text()


def _layer(archive: bytes) -> dict[str, str]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:

        def read(name: str) -> bytes:
            file = tar.extractfile(name)
            assert file
            return file.read()

        def blob(descriptor: dict[str, Any]) -> bytes:
            return read("blobs/sha256/" + descriptor["digest"].partition(":")[2])

        manifest = json.loads(blob(json.loads(read("index.json"))["manifests"][0]))
        content = blob(manifest["layers"][0])
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return {member.name: member.linkname for member in tar}
