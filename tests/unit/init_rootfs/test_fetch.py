"""Fetching the base image over a real server: every way it works, every way it fails, and what is left then."""

from __future__ import annotations

import errno
import gzip
import hashlib
import lzma
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard

from dozlab.images.store import Store
from dozlab.init_rootfs import fetch
from dozlab.init_rootfs.client import Limits
from dozlab.init_rootfs.settings import from_env
from dozlab.init_rootfs.source import FileSource
from dozlab.lib.errors import DozlabError
from tests.unit.init_rootfs.conftest import Page, Web

Environ = Callable[..., dict[str, str]]
FAST = Limits(back_off=(0.01, 0.01, 0.01))


def get(environ: dict[str, str]) -> fetch.Base:
    return fetch.base(from_env(environ), lambda line: None, FAST)


def fails(environ: dict[str, str]) -> str:
    """Return the one line of the failure; nothing may be left in the store."""
    with pytest.raises(DozlabError) as caught:
        get(environ)
    kernels = Path(environ["KERNELS_DIR"])
    left = [path for path in kernels.rglob("*") if path.is_file() and path.name not in ("lock", "fetch.lock")]
    assert left == []
    text = str(caught.value)
    assert "\n" not in text
    return text


PACK: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "zst": lambda data: zstandard.compress(data),
    "zst-frames": lambda data: zstandard.compress(data[: 1 << 20]) + zstandard.compress(data[1 << 20 :]),
    "gz": lambda data: gzip.compress(data),
    "gz-members": lambda data: gzip.compress(data[:5000]) + gzip.compress(data[5000:]),
    "xz": lambda data: lzma.compress(data),
}


@pytest.mark.parametrize("kind", PACK)
def test_each_format_comes_out_whole_and_sparse(kind: str, web: Web, image: bytes, environ: Environ) -> None:
    web.pages["/no-suffix"] = Page(PACK[kind](image))
    digest = hashlib.sha256(image).hexdigest()
    base = get(environ(IMAGE_DOWNLOAD_URL=web.url + "/no-suffix", IMAGE_SHA256=digest))
    assert base.digest == digest
    assert base.path.read_bytes() == image
    assert base.path.stat().st_blocks * 512 < len(image) // 2
    assert os.listdir(Path(environ()["KERNELS_DIR"]) / "tmp") == []


def test_with_sha256_in_the_store_there_is_no_network(web: Web, image: bytes, environ: Environ) -> None:
    web.pages["/i"] = Page(image)
    env = environ(IMAGE_DOWNLOAD_URL=web.url + "/i", IMAGE_SHA256=hashlib.sha256(image).hexdigest())
    first = get(env)
    web.seen.clear()
    assert get(env).path == first.path
    assert web.seen == []


@pytest.mark.parametrize("header", ["ETag", "Last-Modified"])
def test_an_unchanged_url_is_not_downloaded_twice(header: str, web: Web, image: bytes, environ: Environ) -> None:
    value = '"one"' if header == "ETag" else "Wed, 01 Jan 2025 00:00:00 GMT"
    web.pages["/i"] = Page(image, headers={header: value})
    env = environ(IMAGE_DOWNLOAD_URL=web.url + "/i?token=secret")
    web.pages["/i?token=secret"] = web.pages["/i"]
    get(env)
    again = get(env)
    assert "unchanged" in again.how
    records = "".join(path.read_text() for path in (Path(env["KERNELS_DIR"]) / "urls").iterdir())
    assert "secret" not in records


def test_a_changed_url_is_downloaded_again(web: Web, image: bytes, environ: Environ) -> None:
    env = environ(IMAGE_DOWNLOAD_URL=web.url + "/i")
    web.pages["/i"] = Page(image, headers={"ETag": '"one"'})
    old = get(env)
    other = image[:-4096] + b"x" * 4096
    web.pages["/i"] = Page(other, headers={"ETag": '"two"'})
    new = get(env)
    assert new.digest == hashlib.sha256(other).hexdigest() != old.digest


def test_a_source_out_of_reach_gives_what_it_gave_before(web: Web, image: bytes, environ: Environ) -> None:
    env = environ(IMAGE_DOWNLOAD_URL=web.url + "/i")
    web.pages["/i"] = Page(image, headers={"ETag": '"one"'})
    digest = get(env).digest
    web.pages["/i"] = Page(status=503)
    assert get(env).digest == digest


