"""OCI archives: laid out as the specification says, the same bytes for the same input."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from tools.cluster import cluster, oci
from tools.cluster.oci import Entry

from dozlab.lib.errors import DozlabError


def _read(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        files = {member.name: tar.extractfile(member) for member in tar.getmembers() if member.isfile()}
        return {name: file.read() for name, file in files.items() if file}


def _blob(files: dict[str, bytes], descriptor: dict[str, Any]) -> bytes:
    data = files[f"blobs/{descriptor['digest'].replace(':', '/')}"]
    assert len(data) == descriptor["size"]
    assert f"sha256:{hashlib.sha256(data).hexdigest()}" == descriptor["digest"]
    return data


def test_archive_holds_what_was_put_in() -> None:
    entries = {"bin/thing": Entry(b"x"), "bin/same": Entry(link="thing"), "tmp": Entry(mode=0o1777)}
    files = _read(oci.archive("localhost/a:1", entries, entrypoint=["/bin/thing"], env={"A": "b"}, user="1000"))
    assert json.loads(files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    [top] = json.loads(files["index.json"])["manifests"]
    assert top["annotations"]["io.containerd.image.name"] == "localhost/a:1"
    manifest = json.loads(_blob(files, top))
    image = json.loads(_blob(files, manifest["config"]))
    assert image["config"] == {"Entrypoint": ["/bin/thing"], "Env": ["A=b"], "User": "1000"}
    [descriptor] = manifest["layers"]
    layer = _blob(files, descriptor)
    assert image["rootfs"]["diff_ids"] == [descriptor["digest"]]
    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        assert tar.getnames() == ["bin", "bin/same", "bin/thing", "tmp"]
        assert tar.getmember("bin/same").linkname == "thing"
        assert tar.getmember("tmp").mode == 0o1777


def test_same_input_same_bytes() -> None:
    assert oci.layer({"b": Entry(b"1"), "a": Entry(b"2")}) == oci.layer({"a": Entry(b"2"), "b": Entry(b"1")})


def test_folder_becomes_entries(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d").chmod(0o750)
    (tmp_path / "d/f").write_bytes(b"x")
    (tmp_path / "d/f").chmod(0o640)
    (tmp_path / "l").symlink_to("d/f")
    assert oci.folder_entries(tmp_path) == {
        "d": Entry(mode=0o750), "d/f": Entry(b"x", mode=0o640), "l": Entry(link="d/f", mode=0o777),
    }  # fmt: skip


def test_names_of_an_archive(tmp_path: Path) -> None:
    file = tmp_path / "a.tar"
    file.write_bytes(oci.archive("localhost/a:1", {}))
    assert cluster.archive_names(file) == ["localhost/a:1"]
    saved = json.dumps([{"RepoTags": ["x/y:2", "x/z:3"]}]).encode()
    file.write_bytes(oci.layer({"manifest.json": Entry(saved)}))
    assert cluster.archive_names(file) == ["x/y:2", "x/z:3"]
    file.write_bytes(b"no tar")
    with pytest.raises(DozlabError, match="no image archive"):
        cluster.archive_names(file)
