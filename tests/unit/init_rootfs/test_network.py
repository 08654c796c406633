"""How a download behaves on a network: credentials, mirrors, redirects, certificates, proxies. Real servers."""

from __future__ import annotations

import hashlib
import logging
import os
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dozlab.images.store import Store
from dozlab.init_rootfs import client, fetch
from dozlab.init_rootfs.client import Limits
from dozlab.init_rootfs.settings import from_env
from dozlab.lib.errors import BadUsage, DozlabError
from tests.unit.init_rootfs.conftest import Certificate, Page, Web

Environ = Callable[..., dict[str, str]]
FAST = Limits(back_off=(0.01,))


def get(environ: dict[str, str]) -> fetch.Base:
    base = fetch.base(from_env(environ), lambda line: None, FAST)
    base.release()
    return base


@pytest.fixture
def secure(web: Web, certificate: Certificate) -> str:
    """Make the server speak TLS and return its address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.cert, certificate.key)
    web.server.socket = context.wrap_socket(web.server.socket, server_side=True)
    return web.url.replace("http:", "https:")


def test_user_and_password_in_a_url_are_refused_and_not_told(environ: Environ) -> None:
    with pytest.raises(BadUsage) as caught:
        from_env(environ(IMAGE_DOWNLOAD_URL="https://anna:geheim@h.example/i"))
    assert "IMAGE_AUTH_FILE" in str(caught.value)
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "header"),
    [
        ("machine 127.0.0.1 login anna password word\n", "Basic YW5uYTp3b3Jk"),
        ("# ours\ndefault login anna password word\n", "Basic YW5uYTp3b3Jk"),
        ("s3cret-token\n", "Bearer s3cret-token"),
        ("Bearer s3cret-token\n", "Bearer s3cret-token"),
    ],
)
def test_credentials_come_from_a_file_and_go_nowhere_else(
    text: str, header: str, web: Web, image: bytes, environ: Environ, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="dozlab")
    (tmp_path / "auth").write_text(text)
    web.pages["/i"] = Page(image, need=header, headers={"ETag": '"1"'})
    env = environ(IMAGE_DOWNLOAD_URL=web.url + "/i", IMAGE_AUTH_FILE=str(tmp_path / "auth"))
    assert get(env).digest == hashlib.sha256(image).hexdigest()
    kept = "".join(path.read_text() for path in Path(env["KERNELS_DIR"], "urls").iterdir())
    for secret in ("word", "s3cret", "YW5u"):
        assert secret not in caplog.text + kept


def test_without_them_it_says_how(web: Web, image: bytes, environ: Environ) -> None:
    web.pages["/i"] = Page(image, need="Bearer x")
    with pytest.raises(DozlabError, match=r"401 Unauthorized; give credentials in a file, with IMAGE_AUTH_FILE"):
        get(environ(IMAGE_DOWNLOAD_URL=web.url + "/i"))


@pytest.mark.parametrize(
    "text", ["", "machine\n", "two words of it\n", '{"auths": 5}', '{"auths": {"h": {"auth": "?"}}}']
)
def test_a_file_that_is_not_understood(text: str, environ: Environ, tmp_path: Path) -> None:
    (tmp_path / "auth").write_text(text)
    with pytest.raises(DozlabError, match=r"IMAGE_AUTH_FILE .* is not understood") as caught:
        get(environ(IMAGE_DOWNLOAD_URL="http://127.0.0.1:1/i", IMAGE_AUTH_FILE=str(tmp_path / "auth")))
    assert "two words" not in str(caught.value)


def test_a_redirect_to_another_host_gets_no_credentials(
    web: Web, image: bytes, environ: Environ, tmp_path: Path
) -> None:
    (tmp_path / "auth").write_text("s3cret-token")
    web.pages["/i"] = Page(status=302, headers={"Location": web.url.replace("127.0.0.1", "localhost") + "/j"})
    web.pages["/j"] = Page(image)
    get(environ(IMAGE_DOWNLOAD_URL=web.url + "/i", IMAGE_AUTH_FILE=str(tmp_path / "auth")))
    assert ["authorization" in headers for _, headers in web.seen] == [True, False]


def test_from_https_to_http_is_no_way(secure: str, web: Web, environ: Environ, certificate: Certificate) -> None:
    web.pages["/i"] = Page(status=302, headers={"Location": "http://127.0.0.1:1/i"})
    with pytest.raises(DozlabError, match="redirects from https to http://127"):
        get(environ(IMAGE_DOWNLOAD_URL=secure + "/i", IMAGE_CA_FILE=str(certificate.ca)))


def test_an_own_ca(
    secure: str, web: Web, image: bytes, environ: Environ, certificate: Certificate, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    web.pages["/i"] = Page(image)
    with pytest.raises(DozlabError, match=r"certificate is not trusted \(.*\); name the file with its CA in IMAGE_CA_"):
        get(environ(IMAGE_DOWNLOAD_URL=secure + "/i"))
    assert get(environ(IMAGE_DOWNLOAD_URL=secure + "/i", IMAGE_CA_FILE=str(certificate.ca))).path.exists()
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.ca))
    assert get({**environ(IMAGE_DOWNLOAD_URL=secure + "/i"), "KERNELS_DIR": str(tmp_path / "other")}).path.exists()


@pytest.mark.parametrize("text", [None, "no certificate"])
def test_a_bad_ca_file(text: str | None, environ: Environ, tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DozlabError, match=r"cannot use IMAGE_CA_FILE .*ca.pem: (No such file|no certificate in it)"):
        get(environ(IMAGE_DOWNLOAD_URL="https://127.0.0.1:1/i", IMAGE_CA_FILE=str(path)))


def test_mirrors_are_tried_in_turn(web: Web, image: bytes, environ: Environ) -> None:
    web.pages["/busy"] = Page(status=503)
    web.pages["/bad"] = Page(image[:-1] + b"x")
    web.pages["/good"] = Page(image)
    urls = " ".join(["http://127.0.0.1:1/dead", *(web.url + path for path in ("/busy", "/none", "/bad", "/good"))])
    digest = hashlib.sha256(image).hexdigest()
    base = get(environ(IMAGE_DOWNLOAD_URL=urls, IMAGE_SHA256=digest))
    assert (base.digest, base.how) == (digest, f"from {web.url}/good")
    assert [path for path, _ in web.seen] == ["/busy", "/busy", "/none", "/bad", "/good"]


@pytest.mark.parametrize("kind", ["gz", "frames"])
def test_what_a_broken_mirror_gave_goes_once_another_has_given_all(
    kind: str, web: Web, image: bytes, environ: Environ, tmp_path: Path
) -> None:
    from tests.unit.init_rootfs.test_faults import Lab

    lab = Lab(image, kind)
    lab.serve(web, tmp_path, cut_at=5000)
    env = environ(IMAGE_DOWNLOAD_URL=f"{web.url}/{'i.ext4.zst' if kind == 'frames' else 'i'} {web.url}/whole")
    with pytest.raises(DozlabError):
        get(env)
    assert os.listdir(Path(env["KERNELS_DIR"]) / "tmp") != []
    web.pages["/whole"] = Page(image)
    assert get(env).digest == lab.digest
    assert os.listdir(Path(env["KERNELS_DIR"]) / "tmp") == []


def test_a_full_disk_is_the_same_at_every_mirror(web: Web, image: bytes, environ: Environ) -> None:
    web.pages["/a"] = web.pages["/b"] = Page(image)
    with pytest.raises(DozlabError, match="has room for"):
        get(environ(IMAGE_DOWNLOAD_URL=f"{web.url}/a {web.url}/b", KERNELS_SIZE_LIMIT="2M"))
    assert [path for path, _ in web.seen] == ["/a"]


def test_a_mirror_goes_on_where_the_first_one_broke(web: Web, image: bytes, environ: Environ, tmp_path: Path) -> None:
    from tests.unit.init_rootfs.test_faults import Lab

    lab = Lab(image, "frames")
    lab.serve(web, tmp_path)
    whole = web.pages["/i.ext4.zst"]
    web.pages["/half/i.ext4.zst"] = Page(whole.body, ranges=True, cut_at=len(whole.body) // 2)
    web.pages["/half/i.json"] = web.pages["/i.json"]
    get(environ(IMAGE_DOWNLOAD_URL=f"{web.url}/half/i.ext4.zst {web.url}/i.ext4.zst"))
    ranges = [headers["range"] for path, headers in web.seen if path == "/i.ext4.zst"]
    assert ranges and "bytes=0-" not in " ".join(ranges)
    assert os.listdir(Path(environ()["KERNELS_DIR"]) / "tmp") == []
    assert Store(Path(environ()["KERNELS_DIR"])).check(lab.digest, full=True) == ""


def test_a_proxy_is_asked_unless_the_host_is_left_out(
    web: Web, image: bytes, environ: Environ, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.pages["http://far.example/i"] = Page(image)
    monkeypatch.setenv("HTTP_PROXY", web.url)
    monkeypatch.setenv("http_proxy", web.url)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "")
    assert get(environ(IMAGE_DOWNLOAD_URL="http://far.example/i")).digest == hashlib.sha256(image).hexdigest()
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    web.pages["/i"] = Page(image)
    web.seen.clear()
    get({**environ(IMAGE_DOWNLOAD_URL=web.url + "/i"), "KERNELS_DIR": str(tmp_path / "other")})
    assert [path for path, _ in web.seen] == ["/i"]


def test_an_answer_that_comes_too_late_is_closed() -> None:
    go, closed = threading.Event(), threading.Event()

    def send() -> Any:
        go.wait(30)
        return SimpleNamespace(close=closed.set)

    assert client._Answer(send).within(0.01) is None
    go.set()
    assert closed.wait(30)


def test_what_goes_wrong_on_the_way_to_an_answer_is_told_where_it_is_waited_for() -> None:
    def send() -> Any:
        raise ValueError("refused")

    with pytest.raises(ValueError, match="refused"):
        client._Answer(send).within(30)