@pytest.mark.parametrize("ranges", [True, False])
def test_a_cut_download_goes_on_where_it_broke(ranges: bool, web: Web, image: bytes, environ: Environ) -> None:
    page = Page(image, headers={"ETag": '"one"'}, cut_at=1_000_000, cuts=2 if not ranges else 1, ranges=ranges)
    web.pages["/i"] = page
    base = get(environ(IMAGE_DOWNLOAD_URL=web.url + "/i"))
    assert base.digest == hashlib.sha256(image).hexdigest()
    assert web.seen[1][1]["if-range"] == '"one"'


def test_busy_server_is_asked_again(web: Web, image: bytes, environ: Environ) -> None:
    web.pages["/i"] = Page(status=503)
    assert "503" in fails(environ(IMAGE_DOWNLOAD_URL=web.url + "/i"))
    assert len(web.seen) == 1 + len(FAST.back_off)


def test_404(web: Web, environ: Environ) -> None:
    line = fails(environ(IMAGE_DOWNLOAD_URL=web.url + "/none?token=t"))
    assert line == f"cannot download {web.url}/none: the server says 404 Not Found"
    assert len(web.seen) == 1


def test_connection_refused(environ: Environ) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/i"
        assert fails(environ(IMAGE_DOWNLOAD_URL=url)) == f"cannot download {url}: Connection refused"


def test_cut_off_in_the_middle(web: Web, image: bytes, environ: Environ) -> None:
    web.pages["/i"] = Page(image, cut_at=1_000_000)
    assert "broke off after" in fails(environ(IMAGE_DOWNLOAD_URL=web.url + "/i"))


def test_changed_while_downloading(web: Web, image: bytes, environ: Environ) -> None:
    page = Page(image, headers={"ETag": '"one"'}, cut_at=1_000_000, cuts=1)
    web.pages["/i"] = page
    original = web.answer

    def answer(handler: object) -> None:
        original(handler)  # type: ignore[arg-type]
        page.headers["ETag"] = '"two"'

    web.answer = answer  # type: ignore[method-assign]
    assert "has changed during the download" in fails(environ(IMAGE_DOWNLOAD_URL=web.url + "/i"))


def test_redirects_are_followed_but_not_for_ever(web: Web, image: bytes, environ: Environ) -> None:
    web.pages["/a"] = Page(status=302, headers={"Location": "/i"})
    web.pages["/i"] = Page(image)
    get(environ(IMAGE_DOWNLOAD_URL=web.url + "/a"))
    web.pages["/loop"] = Page(status=302, headers={"Location": "/loop"})
    with pytest.raises(DozlabError, match="redirects more than 5 times"):
        get(environ(IMAGE_DOWNLOAD_URL=web.url + "/loop"))
    web.pages["/file"] = Page(status=302, headers={"Location": "file:///etc/passwd"})
    with pytest.raises(DozlabError, match="cannot download"):
        get(environ(IMAGE_DOWNLOAD_URL=web.url + "/file"))


def test_larger_than_the_disk_is_refused_before_the_download(web: Web, image: bytes, environ: Environ) -> None:
    web.pages["/i"] = Page(image, claim=1 << 50)
    line = fails(environ(IMAGE_DOWNLOAD_URL=web.url + "/i"))
    assert line.startswith("the image needs 1024.0 TiB, ")


@pytest.mark.parametrize("kind", ["zst", "gz"])
def test_larger_than_the_volume(kind: str, web: Web, image: bytes, environ: Environ) -> None:
    web.pages["/i"] = Page(PACK[kind](image))
    line = fails(environ(IMAGE_DOWNLOAD_URL=web.url + "/i", KERNELS_SIZE_LIMIT="2M"))
    assert "has room for 2.0 MiB" in line


def test_disk_full_during_the_write(web: Web, image: bytes, environ: Environ, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: memoryview, at: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    web.pages["/i"] = Page(gzip.compress(image))
    assert "became full after" in fails(environ(IMAGE_DOWNLOAD_URL=web.url + "/i"))


def test_sha256_mismatch_names_both(web: Web, image: bytes, environ: Environ) -> None:
    web.pages["/i"] = Page(image)
    line = fails(environ(IMAGE_DOWNLOAD_URL=web.url + "/i", IMAGE_SHA256="0" * 64))
    assert "0" * 64 in line
    assert hashlib.sha256(image).hexdigest() in line


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"<!DOCTYPE html><html>" + b" " * 4000, "it is a web page"),
        (b"", "it is empty"),
        (b"QFI\xfb" + bytes(4000), "it is a qcow2 disk"),
        (zstandard.compress(bytes(4000)), "no ext4 superblock"),
        (bytes(100), "no ext4 superblock"),
    ],
)
def test_not_an_ext4_image(body: bytes, words: str, web: Web, environ: Environ) -> None:
    web.pages["/i"] = Page(body)
    line = fails(environ(IMAGE_DOWNLOAD_URL=web.url + "/i"))
    assert line.startswith("not an ext4 image: ")
    assert words in line


