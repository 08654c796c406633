"""What a release holds of a base image: what `dozlab image export` writes, packed once."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from tools import release

import dozlab
from dozlab.images import manifest
from dozlab.images.store import Store
from dozlab.init_rootfs import fetch
from dozlab.lib.proc import need, run


def put(store: Store, folder: Path, size: str) -> str:
    """Put an image of that size into the store, by the name of lab."""
    path = folder / "lab.ext4"
    path.unlink(missing_ok=True)
    run([need("mke2fs", "e2fsprogs"), "-q", "-F", "-t", "ext4", path, size])
    return store.add_file(path, name="lab", packages={"git": "1:2"}).digest


@pytest.fixture
def dist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store = Store(tmp_path / "cache/dozlab/store")
    monkeypatch.setattr("dozlab.images.build.build", lambda name, **_: store.inspect(name))
    (tmp_path / "dist").mkdir()
    return tmp_path / "dist"


def test_a_base_image_comes_in_frames_with_manifest_and_contents(dist: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "cache/dozlab/store")
    digest = put(store, tmp_path, "8M")
    release.release_base(dist, "lab")
    target = dist / f"lab-{dozlab.__version__}.ext4.zst"
    told = manifest.parse((dist / f"lab-{dozlab.__version__}.json").read_bytes(), where="lab.json")
    assert (told.sha256, told.file, told.packages) == (digest, target.name, {"git": "1:2"})
    assert len(told.frames) == 4 and told.length == target.stat().st_size
    # Whoever has the two files has the image, and SHA256SUMS speaks of both.
    base = fetch.get(Store(tmp_path / "other"), fetch.Wanted((str(target),)), lambda line: None)
    base.release()
    assert base.digest == digest
    release.write_sums(dist)
    lines = (dist / "SHA256SUMS").read_text().splitlines()
    assert f"{hashlib.sha256(target.read_bytes()).hexdigest()}  {target.name}" in lines
    assert len(lines) == len(list(dist.iterdir())) - 1 == 3
    listed = json.loads((dist / f"lab-{dozlab.__version__}.spdx.json").read_text())
    assert listed["spdxVersion"] == "SPDX-2.3"
    assert "git" in [each["name"] for each in listed["packages"]]


def test_it_is_packed_once_and_an_older_one_goes(dist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, cache = Store(tmp_path / "cache/dozlab/store"), tmp_path / "cache/dozlab/images/packed"
    put(store, tmp_path, "8M")
    (cache / f"lab-k8s-{'0' * 64}-1").mkdir(parents=True)  # of an image whose name begins alike
    release.release_base(dist, "lab")
    (first,) = cache.glob("lab-[!k]*")
    for path in dist.iterdir():
        path.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(release, "export", None)
        release.release_base(dist, "lab")
    assert sorted(os.listdir(dist)) == sorted(os.listdir(first))
    for path in dist.iterdir():
        path.unlink()
    put(store, tmp_path, "9M")
    release.release_base(dist, "lab")
    assert not first.exists()
    assert len(list(cache.iterdir())) == 2
