"""The image store: whole entries or none, names, digests, URLs, crashes."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from dozlab.images.store import Store, UrlRecord, copy_sparse, sha256_file
from dozlab.lib.errors import DozlabError
from dozlab.lib.units import MIB


def put(store: Store, tmp_path: Path, data: bytes = b"image", name: str = "") -> str:
    source = tmp_path / "source"
    source.write_bytes(data)
    return store.add_file(source, name=name, packages={"git": "1:2"}).digest


def test_an_image_is_found_by_name_digest_and_first_digits(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    digest = put(store, tmp_path, name="base")
    assert digest == hashlib.sha256(b"image").hexdigest()
    for ref in ("base", digest, f"sha256:{digest}", digest[:8]):
        found = store.resolve(ref)
        assert found and found.digest == digest and found.packages == {"git": "1:2"} and found.size == 5
    assert store.path(digest).read_bytes() == b"image"
    assert [entry.digest for entry in store.ls()] == [digest]
    assert store.names() == {"base": digest}
    assert list((store.root / "tmp").iterdir()) == []


def test_nothing_is_found_in_an_empty_store_and_nothing_is_made(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    assert store.ls() == [] and store.resolve("base") is None and store.get("0" * 64) is None
    assert store.lookup_url("http://x/") is None
    assert not store.root.exists()
    with pytest.raises(DozlabError, match="no image base"):
        store.inspect("base")


def test_the_same_image_twice_is_kept_once_and_a_name_moves(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    first = put(store, tmp_path, name="base")
    inode = store.path(first).stat().st_ino
    assert put(store, tmp_path, name="other") == first
    assert store.path(first).stat().st_ino == inode
    second = put(store, tmp_path, b"newer", name="base")
    assert store.names() == {"base": second, "other": first}


def test_begin_leaves_nothing_when_the_writer_fails(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with pytest.raises(ZeroDivisionError), store.begin() as temp:
        temp.write_bytes(b"half")
        raise ZeroDivisionError
    assert list((store.root / "tmp").iterdir()) == [] and store.ls() == []


def test_what_a_crash_left_is_swept_but_not_what_somebody_writes(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with store.begin() as ours:
        os.utime(ours, (0, 0))
        left = store.root / "tmp/image.dead"
        left.write_bytes(b"x")
        os.utime(left, (0, 0))
        (store.root / "tmp/entry.dead").mkdir()
        with store.begin() as second:
            assert ours.exists() and second.exists() and not left.exists()
            assert not (store.root / "tmp/entry.dead").exists()


def test_an_entry_without_its_manifest_is_no_entry_and_is_replaced(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    digest = put(store, tmp_path)
    (store.root / "sha256" / digest / "manifest.json").unlink()
    assert store.get(digest) is None
    put(store, tmp_path)
    assert store.get(digest) is not None


def test_rm_takes_names_and_urls_along_and_asks_first(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    digest = put(store, tmp_path, name="base")
    store.remember_url(UrlRecord("http://x/i", digest, etag='"1"', length=5))
    with pytest.raises(DozlabError, match="in use by session one"):
        store.rm("base", in_use=lambda which: "session one" if which == digest else "")
    assert store.rm("base").digest == digest
    assert store.ls() == [] and store.names() == {} and store.lookup_url("http://x/i") is None
    assert not (store.root / "sha256" / digest).exists() and list((store.root / "urls").iterdir()) == []


def test_a_url_is_remembered_only_as_long_as_its_image(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    record = UrlRecord("http://x/i", put(store, tmp_path), etag='"1"', last_modified="yesterday", length=5)
    store.remember_url(record)
    assert store.lookup_url("http://x/i") == record
    assert store.lookup_url("http://x/other") is None


@pytest.mark.parametrize("name", ["", "..", "a/b", "UPPER", "deadbeef", "a" * 64])
def test_bad_names(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path / "store")
    digest = put(store, tmp_path)
    if name:
        with pytest.raises(DozlabError, match="not a name"):
            store.name(name, digest)
    assert store.by_name(name) is None


def test_commit_refuses_what_is_no_digest(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with store.begin() as temp, pytest.raises(DozlabError, match="not a sha256"):
        store.commit(temp, "../../etc")


def test_copies_are_sparse_and_whole(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_bytes(b"x" + bytes(8 * MIB) + b"y" + bytes(3 * MIB))
    target.touch()
    assert copy_sparse(source, target) == sha256_file(source) == sha256_file(target)
    assert target.stat().st_size == source.stat().st_size
    assert target.stat().st_blocks * 512 < 4 * MIB


def test_created_is_now(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    before = time.time() - 1
    found = store.get(put(store, tmp_path))
    assert found and before < found.created < time.time() + 1