def test_not_ext4_is_seen_before_all_is_read(environ: Environ, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "big").write_bytes(bytes(64 << 20))
    read: list[int] = []
    whole = FileSource.blocks

    def counted(source: FileSource, start: int = 0) -> Iterator[bytes]:
        for block in whole(source, start):
            read.append(len(block))
            yield block

    monkeypatch.setattr(FileSource, "blocks", counted)
    assert fails(environ(IMAGE_DOWNLOAD_URL=str(tmp_path / "big"))).startswith("not an ext4")
    assert len(read) == 1


@pytest.mark.parametrize("kind", ["zst", "gz", "xz"])
def test_truncated_compressed_stream(kind: str, web: Web, image: bytes, environ: Environ) -> None:
    packed = PACK[kind](image)
    web.pages["/i"] = Page(packed[: len(packed) // 2])
    assert f"its {kind} stream has no end" in fails(environ(IMAGE_DOWNLOAD_URL=web.url + "/i"))


@pytest.mark.parametrize("kind", ["zst", "gz", "xz"])
def test_damaged_compressed_stream(kind: str, web: Web, image: bytes, environ: Environ) -> None:
    packed = bytearray(PACK[kind](image))
    packed[200:300] = bytes(100)
    web.pages["/i"] = Page(bytes(packed))
    line = fails(environ(IMAGE_DOWNLOAD_URL=web.url + "/i", IMAGE_SHA256=hashlib.sha256(image).hexdigest()))
    assert "damaged" in line or "sha256 is" in line or "ext4" in line


def test_truncated_plain_file(image: bytes, environ: Environ, tmp_path: Path) -> None:
    (tmp_path / "cut.ext4").write_bytes(image[: len(image) // 2])
    line = fails(environ(IMAGE_DOWNLOAD_URL=str(tmp_path / "cut.ext4")))
    assert "its file system has 4.0 MiB, the file 2.0 MiB" in line


def test_unknown_scheme_and_unreadable_file(environ: Environ, tmp_path: Path) -> None:
    assert fails(environ(IMAGE_DOWNLOAD_URL="ftp://a/b")).startswith("unknown scheme ftp://")
    assert fails(environ(IMAGE_DOWNLOAD_URL="file://elsewhere/b")).startswith("file URL of another machine")
    missing = tmp_path / "none.ext4"
    assert fails(environ(IMAGE_DOWNLOAD_URL=f"file://{missing}")) == (
        f"cannot read image {missing}: No such file or directory"
    )
    assert fails(environ(IMAGE_DOWNLOAD_URL=str(tmp_path))) == f"cannot read image {tmp_path}: Is a directory"


def test_file_of_the_store_is_not_copied(image: bytes, environ: Environ, tmp_path: Path) -> None:
    (tmp_path / "b.ext4").write_bytes(image)
    first = get(environ(IMAGE_DOWNLOAD_URL=f"file://{tmp_path}/b.ext4"))
    again = get(environ(IMAGE_DOWNLOAD_URL=f"file://{first.path}"))
    assert again.path == first.path
    assert len(Store(Path(environ()["KERNELS_DIR"])).ls()) == 1
    with pytest.raises(DozlabError, match="sha256 is"):
        get(environ(IMAGE_DOWNLOAD_URL=f"file://{first.path}", IMAGE_SHA256="0" * 64))


def test_image_path_is_used_as_it_is(image: bytes, environ: Environ, tmp_path: Path) -> None:
    path = tmp_path / "own.ext4"
    path.write_bytes(image)
    base = get(environ(IMAGE_PATH=str(path), IMAGE_DOWNLOAD_URL="http://unused.invalid/"))
    assert (base.path, base.digest[:3]) == (path, "sb-")
    assert get(environ(IMAGE_PATH=str(path))).digest == base.digest
