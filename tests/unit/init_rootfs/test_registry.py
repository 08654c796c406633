"""Images in a registry: a round trip through Debian's docker-registry, with login and TLS; tokens; what is no image."""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from dozlab.cli.main import cli
from dozlab.images import export, layers, manifest
from dozlab.images.store import Store
from dozlab.init_rootfs import fetch, oci
from dozlab.init_rootfs.auth import Credentials, load
from dozlab.init_rootfs.client import Client, Limits
from dozlab.init_rootfs.settings import from_env
from dozlab.lib.errors import BadUsage, DozlabError
from dozlab.lib.proc import need
from tests.support import free_port
from tests.unit.init_rootfs.conftest import Certificate, Page, Web

Environ = Callable[..., dict[str, str]]
FAST = Limits(back_off=(0.01, 0.01, 0.01))
HASHED = "anna:$2b$05$abcdefghijklmnopqrstuuQDoL5Sa/TtfS/XN4AY/jgq.HBbO1BTu"
"""A line of htpasswd: the password is `word`."""


@pytest.fixture
def registry(tmp_path: Path, certificate: Certificate) -> Iterator[str]:
    """Yield host:port of a registry that wants TLS and a login."""
    (tmp_path / "htpasswd").write_text(HASHED + "\n")
    address = f"127.0.0.1:{free_port()}"
    config = {
        "version": 0.1,
        "log": {"accesslog": {"disabled": True}, "level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(tmp_path / "registry")}},
        "auth": {"htpasswd": {"realm": "here", "path": str(tmp_path / "htpasswd")}},
        "http": {"addr": address, "tls": {"certificate": str(certificate.cert), "key": str(certificate.key)}},
    }
    (tmp_path / "registry.yml").write_text(json.dumps(config))
    child = subprocess.Popen(
        [need("docker-registry", "docker-registry"), "serve", str(tmp_path / "registry.yml")],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={"OTEL_TRACES_EXPORTER": "none"},
    )  # fmt: skip
    try:
        host, _, port = address.partition(":")
        deadline = time.monotonic() + 60
        while True:
            with socket.socket() as probe:
                if probe.connect_ex((host, int(port))) == 0:
                    break
            assert child.poll() is None and time.monotonic() < deadline, "the registry does not answer"
            time.sleep(0.02)
        yield address
    finally:
        child.terminate()
        child.wait(60)


def docker_config(folder: Path, host: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "config.json"
    path.write_text(json.dumps({"auths": {host: {"auth": "YW5uYTp3b3Jk"}}}))
    return path


def test_a_round_trip_with_login_and_tls(
    registry: str, certificate: Certificate, image: bytes, environ: Environ, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("DOCKER_CONFIG", str(docker_config(tmp_path / "docker", registry).parent))
    monkeypatch.setenv("IMAGE_CA_FILE", str(certificate.ca))
    store = Store(tmp_path / "cache/dozlab/store")
    (tmp_path / "a.ext4").write_bytes(image)
    digest = store.add_file(tmp_path / "a.ext4", name="lab", packages={"git": "1:2"}).digest
    url = f"oci://{registry}/labs/one:v1"
    pushed = CliRunner().invoke(cli, ["image", "push", "lab", url], catch_exceptions=False)
    assert url in pushed.output
    artifact = pushed.output.split()[1]
    assert list((tmp_path / "cache/dozlab/push").iterdir()) == []
    for number, address in enumerate((url, f"oci://{registry}/labs/one@{artifact}")):
        env = environ(IMAGE_DOWNLOAD_URL=address, IMAGE_CA_FILE=str(certificate.ca))
        env |= {"KERNELS_DIR": str(tmp_path / f"node{number}"), "DOCKER_CONFIG": str(tmp_path / "docker")}
        base = fetch.base(from_env(env), lambda line: None, FAST)
        base.release()
        assert base.path.read_bytes() == image
        told = Store(Path(env["KERNELS_DIR"])).get(digest)
        assert told and told.packages == {"git": "1:2"}
        again = fetch.base(from_env(env), lambda line: None, FAST)
        again.release()
        assert again.how == "from the store, unchanged at its source"
        written = "".join(path.read_text() for path in (tmp_path / f"node{number}/urls").iterdir())
        assert "word" not in written and "YW5uYTp3b3Jk" not in written
    store.rm("lab")
    pulled = CliRunner().invoke(cli, ["image", "pull", url, "--name", "back"], catch_exceptions=False)
    assert f"back sha256:{digest} from oci://{registry}/labs/one:v1" in pulled.output
    assert store.names() == {"back": digest}


def test_without_login_it_says_how(registry: str, certificate: Certificate, environ: Environ, tmp_path: Path) -> None:
    env = environ(IMAGE_DOWNLOAD_URL=f"oci://{registry}/labs/one:v1", IMAGE_CA_FILE=str(certificate.ca))
    env["IMAGE_AUTH_FILE"] = str(tmp_path / "netrc")
    (tmp_path / "netrc").write_text("machine elsewhere.example login anna password word\n")
    with pytest.raises(DozlabError, match=r"401 Unauthorized; give credentials in a file, with IMAGE_AUTH_FILE"):
        fetch.base(from_env(env), lambda line: None, FAST)
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login anna password wrong\n")
    with pytest.raises(DozlabError, match="401 Unauthorized"):
        fetch.base(from_env(env), lambda line: None, FAST)


class Shelf:
    """A registry of fixed pages that gives out tokens: what docker-registry does not do alone."""

    def __init__(self, web: Web, image: bytes, folder: Path) -> None:
        self.web, self.host = web, web.url.removeprefix("http://")
        store = Store(folder / "origin")
        (folder / "a.ext4").write_bytes(image)
        digest = store.add_file(folder / "a.ext4", name="lab").digest
        made, _ = export.export(store, digest, folder / "lab.ext4.zst")
        packed = (folder / "lab.ext4.zst").read_bytes()
        about, blob = layers.layer(layers.MANIFEST, made.dump().encode()), layers.layer(layers.FILE, packed)
        self.url = f"oci://{self.host}/lab"
        challenge = f'Bearer realm="{web.url}/token",service="shelf",scope="repository:lab:pull"'
        self.page("/v2/", b"{}", challenge)
        self.told = {
            "config": {"mediaType": oci.OCI_CONFIG},
            "layers": [{"digest": self.put(data, challenge), "size": len(data)} for data in (about, blob)],
            "annotations": {oci.MARK: digest},
        }
        self.page("/v2/lab/manifests/latest", json.dumps(self.told).encode(), challenge)
        web.pages["/token?scope=repository%3Alab%3Apull&service=shelf"] = Page(
            b'{"token": "tok"}', need="Basic YW5uYTp3b3Jk"
        )

    def page(self, path: str, body: bytes, challenge: str) -> None:
        self.web.pages[path] = Page(body, need="Bearer tok", challenge=challenge, ranges=True)

    def put(self, data: bytes, challenge: str) -> str:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.page(f"/v2/lab/blobs/{digest}", data, challenge)
        return digest


@pytest.fixture
def shelf(web: Web, image: bytes, tmp_path: Path) -> Shelf:
    return Shelf(web, image, tmp_path)


def login(shelf: Shelf, folder: Path) -> str:
    return str(docker_config(folder / "docker", shelf.host))


def test_a_token_is_got_and_used(shelf: Shelf, image: bytes, environ: Environ, tmp_path: Path) -> None:
    env = environ(IMAGE_DOWNLOAD_URL=shelf.url, IMAGE_AUTH_FILE=login(shelf, tmp_path))
    base = fetch.base(from_env(env), lambda line: None, FAST)
    base.release()
    assert base.path.read_bytes() == image
    asked = [path for path, _ in shelf.web.seen if path.startswith("/token")]
    assert len(asked) == 1


def test_a_mounted_one_is_read_frame_by_frame(
    registry: str, certificate: Certificate, image: bytes, environ: Environ, tmp_path: Path
) -> None:
    """What was pushed, laid out as container runtimes lay out an image: layer over layer into one folder."""
    (tmp_path / "a.ext4").write_bytes(image)
    store = Store(tmp_path / "origin")
    store.add_file(tmp_path / "a.ext4", name="lab", packages={"git": "1:2"})
    made, _ = export.export(store, "lab", tmp_path / "lab.ext4.zst")
    login = docker_config(tmp_path / "docker", registry)
    client = Client(load(login, [], None), ca_file=certificate.ca, limits=FAST)
    try:
        oci.push(client, tmp_path / "lab.ext4.zst", made, f"oci://{registry}/labs/one:v1")
        there = oci.Registry(client, oci.parse(f"oci://{registry}/labs/one:v1"))
        told = there.manifest()
        config = json.loads(there.document(there.blob_url(told["config"]["digest"]), told["config"]["digest"], 1 << 20))
        assert config["rootfs"]["diff_ids"] == [layer["digest"] for layer in told["layers"]]
        for layer in told["layers"]:
            (tmp_path / "layer.tar").write_bytes(
                there.document(there.blob_url(layer["digest"]), layer["digest"], 1 << 24)
            )
            (tmp_path / "mounted").mkdir(exist_ok=True)
            subprocess.run(["tar", "-xf", "layer.tar", "-C", "mounted"], cwd=tmp_path, check=True)
    finally:
        client.close()
    assert sorted(path.name for path in (tmp_path / "mounted").iterdir()) == [layers.FILE, layers.MANIFEST]
    env = environ(IMAGE_DOWNLOAD_URL=f"file://{tmp_path}/mounted/{layers.FILE}")
    base = fetch.base(from_env(env), lambda line: None, FAST)
    base.release()
    assert base.path.read_bytes() == image
    stored = Store(Path(env["KERNELS_DIR"])).get(base.digest)
    assert stored and stored.packages == {"git": "1:2"}  # of the manifest beside it


def test_a_registry_that_gives_no_parts(shelf: Shelf, image: bytes, environ: Environ, tmp_path: Path) -> None:
    """Then all of it is fetched in one go, and what stands around the packed file is left out."""
    for page in shelf.web.pages.values():
        page.ranges = False
    env = environ(IMAGE_DOWNLOAD_URL=shelf.url, IMAGE_AUTH_FILE=login(shelf, tmp_path))
    base = fetch.base(from_env(env), lambda line: None, FAST)
    base.release()
    assert base.path.read_bytes() == image


def test_a_token_that_has_run_out_is_renewed(shelf: Shelf, image: bytes, environ: Environ, tmp_path: Path) -> None:
    client = Client(load(Path(login(shelf, tmp_path)), [shelf.url]), limits=FAST)
    try:
        _, source = oci.open_image(client, shelf.url)
        for page in shelf.web.pages.values():
            if page.need == "Bearer tok":
                page.need = "Bearer new"
            elif page.need:
                page.body = b'{"access_token": "new"}'
        assert len(b"".join(source.span(0, 1000))) == 1000
    finally:
        client.close()


def test_what_a_blob_is_redirected_to_gets_no_token(
    shelf: Shelf, image: bytes, environ: Environ, tmp_path: Path, web: Web
) -> None:
    digest = shelf.told["layers"][1]["digest"]  # type: ignore[index]
    path = f"/v2/lab/blobs/{digest}"
    other = Web()
    other.thread.start()
    try:
        other.pages["/storage"] = Page(web.pages[path].body, ranges=True)
        web.pages[path] = Page(status=307, headers={"Location": f"{other.url}/storage"}, need="Bearer tok")
        env = environ(IMAGE_DOWNLOAD_URL=shelf.url, IMAGE_AUTH_FILE=login(shelf, tmp_path))
        base = fetch.base(from_env(env), lambda line: None, FAST)
        base.release()
        assert base.path.read_bytes() == image
        assert other.seen and all("authorization" not in headers for _, headers in other.seen)
    finally:
        other.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"annotations": {}}, "is no base image, but application/vnd.oci.image.config.v1"),
        ({"layers": []}, "no manifest that is understood"),
        ({"annotations": None}, "no manifest that is understood"),
    ],
)
def test_what_is_no_image_of_ours(
    change: dict[str, object], words: str, shelf: Shelf, environ: Environ, tmp_path: Path
) -> None:
    shelf.web.pages["/v2/lab/manifests/latest"].body = json.dumps({**shelf.told, **change}).encode()
    env = environ(IMAGE_DOWNLOAD_URL=shelf.url, IMAGE_AUTH_FILE=login(shelf, tmp_path))
    with pytest.raises(DozlabError, match=words):
        fetch.base(from_env(env), lambda line: None, FAST)


