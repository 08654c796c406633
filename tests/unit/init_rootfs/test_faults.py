"""What can go wrong with a download: cuts, flipped bits, wrong lengths, silence, crowds, kills, full disks.

After each of them: no bad base in the store, and nothing left but what a later start goes on with.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import zstandard

from dozlab.images import export
from dozlab.images.store import Manifest, Store
from dozlab.init_rootfs import fetch
from dozlab.init_rootfs.client import Limits
from dozlab.init_rootfs.settings import from_env
from dozlab.lib.errors import DozlabError, TransientError
from tests.unit.init_rootfs.conftest import READ_ONLY, Page, Web, mounted

Environ = Callable[..., dict[str, str]]
AT_ONCE = Limits(back_off=())
"""Every cut ends the attempt, as if the process had died."""
FAST = Limits(back_off=(0.01, 0.01, 0.01))
FRAME = 64 << 10


@dataclass(frozen=True)
class Lab:
    """A noisy image, and how it is served: `kind` of packing, in frames with their manifest or as one stream."""

    image: bytes
    kind: str

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.image).hexdigest()

    def serve(self, web: Web, folder: Path, **how: object) -> str:
        """Return the URL; the page's misbehaviour is `how`."""
        body, name = self.image, "/i"
        if self.kind == "zst":
            body = zstandard.compress(self.image)
        elif self.kind == "gz":
            body = gzip.compress(self.image, 1)
        elif self.kind == "frames":
            source, parts, name = folder / "served.ext4", list[bytes](), "/i.ext4.zst"
            source.write_bytes(self.image)
            made = export.pack(
                source, parts.append, Manifest(self.digest, len(self.image)), level=1, file="i.ext4.zst",
                progress=lambda done, size: None, frame_size=FRAME,
            )  # fmt: skip
            body = b"".join(parts)
            web.pages["/i.json"] = Page(made.dump().encode())
        web.pages[name] = Page(body, headers={"ETag": '"one"'}, ranges=True, **how)  # type: ignore[arg-type]
        return web.url + name

    def page(self, web: Web) -> Page:
        return web.pages["/i.ext4.zst" if self.kind == "frames" else "/i"]


@pytest.fixture(scope="module")
def noisy(image: bytes) -> bytes:
    """The image with its free space full of noise, so that it does not pack: 4 MiB to be cut anywhere."""
    return image[: 2 << 20] + random.Random(1).randbytes(2 << 20)


@pytest.fixture(params=["plain", "zst", "gz", "frames"])
def lab(request: pytest.FixtureRequest, noisy: bytes) -> Lab:
    return Lab(noisy, request.param)


@pytest.fixture
def framed(noisy: bytes) -> Lab:
    return Lab(noisy, "frames")


def get(environ: dict[str, str], limits: Limits = FAST) -> fetch.Base:
    base = fetch.base(from_env(environ), lambda line: None, limits)
    base.release()
    return base


def left(environ: dict[str, str]) -> list[str]:
    """Return what is in the store's folder for unfinished things."""
    folder = Path(environ["KERNELS_DIR"]) / "tmp"
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) if folder.exists() else []


def good(environ: dict[str, str], lab: Lab) -> None:
    """Assert that the store has the image, whole and sparse, and nothing else."""
    store = Store(Path(environ["KERNELS_DIR"]))
    assert store.path(lab.digest).read_bytes() == lab.image
    assert store.check(lab.digest, full=True) == ""
    assert [each.digest for each in store.ls()] == [lab.digest]
    assert left(environ) == []


def test_cut_at_twenty_places_and_resumed_each_time(lab: Lab, web: Web, environ: Environ, tmp_path: Path) -> None:
    env = environ(IMAGE_DOWNLOAD_URL=lab.serve(web, tmp_path))
    page = lab.page(web)
    offsets = sorted(random.Random(5).sample(range(3000, len(page.body)), 20))
    for number, offset in enumerate(offsets):
        # A stream is first asked whether it is still the same one: that answer is cut as well, and not read.
        page.cut_at, page.cuts = offset, 2 if number and lab.kind != "frames" else 1
        with contextlib.suppress(TransientError):
            get(env, AT_ONCE)
    page.cut_at = None
    assert get(env).digest == lab.digest
    good(env, lab)
    starts = [headers["range"].partition("-")[0] for _, headers in web.seen if "range" in headers]
    if lab.kind == "frames":
        assert len(starts) > 1
        assert web.sent < len(page.body) * 2 + len(web.pages["/i.json"].body) * 21
    else:
        assert starts == [f"bytes={offset}" for offset in offsets]


