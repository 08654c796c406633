"""The image store: whole entries or none, names, digests, URLs, crashes."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dozlab.images import gc
from dozlab.images.store import Manifest, Store, UrlRecord, copy_sparse, sha256_file
from dozlab.lib.errors import DozlabError, TransientError
from dozlab.lib.units import MIB
from dozlab.session import image_choice


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


# -- in use, damaged, killed


def nobody(digest: str) -> str:
    return ""


def test_what_somebody_holds_is_not_removed(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    digest = put(store, tmp_path, name="base")
    fd = store.hold(digest)
    assert fd is not None
    try:
        with pytest.raises(DozlabError, match="in use by a session that has it open"):
            store.rm("base")
        assert store.names() == {"base": digest}
    finally:
        os.close(fd)
    store.rm("base")
    assert store.hold(digest) is None
    assert store.hold("../x") is None


def test_a_removed_image_that_comes_back_has_its_names_again(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    digest = put(store, tmp_path, name="base")
    store.discard(digest)
    assert store.names() == {} and store.ls() == []
    put(store, tmp_path)
    assert store.names() == {"base": digest}


def damage(path: Path, *, keep_time: bool = False) -> None:
    stat = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(b"I")
    if keep_time:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_the_cheap_check_sees_what_was_written_and_the_full_one_all(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    digest = put(store, tmp_path)
    assert store.check(digest) == store.check(digest, full=True) == ""
    damage(store.path(digest), keep_time=True)
    assert store.check(digest) == ""
    assert "its sha256 is" in store.check(digest, full=True)
    os.utime(store.path(digest))
    assert "its sha256 is" in store.check(digest)
    os.truncate(store.path(digest), 3)
    assert store.check(digest) == "it has 3 bytes instead of 5"
    assert store.check("0" * 64) == "it has no image or no manifest"


def test_a_good_image_with_another_time_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "store")
    digest = put(store, tmp_path)
    os.utime(store.path(digest), (5, 5))
    assert store.check(digest) == ""
    monkeypatch.setattr("dozlab.images.store.sha256_file", lambda path: "read again")
    assert store.check(digest) == ""


def test_a_damaged_manifest_is_no_entry_and_is_replaced(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    digest = put(store, tmp_path, name="base")
    for path in (store.root / "sha256" / digest / "manifest.json", store.root / "names/base.json"):
        path.write_text('{"digest": ')
    assert store.get(digest) is None and store.names() == {} and store.ls() == []
    put(store, tmp_path, name="base")
    assert store.names() == {"base": digest}


# -- gc


def candidate(age: float, size: int = 10, name: str = "", user: str = "") -> gc.Candidate:
    digest = hashlib.sha256(f"{age}{size}{name}".encode()).hexdigest()
    return gc.Candidate(Manifest(digest, size), 1e6 - age, size, (name,) if name else (), user)


def ages(found: list[gc.Candidate]) -> list[float]:
    return [1e6 - each.used for each in found]


def test_what_goes_by_age_and_size() -> None:
    there = [
        candidate(60), candidate(5000), candidate(9000), candidate(7000, user="lab"), candidate(8000, name="base"),
    ]  # fmt: skip

    def go(older: float | None, size: int | None, named: bool = False) -> list[float]:
        return ages(gc.choose(there, now=1e6, older_than=older, max_size=size, named=named))

    assert go(6000, None) == [9000]
    assert go(6000, None, named=True) == [9000, 8000]
    assert go(None, 40) == [9000]
    assert go(None, 30) == [9000, 5000]
    assert go(None, 0, named=True) == [9000, 8000, 5000]  # not the one in use, nor the one just used
    assert go(4000, 30) == [9000, 5000]
    assert go(0, None) == [9000, 5000]
    assert go(None, None) == []


def old(store: Store, digest: str, seconds: float = 9e6) -> None:
    store.taken(digest)
    then = time.time() - seconds
    os.utime(store.root / "sha256" / digest / "used", (then, then))


def test_gc_removes_old_images_and_unfinished_downloads(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    unused, fresh, needed = (put(store, tmp_path, data) for data in (b"one", b"two", b"three"))
    named = put(store, tmp_path, b"four", name="base")
    for digest in (unused, needed, named):
        old(store, digest)
    with pytest.raises(DozlabError), store.partial("key") as partial:
        partial.clear()
        partial.resumable = True
        raise TransientError("cut")
    for path in (*(store.root / "tmp/part.key").iterdir(), store.root / "tmp/part.key"):
        os.utime(path, (5, 5))

    def in_use(digest: str) -> str:
        return "lab" if digest == needed else ""

    tried = gc.collect(store, in_use=in_use, older_than=100, dry_run=True)
    assert [each.image.digest for each in tried.gone] == [unused]
    assert store.get(unused)
    done = gc.collect(store, in_use=in_use, older_than=100)
    assert [each.image.digest for each in done.gone] == [unused]
    assert {each.digest for each in store.ls()} == {fresh, needed, named}
    assert os.listdir(store.root / "tmp") == []
    gc.collect(store, in_use=nobody, older_than=100, named=True)
    assert [each.digest for each in store.ls()] == [fresh]


@pytest.mark.parametrize("clock", [0.0, -300.0, 300.0])
def test_gc_spares_what_a_session_chooses_meanwhile(
    clock: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the clock of the file system says of that moment: another one than before is enough."""
    store = Store(tmp_path / "store")
    digest = put(store, tmp_path, name="base")
    old(store, digest)
    whole = gc.candidates

    def chosen_then(*args: Any) -> list[gc.Candidate]:
        found = whole(*args)
        assert image_choice.choose("base", "", store.root) == (store.path(digest).as_uri(), digest)
        then = store.used(digest) + clock
        os.utime(store.root / "sha256" / digest / "used", (then, then))
        return found

    monkeypatch.setattr(gc, "candidates", chosen_then)
    assert gc.collect(store, in_use=nobody, older_than=100, named=True).gone == ()
    assert store.get(digest)
    monkeypatch.undo()
    assert gc.collect(store, in_use=nobody, older_than=100, named=True).gone == ()  # it has no disk yet: `gc.GRACE`


