"""A base image as it travels: its manifest, the frames, and the commands that export, check and collect."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from dozlab.cli.main import cli
from dozlab.images import export, manifest
from dozlab.images.store import Store
from dozlab.lib.errors import BadUsage, DozlabError
from dozlab.lib.proc import need, run
from dozlab.session.layout import Layout

SHA = "a" * 64


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An ext4 image of 5 MiB and a bit: two frames and a short one; noise at its end, zeros in between."""
    path = tmp_path_factory.mktemp("image") / "base.ext4"
    with path.open("wb") as file:
        file.truncate((5 << 20) + 8192)
    run([need("mke2fs", "e2fsprogs"), "-q", "-F", "-t", "ext4", path])
    return path.read_bytes()[:-5000] + random.Random(1).randbytes(5000)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image: bytes) -> Store:
    """The store of this user, with that image under the name `lab`."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    store = Store(tmp_path / "cache/dozlab/store")
    (tmp_path / "a.ext4").write_bytes(image)
    store.add_file(tmp_path / "a.ext4", name="lab", packages={"git": "1:2"})
    return store


def dozlab(*words: object) -> Result:
    return CliRunner().invoke(cli, ["image", *map(str, words)], catch_exceptions=True)


def test_what_is_exported_is_what_any_zstd_unpacks(store: Store, image: bytes, tmp_path: Path) -> None:
    target = tmp_path / "out" / "lab.ext4.zst"
    target.parent.mkdir()
    (target.parent / "lab.json").write_text("of an old one")
    told = dozlab("export", "lab", target).output
    unpacked = subprocess.run([need("zstd", "zstd"), "-dc", target], check=True, capture_output=True).stdout
    assert unpacked == image
    found = manifest.parse((target.parent / "lab.json").read_bytes(), where="lab.json")
    assert (found.sha256, found.size, found.name) == (hashlib.sha256(image).hexdigest(), len(image), "lab")
    assert (found.packages, found.file, found.length) == ({"git": "1:2"}, "lab.ext4.zst", target.stat().st_size)
    assert found.fs_size <= found.size
    assert found.sha256 in told
    packed = target.read_bytes()
    for frame in found.frames:
        data = packed[frame.offset : frame.offset + frame.length]
        assert hashlib.sha256(data).hexdigest() == frame.sha256
        alone = subprocess.run(["zstd", "-dc"], input=data, check=True, capture_output=True).stdout
        assert alone == image[frame.at : frame.at + frame.size]
    assert len(found.frames) == 3
    assert sorted(path.name for path in target.parent.iterdir()) == ["lab.ext4.zst", "lab.json", "lab.spdx.json"]


def test_what_cannot_be_exported_leaves_nothing(store: Store, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(BadUsage, match=r"called NAME.ext4.zst"):
        export.export(store, "lab", out / "lab.img")
    with pytest.raises(DozlabError, match="no image none"):
        export.export(store, "none", out / "lab.ext4.zst")
    with pytest.raises(DozlabError, match="cannot write to"):
        export.export(store, "lab", out / "nowhere" / "lab.ext4.zst")
    path = store.path(store.names()["lab"])
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(-10, 2)
        file.write(b"x")
    with pytest.raises(DozlabError, match="is damaged: its sha256 is"):
        export.export(store, "lab", out / "lab.ext4.zst")
    assert list(out.iterdir()) == []


def made() -> manifest.ImageManifest:
    frames = manifest.frames_of(10_000, 4096, [(5, SHA), (6, SHA), (7, SHA)])
    return manifest.ImageManifest(
        SHA, 10_000, 8192, frames, 4096, "lab", {"git": "1"}, ("vxlan",), 2, 2048, "lab.ext4.zst"
    )  # fmt: skip


def test_a_manifest_says_the_same_after_a_round_trip() -> None:
    assert manifest.parse(made().dump(), where="x") == made()
    assert made().frames[-1] == manifest.Frame(11, 7, SHA, 8192, 10_000 - 8192)


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("format",), 2),
        (("sha256",), "x"),
        (("size",), 0),
        (("size",), 1 << 60),
        (("fs_size",), 20_000),
        (("packed", "frame_size"), 1 << 30),
        (("packed", "frames"), [[5, SHA]]),
        (("packed", "frames"), [[5, SHA], [6, SHA], [70_000, SHA]]),
        (("packed", "frames"), [[5, SHA], [6, SHA], [-7, SHA]]),
        (("packed", "frames"), [[5, SHA], [6, SHA], [7, "x"]]),
        (("packed", "frames"), 5),
        (("packed", "size"), 19),
        (("packed",), None),
        (("packages",), 5),
    ],
)
def test_a_manifest_is_not_believed(where: tuple[str, ...], value: object) -> None:
    raw: Any = json.loads(made().dump())
    place = raw
    for name in where[:-1]:
        place = place[name]
    place[where[-1]] = value
    with pytest.raises(DozlabError, match="x is no manifest of a base image"):
        manifest.parse(json.dumps(raw), where="x")


@pytest.mark.parametrize("text", ["", "[]", "<html>", "{}", "5"])
def test_other_texts_are_no_manifest(text: str) -> None:
    with pytest.raises(DozlabError, match="no manifest"):
        manifest.parse(text, where="x")


@pytest.mark.parametrize(
    ("packed", "beside"),
    [("a/lab.ext4.zst", "a/lab.json"), ("lab.zst", "lab.json"), ("lab.ext4", ""), (".zst", ""), ("a/.zst", "")],
)
def test_where_a_manifest_lies(packed: str, beside: str) -> None:
    assert manifest.name_for(packed) == beside


def test_verify_says_which_is_damaged(store: Store) -> None:
    assert dozlab("verify").output.startswith("lab ")
    assert dozlab("verify", "--full").exit_code == 0
    path = store.path(store.names()["lab"])
    path.chmod(0o644)
    path.write_bytes(b"short")
    told = dozlab("verify", "lab")
    assert "it has 5 bytes instead of" in told.output
    assert str(told.exception).startswith("1 of 1 images are damaged; remove them")


def test_gc_keeps_names_and_what_sessions_need(store: Store, tmp_path: Path) -> None:
    (tmp_path / "b.ext4").write_bytes(b"other")
    other, lab = store.add_file(tmp_path / "b.ext4").digest, store.names()["lab"]
    for digest in (other, lab):
        store.taken(digest)
        then = time.time() - 40 * 86400
        os.utime(store.root / "sha256" / digest / "used", (then, then))
    disk = Layout("one").vm_data / "disk"
    disk.mkdir(parents=True)
    needs = disk / "base.json"  # of a session that is stopped
    needs.write_text(json.dumps({"digest": other}))
    assert dozlab("gc").output == "0 B freed\n"
    needs.write_text(json.dumps({"digest": lab}))
    tried = dozlab("gc", "--dry-run").output
    assert other[:12] in tried and "would be freed" in tried and "lab" not in tried
    assert store.get(other)
    assert other[:12] in dozlab("gc").output
    assert store.get(other) is None
    assert "lab" not in dozlab("gc", "--max-size", "1", "--all").output
    needs.unlink()
    assert "lab" not in dozlab("gc", "--max-size", "1").output
    assert "lab" in dozlab("gc", "--max-size", "1", "--all").output
    assert store.names() == {}


@pytest.mark.parametrize("words", [("--older-than", "soon"), ("--max-size", "big")])
def test_bad_limits_change_nothing(words: tuple[str, str], store: Store) -> None:
    assert dozlab("gc", "--all", *words).exit_code == 2
    assert store.names()


def test_pull_takes_a_file_and_refuses_passwords(store: Store, image: bytes, tmp_path: Path) -> None:
    dozlab("export", "lab", tmp_path / "lab.ext4.zst")
    store.rm("lab")
    told = dozlab("pull", tmp_path / "lab.ext4.zst", "--name", "again")
    assert f"again sha256:{hashlib.sha256(image).hexdigest()}" in told.output
    assert isinstance(dozlab("pull", "https://anna:geheim@h.example/i").exception, BadUsage)
    assert isinstance(dozlab("pull", "https://h.example/i", "--sha256", "12").exception, BadUsage)