def test_a_cut_in_one_process_is_no_matter(lab: Lab, web: Web, environ: Environ, tmp_path: Path) -> None:
    env = environ(IMAGE_DOWNLOAD_URL=lab.serve(web, tmp_path, cut_at=1_500_000, cuts=2))
    assert get(env).digest == lab.digest
    good(env, lab)


def test_what_has_changed_since_is_begun_anew(lab: Lab, web: Web, environ: Environ, tmp_path: Path) -> None:
    env = environ(IMAGE_DOWNLOAD_URL=lab.serve(web, tmp_path, cut_at=1_500_000))
    with pytest.raises(TransientError):
        get(env, AT_ONCE)
    assert left(env) != []
    other = Lab(lab.image[:-5000] + b"x" * 5000, lab.kind)
    other.serve(web, tmp_path)
    other.page(web).headers["ETag"] = '"two"'
    assert get(env).digest == other.digest
    store = Store(Path(env["KERNELS_DIR"]))
    assert store.path(other.digest).read_bytes() == other.image


def test_of_another_boot_nothing_is_believed(
    lab: Lab, web: Web, environ: Environ, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = environ(IMAGE_DOWNLOAD_URL=lab.serve(web, tmp_path, cut_at=1_500_000, cuts=1))
    with pytest.raises(TransientError):
        get(env, AT_ONCE)
    (held,) = (Path(env["KERNELS_DIR"]) / "tmp").glob("part.*")
    with (held / "image").open("r+b") as file:  # a power cut: the file is there, its content is not
        file.write(bytes(1 << 20))
    (tmp_path / "boot_id").write_text("another")
    monkeypatch.setattr("dozlab.images.partial._BOOT_ID", tmp_path / "boot_id")
    assert get(env).digest == lab.digest
    good(env, lab)


def test_a_flipped_bit_is_seen(lab: Lab, web: Web, environ: Environ, tmp_path: Path) -> None:
    env = environ(IMAGE_DOWNLOAD_URL=lab.serve(web, tmp_path, flips=1000), IMAGE_SHA256=lab.digest)
    with pytest.raises(DozlabError, match=r"sha256 is|damaged|does not match|ext4|too large"):
        get(env)
    assert Store(Path(env["KERNELS_DIR"])).ls() == []
    lab.page(web).flips = 0
    assert get(env).digest == lab.digest
    good(env, lab)


def test_a_bit_flipped_on_the_way_costs_one_frame(framed: Lab, web: Web, environ: Environ, tmp_path: Path) -> None:
    env = environ(IMAGE_DOWNLOAD_URL=framed.serve(web, tmp_path, flips=1))
    assert get(env).digest == framed.digest
    good(env, framed)
    body = framed.page(web).body
    assert len(body) < web.sent - len(web.pages["/i.json"].body) < len(body) + 2 * FRAME


def test_frames_without_a_checksum_have_the_manifests(
    framed: Lab, web: Web, environ: Environ, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = zstandard.ZstdCompressor
    monkeypatch.setattr(zstandard, "ZstdCompressor", lambda **how: whole(**{**how, "write_checksum": False}))
    env = environ(IMAGE_DOWNLOAD_URL=framed.serve(web, tmp_path, flips=1000))
    with pytest.raises(TransientError, match="does not match its manifest at byte"):
        get(env)
    framed.page(web).flips = 0
    assert get(env).digest == framed.digest
    good(env, framed)


@pytest.mark.parametrize("claim", [1_000_000, 9_000_000])
def test_a_wrong_length(claim: int, lab: Lab, web: Web, environ: Environ, tmp_path: Path) -> None:
    env = environ(IMAGE_DOWNLOAD_URL=lab.serve(web, tmp_path, claim=claim))
    with pytest.raises(DozlabError):
        get(env)
    assert Store(Path(env["KERNELS_DIR"])).ls() == []


def test_a_manifest_of_another_file_is_passed_over(framed: Lab, web: Web, environ: Environ, tmp_path: Path) -> None:
    env = environ(IMAGE_DOWNLOAD_URL=framed.serve(web, tmp_path))
    page = framed.page(web)
    page.body = zstandard.compress(framed.image)
    assert get(env).digest == framed.digest
    good(env, framed)


def test_a_manifest_that_lies_is_found_out(framed: Lab, web: Web, environ: Environ, tmp_path: Path) -> None:
    env = environ(IMAGE_DOWNLOAD_URL=framed.serve(web, tmp_path))
    page = web.pages["/i.json"]
    page.body = page.body.replace(framed.digest.encode(), b"0" * 64)
    with pytest.raises(DozlabError, match="its manifest says 0000"):
        get(env)
    assert Store(Path(env["KERNELS_DIR"])).ls() == []
    assert left(env) == []


@pytest.mark.parametrize("lab", ["gz", "frames"], indirect=True)
@pytest.mark.parametrize(
    ("how", "limits", "words"),
    [
        ({"stall": True}, {"silence": 0.2}, r"broke off after .*; try again$"),
        ({"drip": "body"}, {"slow_window": 0.2}, r"broke off after .*: too slow, .*B in .* s \(at least 150 KiB/s are"),
        ({"drip": "head"}, {"answer": 0.2}, r"^cannot download .*: no answer in 0.2 s$"),
    ],
    ids=["silent", "body", "head"],
)
def test_a_server_that_falls_silent_or_trickles(
    how: dict[str, Any], limits: dict[str, Any], words: str, lab: Lab, web: Web, environ: Environ, tmp_path: Path
) -> None:
    env = environ(IMAGE_DOWNLOAD_URL=lab.serve(web, tmp_path, **how))
    with pytest.raises(TransientError, match=words):
        get(env, Limits(back_off=(0.01,), **limits))
    assert Store(Path(env["KERNELS_DIR"])).ls() == []
    page = lab.page(web)
    page.stall, page.drip = False, ""
    assert get(env).digest == lab.digest
    good(env, lab)


def test_a_slow_server_that_keeps_the_least_rate_is_waited_for(web: Web, environ: Environ, noisy: bytes) -> None:
    """Many windows pass, each with enough in it: the rate counts, not the time in all."""
    web.pages["/i"] = Page(noisy[: 1 << 20] + bytes(3 << 20), pace=(1 << 18, 0.05))
    patient = Limits(back_off=(), slow_window=0.04, slow_bytes=1)
    assert get(environ(IMAGE_DOWNLOAD_URL=web.url + "/i"), patient).path.exists()


CHILD = "import sys; from dozlab.init_rootfs.__main__ import main; sys.exit(main([]))"


def start(env: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD], env={**os.environ, **env}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def test_twenty_starts_at_once_fetch_once(framed: Lab, web: Web, environ: Environ, tmp_path: Path) -> None:
    env = environ(IMAGE_DOWNLOAD_URL=framed.serve(web, tmp_path), IMAGE_SHA256=framed.digest)
    children = []
    for number in range(20):
        own = {"VM_DATA": str(tmp_path / f"vm{number}"), "SHARED_DIR": str(tmp_path / f"shared{number}")}
        for folder in own.values():
            Path(folder).mkdir()
        children.append(start({**env, **own}))
    for child in children:
        assert child.wait(60) == 0, child.communicate()[1]
        assert child.stderr
        child.stderr.close()
    good(env, framed)
    assert web.sent == len(framed.page(web).body) + len(web.pages["/i.json"].body)


@pytest.mark.parametrize("kind", ["gz", "frames"])
def test_killed_at_many_moments(kind: str, noisy: bytes, web: Web, environ: Environ, tmp_path: Path) -> None:
    lab, moments = Lab(noisy, kind), random.Random(7)
    env = environ(IMAGE_DOWNLOAD_URL=lab.serve(web, tmp_path), IMAGE_SHA256=lab.digest)
    store = Store(Path(env["KERNELS_DIR"]))
    child = Killer(env)
    try:
        for _ in range(25):
            child.send(moments.uniform(0, 0.06))
            assert store.get(lab.digest) is None or store.check(lab.digest, full=True) == ""
            if store.get(lab.digest):
                store.remove(lab.digest, lambda digest: "")
    finally:
        child.close()
    assert get(env).digest == lab.digest
    store.sweep(older=0)
    good(env, lab)


class Killer:
    """A parent without threads that forks a fetch and kills it: forking is quicker than starting Python each time."""

    CODE = """
import os, sys, time, signal
import httpx2, zstandard
from dozlab.init_rootfs import fetch
from dozlab.init_rootfs.settings import from_env
settings = from_env()
for line in sys.stdin:
    child = os.fork()
    if not child:
        try:
            fetch.base(settings, lambda line: None)
        finally:
            os._exit(0)
    time.sleep(float(line))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    print("killed", flush=True)
"""

    def __init__(self, env: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", self.CODE], env={**os.environ, **env}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip

    def send(self, seconds: float) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "killed\n"

    def close(self) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(20)


def test_a_signal_keeps_what_can_be_resumed(framed: Lab, web: Web, environ: Environ, tmp_path: Path) -> None:
    env = environ(IMAGE_DOWNLOAD_URL=framed.serve(web, tmp_path, stall=True))
    child = start(env)
    deadline = time.monotonic() + 20
    while len(web.seen) < 2:
        assert time.monotonic() < deadline, "nothing was asked for"
        time.sleep(0.01)
    child.send_signal(signal.SIGTERM)
    child.communicate(timeout=20)
    assert child.returncode == 128 + signal.SIGTERM
    framed.page(web).stall = False
    assert get(env).digest == framed.digest
    good(env, framed)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MiB."""
    (tmp_path / "small").mkdir()
    with mounted(tmp_path / "small", "mount -t tmpfs -o size=3m tmpfs .") as folder:
        yield folder


def test_a_full_disk(lab: Lab, small: Path, web: Web, environ: Environ, tmp_path: Path) -> None:
    env = {**environ(IMAGE_DOWNLOAD_URL=lab.serve(web, tmp_path)), "KERNELS_DIR": str(small / "store")}
    with pytest.raises(DozlabError, match=r"became full|has room for"):
        get(env)
    assert left(env) == []
    assert Store(small / "store").ls() == []


def test_a_disk_that_somebody_else_fills_meanwhile(small: Path, noisy: bytes, web: Web, environ: Environ) -> None:
    lab = Lab(noisy[: 4 << 20], "gz")
    env = {**environ(IMAGE_DOWNLOAD_URL=lab.serve(web, small)), "KERNELS_DIR": str(small / "store")}
    (small / "served.ext4").unlink(missing_ok=True)
    web.pages["/i"].body = gzip.compress(noisy[: 2 << 20] + bytes(2 << 20))
    (small / "other").write_bytes(bytes(2_500_000))
    with pytest.raises(DozlabError, match=r"became full|has room for"):
        get(env)
    assert left(env) == []


def test_a_read_only_store_serves_what_it_has(framed: Lab, web: Web, environ: Environ, tmp_path: Path) -> None:
    env = environ(IMAGE_DOWNLOAD_URL=framed.serve(web, tmp_path))
    get(env)
    with mounted(Path(env["KERNELS_DIR"]), READ_ONLY) as kernels:
        env["KERNELS_DIR"] = str(kernels)
        for more in ({}, {"IMAGE_SHA256": framed.digest}):
            assert get({**env, **more}).digest == framed.digest
        with pytest.raises(DozlabError, match=r"cannot (write to|make) .*Read-only"):
            get({**env, "IMAGE_DOWNLOAD_URL": Lab(framed.image[:-1] + b"x", "plain").serve(web, tmp_path)})
        path = Store(kernels).path(framed.digest)
        assert path.read_bytes() == framed.image


def spoil(path: Path) -> None:
    """Change a byte in the middle of an image of the store."""
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(2_500_000)
        file.write(b"x")


def test_a_damaged_image_of_a_read_only_store_is_not_used(
    framed: Lab, web: Web, environ: Environ, tmp_path: Path
) -> None:
    env = environ(IMAGE_DOWNLOAD_URL=framed.serve(web, tmp_path), IMAGE_SHA256=framed.digest)
    spoil(get(env).path)
    with (
        mounted(Path(env["KERNELS_DIR"]), READ_ONLY) as kernels,
        pytest.raises(DozlabError, match=r"cannot (write to|make) .*Read-only"),
    ):
        get({**env, "KERNELS_DIR": str(kernels)})


def test_a_damaged_image_of_the_store_is_fetched_again(lab: Lab, web: Web, environ: Environ, tmp_path: Path) -> None:
    env = environ(IMAGE_DOWNLOAD_URL=lab.serve(web, tmp_path), IMAGE_SHA256=lab.digest)
    spoil(get(env).path)
    assert get(env).digest == lab.digest
    good(env, lab)


def test_a_damaged_image_that_nobody_can_give_again_is_not_used(
    lab: Lab, web: Web, environ: Environ, tmp_path: Path
) -> None:
    env = environ(IMAGE_DOWNLOAD_URL=lab.serve(web, tmp_path))
    path = get(env).path
    path.chmod(0o644)
    os.truncate(path, 1 << 20)
    with pytest.raises(DozlabError, match="in the store is damaged: it has 1048576 bytes"):
        get(environ(IMAGE_SHA256=lab.digest))
    assert path.exists()
