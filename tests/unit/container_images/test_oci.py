"""OCI archives: the name every tool reads, layers laid out with their whiteouts, and the search for hosts."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

import pytest
from tools.images_check import leaks, private_hosts
from tools.images_oci import Archive, name_in_index, pack

from dozlab.lib.errors import DozlabError

REFERENCE = "registry.example:5000/lab/dozlab:1.2.3"


def layer(*entries: tuple[str, bytes | None]) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for name, data in entries:
            info = tarfile.TarInfo(name)
            info.uid, info.gid = os.getuid(), os.getgid()
            if data is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
            else:
                info.size = len(data)
            tar.addfile(info, io.BytesIO(data or b""))
    return gzip.compress(raw.getvalue())


def archive(tmp_path: Path, *layers: bytes) -> Path:
    blobs = tmp_path / "layout/blobs/sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes, kind: str) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(data)}

    history = [{"created_by": f"step {n}"} for n in range(len(layers))]
    config = {"config": {"User": "1000:1000"}, "history": [*history, {"created_by": "USER", "empty_layer": True}]}
    manifest = {
        "config": put(json.dumps(config).encode(), "config.v1+json"),
        "layers": [put(each, "layer.v1.tar+gzip") for each in layers],
    }
    index = {"schemaVersion": 2, "manifests": [put(json.dumps(manifest).encode(), "manifest.v1+json")]}
    (tmp_path / "layout/index.json").write_text(json.dumps(index))
    pack(tmp_path / "layout", tmp_path / "image.tar", REFERENCE)
    return tmp_path / "image.tar"


def test_the_name_is_the_same_for_containerd_and_for_the_rest(tmp_path: Path) -> None:
    path = archive(tmp_path, layer(("a", b"1")))
    with tarfile.open(path) as tar:
        file = tar.extractfile("index.json")
        assert file
        (entry,) = json.load(file)["manifests"]
    assert entry["annotations"] == {
        "org.opencontainers.image.ref.name": REFERENCE,
        "io.containerd.image.name": REFERENCE,
    }
    with Archive(path) as image:
        assert image.reference == REFERENCE
        assert [each.made_by for each in image.layers()] == ["step 0"]
        assert image.size == image.layers()[0].size


@pytest.mark.parametrize("count", [0, 2])
def test_a_layout_of_another_number_of_images_is_refused(count: int) -> None:
    with pytest.raises(DozlabError, match="not one"):
        name_in_index({"manifests": [{}] * count}, REFERENCE)


def test_unpack_follows_whiteouts_and_replacements(tmp_path: Path) -> None:
    path = archive(
        tmp_path,
        layer(("d", None), ("d/gone", b"1"), ("d/kept", b"1"), ("o", None), ("o/old", b"1"), ("f", b"1")),
        layer(("d/.wh.gone", b""), ("o/.wh..wh..opq", b""), ("o/new", b"2"), ("f", None), ("f/inside", b"2")),
    )
    with Archive(path) as image:
        image.unpack(tmp_path / "root")
    found = {str(each.relative_to(tmp_path / "root")) for each in (tmp_path / "root").rglob("*")}
    assert found == {"d", "d/kept", "o", "o/new", "f", "f/inside"}


def test_leaks_finds_hosts_in_any_layer_and_across_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.images_check._CHUNK", 7)
    path = archive(tmp_path, layer(("a", b"nothing")), layer(("b", b"x" * 999 + b"http://mirror.corp.example/debian")))
    (found,) = leaks(path, ["mirror.corp.example", "absent.example"])
    assert found.endswith(": mirror.corp.example")
    assert leaks(path, ["absent.example"]) == []
    assert leaks(path, ["registry.example"]) == ["manifest: registry.example"]


def test_private_hosts() -> None:
    texts = [
        "index-url = https://user:word@pip.corp.example:8443/simple",
        'Acquire::http::Proxy "http://proxy.corp.example:3128";',
        "https://www.debian.org/ https://github.com/dozlab http://localhost:5000 http://[broken",
        "GOPROXY=https://go.dev,https://go.corp.example|direct",
    ]
    assert private_hosts(texts, "builder-7") == {
        "pip.corp.example", "proxy.corp.example", "go.corp.example", "builder-7",
    }  # fmt: skip
    assert private_hosts([], "vm") == set()
