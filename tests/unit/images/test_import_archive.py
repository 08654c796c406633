"""What lies in a source: told apart, found, and refused where it is not for a machine."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from dozlab.images.importing import archive, documents
from dozlab.images.importing.archive import Contents
from dozlab.lib.errors import BadUsage, DozlabError
from dozlab.lib.units import MIB
from tests.unit.images.crafted import AMD64, OCI, Layout, digest, docker_archive, file, folder, tar

LAYERS = (tar(file("etc/a", "one")), tar(file("etc/b", "two")))
PACKERS: list[Callable[[bytes], bytes]] = [gzip.compress, bz2.compress, lzma.compress, zstandard.compress]


def read(data: bytes | Path, tmp_path: Path) -> Contents:
    if isinstance(data, bytes):
        (tmp_path / "source").write_bytes(data)
        data = tmp_path / "source"
    return archive.read(data, tmp_path / "spool", 2 * MIB)


def stored(contents: Contents) -> list[bytes]:
    found = []
    for layer in contents.layers:
        with open(layer.path, "rb") as opened:
            opened.seek(layer.offset)
            found.append(opened.read(layer.size))
    return found


def test_an_oci_layout_in_a_folder_and_in_an_archive(tmp_path: Path) -> None:
    made = Layout(*LAYERS, env=["A=b"])
    for source in (made.write(tmp_path / "layout"), made.archive()):
        contents = read(source, tmp_path)
        assert contents.kind == "container image" and contents.environment == ("A=b",)
        assert stored(contents) == list(LAYERS)
        assert [(each.digest, each.diff_id) for each in contents.layers] == [(digest(x), digest(x)) for x in LAYERS]
        assert all(each.whiteouts for each in contents.layers)


@pytest.mark.parametrize("pack", PACKERS)
def test_an_archive_may_be_packed_as_a_whole(pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    assert stored(read(pack(docker_archive(*LAYERS)), tmp_path)) == list(LAYERS)
    contents = read(pack(tar(folder("./usr"), file("./usr/a"))), tmp_path)
    assert contents.kind == "root file system" and not contents.layers[0].whiteouts


def test_what_docker_save_writes(tmp_path: Path) -> None:
    contents = read(docker_archive(LAYERS[0], LAYERS[1], LAYERS[0], env=["A=b"]), tmp_path)
    assert stored(contents) == [LAYERS[0], LAYERS[1], LAYERS[0]] and contents.environment == ("A=b",)
    assert [each.diff_id for each in contents.layers] == [digest(x) for x in (LAYERS[0], LAYERS[1], LAYERS[0])]


def test_what_docker_save_writes_since_25_is_read_as_an_oci_layout(tmp_path: Path) -> None:
    made = Layout(LAYERS[0])
    made.files["manifest.json"] = b"[]"
    assert stored(read(made.archive(), tmp_path)) == [LAYERS[0]]


def test_of_an_index_the_machines_platform_is_taken(tmp_path: Path) -> None:
    made = Layout(LAYERS[0])
    kind = "application/vnd.oci.image.manifest.v1+json"
    other = {
        "digest": digest(b"arm"),
        "size": 3,
        "mediaType": kind,
        "platform": {"os": "linux", "architecture": "arm64"},
    }
    proof = {**other, "platform": {"os": "unknown", "architecture": "unknown"}}
    newer = {**other, "digest": digest(b"v3"), "platform": {**AMD64, "variant": "v3"}}
    inner = made.put(json.dumps({"manifests": [other, newer, proof, {**made.told, "platform": AMD64}]}).encode())
    made.index(inner)
    assert stored(read(made.archive(), tmp_path)) == [LAYERS[0]]
    made.index(other, proof)
    with pytest.raises(DozlabError, match="nothing for linux/amd64, only for linux/arm64"):
        read(made.archive(), tmp_path)


def test_one_image_under_two_tags_is_one_and_two_images_are_refused(tmp_path: Path) -> None:
    made = Layout(LAYERS[0])
    made.index(made.told, {**made.told, "annotations": {"org.opencontainers.image.ref.name": "b"}})
    assert stored(read(made.archive(), tmp_path)) == [LAYERS[0]]
    made.index(made.told, made.put(b"{}"))
    with pytest.raises(DozlabError, match="holds 2 images; make an archive of one of them"):
        read(made.archive(), tmp_path)


def without(name: str) -> Callable[[Layout], object]:
    return lambda made: made.files.pop(name)


def replaced(blob: dict[str, Any], data: bytes) -> dict[str, bytes]:
    return {f"blobs/{blob['digest'].replace(':', '/')}": data}


def other_config(made: Layout, **change: Any) -> None:
    config = {**AMD64, "rootfs": {"diff_ids": [digest(LAYERS[0])]}, **change}
    made.finish(config=made.put(json.dumps(config).encode()) | {"mediaType": documents.OCI_CONFIG})


def other_layer(made: Layout, **change: Any) -> None:
    made.finish(layers=[{**made.packed[0], **change}])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (without("oci-layout"), "neither a container image nor a system"),
        (lambda made: made.files.update({"index.json": b"["}), "a document that is not understood"),
        (lambda made: made.files.update({"index.json": b"[]"}), "a document that is not understood"),
        (lambda made: made.index({"digest": "sha256:../../x", "size": 1}), "a document that is not understood"),
        (lambda made: made.index({"digest": digest(b"x"), "size": 1}), "lacks blobs/sha256/"),
        (lambda made: made.index(), "has nothing for linux/amd64"),
        (lambda made: made.files.update(replaced(made.told, b"{}")), "instead of"),
        (lambda made: made.files.update(replaced(made.told, bytes(made.told["size"]))), "has another digest"),
        (lambda made: made.files.update(replaced(made.config, b"{}")), "instead of"),
        (lambda made: made.finish(artifactType="application/x"), "is no container image, but application/x"),
        (lambda made: made.finish(config={**made.config, "mediaType": "application/y"}), "but application/y"),
        (lambda made: made.finish(layers=5), "a document that is not understood"),
        (lambda made: other_layer(made, mediaType=f"{OCI}.layer.v1.tar+encrypted"), "cannot be unpacked"),
        (lambda made: other_layer(made, size=3), "instead of 3 B"),
        (lambda made: other_config(made, architecture="arm64"), "is for linux/arm64; a machine is linux/amd64"),
        (lambda made: other_config(made, os="windows"), "is for windows/amd64"),
        (lambda made: other_config(made, rootfs={"diff_ids": []}), "does not match its own configuration"),
        (lambda made: other_config(made, rootfs=1), "a document that is not understood"),
    ],
)  # fmt: skip
def test_a_layout_that_is_not_in_order(spoil: Callable[[Layout], object], words: str, tmp_path: Path) -> None:
    made = Layout(LAYERS[0])
    spoil(made)
    with pytest.raises(DozlabError, match=words):
        read(made.archive(), tmp_path)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ([], "holds 0 images"),
        ([{"Config": "c.json"}] * 2, "holds 2 images; save one of them"),
        ([{"Config": "c.json", "Layers": ["x/layer.tar"]}], "lacks x/layer.tar"),
        ([{"Config": "../../etc/passwd", "Layers": []}], "lacks ../../etc/passwd"),
        ([{"Config": "/etc/passwd", "Layers": []}], "lacks /etc/passwd"),
        ([{"Config": "c.json", "Layers": []}], "does not match its own configuration"),
        ([{"Layers": []}], "is not understood"),
    ],
)
def test_a_docker_archive_that_is_not_in_order(told: list[Any], words: str, tmp_path: Path) -> None:
    config = json.dumps({**AMD64, "rootfs": {"diff_ids": [digest(b"")]}})
    with pytest.raises(DozlabError, match=words):
        read(tar(file("c.json", config), file("manifest.json", json.dumps(told))), tmp_path)


def test_a_link_in_a_layouts_folder_is_not_followed(tmp_path: Path) -> None:
    made = Layout(LAYERS[0])
    root = made.write(tmp_path / "layout")
    blob = root / "blobs" / made.packed[0]["digest"].replace(":", "/")
    blob.rename(tmp_path / "elsewhere")
    blob.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DozlabError, match="lacks blobs/sha256/"):
        read(root, tmp_path)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is no tar archive"),
        (b"#!/bin/sh\n" * 200, "is no tar archive"),
        (tar(file("readme", "x")), r"neither a container image's archive .* \(it begins with 'readme'\)"),
        (bytes(1024), "begins with 'no file'"),
        (bytes(1080) + b"\x53\xef" + bytes(3000), "is a base image already; take it with: dozlab image pull"),
    ],
)
def test_what_is_nothing_of_the_kind(data: bytes, words: str, tmp_path: Path) -> None:
    with pytest.raises(BadUsage, match=words):
        read(data, tmp_path)


def test_a_folder_that_is_no_layout(tmp_path: Path) -> None:
    with pytest.raises(BadUsage, match=r"has neither index.json nor manifest.json; .* or --dockerfile"):
        read(tmp_path, tmp_path)


def test_a_source_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadUsage, match=r"cannot read .*: No such file"):
        read(tmp_path / "none", tmp_path)


@pytest.mark.parametrize("pack", PACKERS)
def test_an_archive_may_not_unpack_without_end(pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    with pytest.raises(DozlabError, match=r"unpacks to more than 2\.0 MiB; raise --size-limit"):
        read(pack(tar(file("usr/a", bytes(3 * MIB)))), tmp_path)


@pytest.mark.parametrize("pack", PACKERS)
def test_a_packed_archive_that_is_damaged(pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    packed = pack(tar(file("usr/a", bytes(range(256)) * 400)))
    for half in (packed[: len(packed) // 2], packed[:-30], packed[: len(packed) // 2] + bytes(len(packed))):
        with pytest.raises(DozlabError, match="the archive is damaged"):
            read(half, tmp_path)


def test_the_top_of_a_root_file_system_is_told_from_documents_of_the_same_name(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as made:
        for name in ("./", "./opt", "./manifest.json"):
            made.addfile(tarfile.TarInfo(name))
    assert read(out.getvalue(), tmp_path).kind == "root file system"
