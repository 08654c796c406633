"""Container images of a registry: from Debian's docker-registry to a base image; indexes, cuts, and what is refused."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from dozlab.cli.main import cli
from dozlab.images.importing import documents
from dozlab.images.store import Store
from dozlab.init_rootfs import container, oci
from dozlab.init_rootfs.auth import Credentials, load
from dozlab.init_rootfs.client import Client, Limits
from dozlab.lib.errors import BadUsage, DozlabError
from dozlab.lib.units import MIB
from tests.unit.images.crafted import AMD64, Layout, file, machine, tar
from tests.unit.init_rootfs.conftest import Certificate, Page, Web
from tests.unit.init_rootfs.test_registry import FAST, docker_config, registry

__all__ = ["registry"]
SYSTEM = (tar(*machine()), tar(file("etc/note", "by a registry")))


def test_from_a_registry_with_login_and_tls_to_a_base_image(
    registry: str, certificate: Certificate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("DOCKER_CONFIG", str(docker_config(tmp_path / "docker", registry).parent))
    monkeypatch.setenv("IMAGE_CA_FILE", str(certificate.ca))
    made, url = Layout(*SYSTEM, pack=gzip.compress, suffix="+gzip"), f"oci://{registry}/courses/linux-101:v2"
    client = Client(load(None, [url], tmp_path / "docker"), ca_file=certificate.ca, limits=FAST)
    try:
        there = oci.Registry(client, oci.parse(url), push=True)
        for blob in (*made.packed, made.config):
            data = made.files[f"blobs/{blob['digest'].replace(':', '/')}"]
            there.put_blob(blob["digest"], len(data), lambda data=data: data)
        told = {**made.manifest, "mediaType": documents.OCI_MANIFEST}
        digest = there.put_manifest(json.dumps(told).encode())
    finally:
        client.close()
    for address in (url, f"oci://{registry}/courses/linux-101@{digest}"):
        done = CliRunner().invoke(cli, ["image", "import", address], catch_exceptions=False)
        assert "pulled layer 2 of 2" in done.output and "start it: dozlab up --image linux-101" in done.output
    store = Store(tmp_path / "cache/dozlab/store")
    found = store.by_name("linux-101")
    assert found and found.packages == {"dash": "0.5"}
    assert list((tmp_path / "cache/dozlab/build").glob("*")) == []
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "none"))
    with pytest.raises(DozlabError, match="401 Unauthorized; give credentials in a file"):
        CliRunner().invoke(cli, ["image", "import", url, "--name", "other"], catch_exceptions=False)
    assert list(store.names()) == ["linux-101"]


class Shelf:
    """A registry of fixed pages over HTTP that holds one layout as `lab`."""

    def __init__(self, web: Web, made: Layout) -> None:
        self.web, self.made = web, made
        self.url = f"oci://{web.url.removeprefix('http://')}/lab"
        web.pages["/v2/"] = Page(b"{}")
        self.serve()

    def serve(self) -> None:
        for name, data in self.made.files.items():
            if name.startswith("blobs/"):
                digest = name.removeprefix("blobs/").replace("/", ":")
                for kind in ("blobs", "manifests"):
                    self.web.pages[f"/v2/lab/{kind}/{digest}"] = Page(data, ranges=True)
        self.tag(self.made.files[f"blobs/{self.made.told['digest'].replace(':', '/')}"])

    def tag(self, text: bytes) -> None:
        self.web.pages["/v2/lab/manifests/latest"] = Page(text)

    def layer(self, number: int) -> Page:
        return self.web.pages[f"/v2/lab/blobs/{self.made.packed[number]['digest']}"]

    def pull(self, folder: Path, *, most: int = MIB, limits: Limits = FAST) -> list[str]:
        said: list[str] = []
        client = Client(limits=limits)
        folder.mkdir()
        try:
            container.pull(client, self.url, folder, most=most, progress=said.append)
        finally:
            client.close()
        return said


@pytest.fixture
def shelf(web: Web) -> Shelf:
    return Shelf(web, Layout(*SYSTEM))


def same(folder: Path, made: Layout) -> bool:
    """Tell whether a folder holds the manifest, the configuration and the layers of a layout, and no other blobs."""
    names = {path.name for path in (folder / "blobs/sha256").iterdir()}
    wanted = [made.told, made.config, *made.packed]
    return names == {each["digest"].removeprefix("sha256:") for each in wanted} and all(
        (folder / "blobs" / each["digest"].replace(":", "/")).stat().st_size == each["size"] for each in wanted
    )


def test_of_an_index_the_machines_manifest_is_pulled(shelf: Shelf, tmp_path: Path) -> None:
    kind = {"mediaType": documents.DOCKER_MANIFEST}
    other = shelf.made.put(b"{}") | {"platform": {"os": "linux", "architecture": "arm64"}} | kind
    shelf.tag(json.dumps({"manifests": [other, shelf.made.told | {"platform": AMD64} | kind]}).encode())
    said = shelf.pull(tmp_path / "layout")
    assert same(tmp_path / "layout", shelf.made) and len(said) == 3
    asked = [headers["accept"] for path, headers in shelf.web.seen if "/manifests/" in path]
    assert len(asked) == 2 and all(documents.DOCKER_LIST in each and documents.OCI_INDEX in each for each in asked)


def test_a_layer_that_is_there_twice_is_pulled_once(web: Web, tmp_path: Path) -> None:
    shelf = Shelf(web, Layout(SYSTEM[1], SYSTEM[1]))
    shelf.pull(tmp_path / "layout")
    assert len([path for path, _ in web.seen if shelf.made.packed[0]["digest"] in path]) == 1


def test_a_connection_that_is_cut_goes_on(shelf: Shelf, tmp_path: Path) -> None:
    shelf.layer(0).cut_at, shelf.layer(0).cuts = 5000, 1
    shelf.pull(tmp_path / "layout")
    assert same(tmp_path / "layout", shelf.made)
    ranges = [headers.get("range") for path, headers in shelf.web.seen if shelf.made.packed[0]["digest"] in path]
    assert len(ranges) == 2 and ranges[0] is None and ranges[1]


def mark(shelf: Shelf) -> None:
    shelf.made.finish(annotations={oci.MARK: "0"})
    shelf.serve()


def change(**more: Any) -> Callable[[Shelf], None]:
    def do(shelf: Shelf) -> None:
        shelf.made.finish(**more)
        shelf.serve()

    return do


def body(number: int, data: bytes) -> Callable[[Shelf], None]:
    return lambda shelf: setattr(shelf.layer(number), "body", data)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (mark, "is a base image already; take it with: dozlab image pull oci://"),
        (change(artifactType="application/vnd.cncf.helm"), "is no container image, but application/vnd.cncf.helm"),
        (lambda shelf: shelf.tag(b"[]"), "a document that is not understood"),
        (lambda shelf: shelf.tag(b'{"manifests": []}'), "has nothing for linux/amd64"),
        (body(0, bytes(len(SYSTEM[0]))), "the registry gives another layer than sha256:"),
        (body(1, SYSTEM[1] + b"more"), "the registry gives another layer than sha256:"),
        (body(1, SYSTEM[1][:-5]), "broke off|gives another layer"),
        (lambda shelf: shelf.web.pages.pop(f"/v2/lab/blobs/{shelf.made.config['digest']}"), "the server says 404"),
    ],
)
def test_what_is_refused(spoil: Callable[[Shelf], None], words: str, shelf: Shelf, tmp_path: Path) -> None:
    spoil(shelf)
    with pytest.raises(DozlabError, match=words):
        shelf.pull(tmp_path / "layout")
    assert not (tmp_path / "layout/index.json").exists()


def test_an_image_over_the_limit_is_not_even_begun(shelf: Shelf, tmp_path: Path) -> None:
    with pytest.raises(DozlabError, match=r"has .* of layers; raise --size-limit"):
        shelf.pull(tmp_path / "layout", most=1000)
    assert not [path for path, _ in shelf.web.seen if "/blobs/" in path]


@pytest.mark.parametrize(
    ("url", "host", "repository"),
    [
        ("oci://docker.io/debian:13", "registry-1.docker.io", "library/debian"),
        ("oci://docker.io/a/b:1", "registry-1.docker.io", "a/b"),
        ("oci://h.example/debian:13", "h.example", "debian"),
    ],
)
def test_docker_hub_is_where_everybody_finds_it(url: str, host: str, repository: str) -> None:
    found = container.reference(url)
    assert (found.host, found.repository) == (host, repository)


def test_what_docker_login_keeps_for_docker_hub_is_used_there() -> None:
    held = container.credentials(Credentials({"index.docker.io": ("anna", "word"), "h": ("a", "b")}))
    assert held.pair("https://registry-1.docker.io/v2/") == held.pair("https://index.docker.io/") == ("anna", "word")
    own = Credentials({"h": ("a", "b")})
    assert container.credentials(own) is own


def test_an_address_that_is_none() -> None:
    with pytest.raises(BadUsage, match="not the address of an image in a registry"):
        container.reference("oci://h")