def test_a_blob_that_is_another_is_refused(shelf: Shelf, environ: Environ, tmp_path: Path) -> None:
    about = shelf.told["layers"][0]["digest"]  # type: ignore[index]
    shelf.web.pages[f"/v2/lab/blobs/{about}"].body = b"{}"
    env = environ(IMAGE_DOWNLOAD_URL=shelf.url, IMAGE_AUTH_FILE=login(shelf, tmp_path))
    with pytest.raises(DozlabError, match="has not the digest"):
        fetch.base(from_env(env), lambda line: None, FAST)


def test_a_layer_is_a_tar_that_others_read(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(layers.layer(layers.FILE, b"x" * 700))
    listed = subprocess.run(["tar", "-tvf", "a.tar"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert listed.stdout.split()[0::5] == ["-rw-r--r--", layers.FILE] and not listed.stderr
    assert (tmp_path / "a.tar").stat().st_size == layers.length(700) == 512 + 1024 + 1024
    assert len(layers.head(layers.FILE, 9 << 30)) == layers.START  # no second header: the file begins where it does
    with pytest.raises(DozlabError, match=r"here holds no image\.json"):
        layers.read(layers.layer(layers.FILE, b""), layers.MANIFEST, where="here")


def test_a_node_finds_the_manifest_beside_the_mounted_file() -> None:
    assert manifest.name_for(layers.FILE) == layers.MANIFEST


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("oci://h/a", ("h", "a", "latest", "")),
        ("oci://H.example:5000/a/b_c:v1.2", ("h.example:5000", "a/b_c", "v1.2", "")),
        (f"oci://h/a:t@sha256:{'0' * 64}", ("h", "a", "t", f"sha256:{'0' * 64}")),
    ],
)
def test_addresses(url: str, wanted: tuple[str, ...]) -> None:
    found = oci.parse(url)
    assert (found.host, found.repository, found.tag, found.digest) == wanted
    assert found.wanted == (wanted[3] or wanted[2])


@pytest.mark.parametrize(
    "url", ["oci://h", "oci://h/", "oci://h/A", "oci://h/a:", "oci://h/a@sha256:1", "oci://h/../a"]
)
def test_bad_addresses(url: str) -> None:
    with pytest.raises(BadUsage, match="not the address of an image in a registry"):
        oci.parse(url)


def test_credentials_for_another_machine_never_go_in_the_clear() -> None:
    held = Credentials({"h.example": ("anna", "word")})
    with pytest.raises(DozlabError, match="in the clear"):
        held.header("http://h.example/a")
    assert held.header("https://h.example/a") == "Basic YW5uYTp3b3Jk"
    assert held.header("https://other.example/a") == ""