def test_what_goes_while_it_is_chosen_was_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at a name and the lock on its image anything may happen: then the name is looked at again."""
    store = Store(tmp_path / "store")
    first, second = put(store, tmp_path, name="base"), put(store, tmp_path, b"newer")
    whole, news = Store.hold, list[str]([second])

    def removed_first(self: Store, digest: str) -> int | None:
        if digest == first:
            store.remove(first, nobody)
            for each in news:
                store.name("base", each)
        return whole(self, digest)

    monkeypatch.setattr(Store, "hold", removed_first)
    assert image_choice.choose("base", "", store.root)[1] == second
    put(store, tmp_path, name="base")
    news.clear()
    with pytest.raises(DozlabError, match="no image 'base' in the store; build it: dozlab image build base"):
        image_choice.choose("base", "", store.root)


KILLED_GC = """
import os, signal, sys, time
from pathlib import Path
from dozlab.images import gc
from dozlab.images.store import Store
store = Store(Path(sys.argv[1]))
source = Path(sys.argv[2])
for line in sys.stdin:
    digests = []
    for number in range(4):
        source.write_bytes(line.encode() + bytes([number]) * 100_000)
        digests.append(store.add_file(source, name=f"lab{number}").digest)
        used = store.root / "sha256" / digests[-1] / "used"
        used.touch()
        os.utime(used, (5, 5))
    child = os.fork()
    if not child:
        gc.collect(store, in_use=lambda digest: "lab" if digest == digests[0] else "", older_than=1, named=True)
        os._exit(0)
    time.sleep(float(line))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    print(digests[0], flush=True)
"""


def test_gc_killed_at_fifty_moments_leaves_whole_images_or_none(tmp_path: Path) -> None:
    store, moments = Store(tmp_path / "store"), random.Random(3)
    argv = [sys.executable, "-c", KILLED_GC, str(store.root), str(tmp_path / "source")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin and child.stdout
        for _ in range(50):
            child.stdin.write(f"{moments.uniform(0, 0.006)}\n")
            child.stdin.flush()
            kept = child.stdout.readline().strip()
            assert store.get(kept), "an image in use has gone"
            for each in store.ls():
                assert store.check(each.digest, full=True) == ""
            assert all(store.get(digest) for digest in store.names().values())
        child.stdin.close()
    store.sweep()
    assert os.listdir(store.root / "tmp") == []
