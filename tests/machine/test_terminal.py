"""The web terminal's other doors on real sessions: files by SFTP, ports through the proxy, and TLS of its own."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import ssl
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlencode, urlsplit

import pytest
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from dozlab.terminal_sidecar import protocol as p
from tests.certificates import write_pair
from tests.machine.conftest import NO_EDITOR, PREPARED
from tests.support import Dozlab, until
from tests.unit.terminal_sidecar.conftest import Terminal

Reply = tuple[int, list[tuple[str, str]], bytes]


class Somebody:
    """A browser at a session's terminal, without its page."""

    def __init__(self, url: str, password: str, tls: ssl.SSLContext | None = None) -> None:
        parts = urlsplit(url)
        self.origin, self.tls = f"{parts.scheme}://{parts.netloc}", tls
        self.cookies: list[str] = []
        """As the server set them."""
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        status, headers, _ = self.ask("POST", "/login", urlencode({"password": password}).encode(), kind)
        self.cookies = [value for name, value in headers if name == "set-cookie"]
        assert status == 303 and self.cookies

    @property
    def cookie(self) -> str:
        return "; ".join(line.split(";")[0] for line in self.cookies)

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None, *, at: str = ""
    ) -> Reply:
        """Return status, headers (names in lower case) and body.

        :param at: another origin, which gets no cookie of the terminal's
        """
        where = urlsplit(at or self.origin)
        sent = {"Host": where.netloc, "Origin": at or self.origin}
        if not at:
            sent["Cookie"] = self.cookie
        connection = (
            http.client.HTTPSConnection("127.0.0.1", where.port, timeout=60, context=self.tls)
            if where.scheme == "https"
            else http.client.HTTPConnection("127.0.0.1", where.port, timeout=60)
        )
        try:
            connection.request(method, path, body, sent | (headers or {}))
            reply = connection.getresponse()
            return reply.status, [(name.lower(), value) for name, value in reply.getheaders()], reply.read()
        finally:
            connection.close()


@pytest.fixture(scope="module")
def somebody(dozlab: Dozlab, lab: str) -> Somebody:
    """Return the owner of the shared session, whose terminal may have been ended by the tests before."""
    url = dozlab.json("status", lab)["urls"]["terminal"]
    until(lambda: _ready(url), what="the terminal", seconds=300)
    return Somebody(url, "lab-pass-word")


def _ready(url: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", urlsplit(url).port, timeout=60)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/ready")
        return connection.getresponse().status == 200
    return False


def test_a_file_goes_into_the_guest_and_comes_back_whole(dozlab: Dozlab, lab: str, somebody: Somebody) -> None:
    noise = os.urandom(1_000_000)
    folder = "/root/dozlab test \u00e9"
    path = f"{folder}/noise.bin"
    try:
        assert somebody.ask("POST", f"/files/folder?path={quote(folder)}")[0] == 204
        assert somebody.ask("PUT", f"/files/content?path={quote(path)}", noise)[0] == 204
        told = dozlab.ssh(lab, f"cd '{folder}'; stat -c '%U %s' noise.bin; sha256sum < noise.bin; echo more > second")
        assert told.split() == ["root", "1000000", hashlib.sha256(noise).hexdigest(), "-"]
        status, _, body = somebody.ask("GET", f"/files?path={quote(folder)}")
        assert status == 200
        listed = {each["name"]: (each["kind"], each["size"]) for each in json.loads(body)["entries"]}
        assert listed == {"noise.bin": ("file", 1_000_000), "second": ("file", 5)}
        status, _, body = somebody.ask("GET", f"/files/content?path={quote(path)}")
        assert status == 200 and body == noise
    finally:
        dozlab.ssh(lab, f"rm -rf '{folder}'", check=False)


def test_a_server_in_the_guest_is_listed_and_opened_on_an_origin_of_its_own(
    dozlab: Dozlab, lab: str, somebody: Somebody
) -> None:
    serve = "python3 -m http.server 8765 --bind 127.0.0.1 --directory /srv/web"
    run = "systemd-run -q --collect --unit=web-of-a-test"
    dozlab.ssh(lab, f"mkdir -p /srv/web; echo made in the guest > /srv/web/page.txt; {run} {serve}")
    try:

        def listed() -> bool:
            status, _, body = somebody.ask("GET", "/ports")
            assert status == 200, body
            return any(each["port"] == 8765 and each["link"] and not each["open"] for each in json.loads(body)["ports"])

        until(listed, what="the server's port in the list", seconds=60)
        status, headers, _ = somebody.ask("GET", "/ports/8765/open")
        assert status == 303
        link = urlsplit(dict(headers)["location"])
        proxy = f"{link.scheme}://{link.netloc}"
        assert link.hostname == "localhost" and proxy != somebody.origin
        assert somebody.ask("GET", "/page.txt", at=proxy)[0] == 401
        assert somebody.ask("GET", "/page.txt", headers={"Cookie": somebody.cookie}, at=proxy)[0] == 401
        status, headers, _ = somebody.ask("POST", link.path, link.fragment.encode(), at=proxy)
        assert status == 200
        passed = {"Cookie": dict(headers)["set-cookie"].split(";")[0]}
        status, _, body = somebody.ask("GET", "/page.txt", headers=passed, at=proxy)
        assert (status, body) == (200, b"made in the guest\n")
        assert somebody.ask("POST", link.path, link.fragment.encode(), at=proxy)[0] == 403  # the ticket was good once
    finally:
        dozlab.ssh(lab, "systemctl stop web-of-a-test; rm -rf /srv/web", check=False)


@pytest.fixture
def secure(quick: Dozlab, tmp_path: Path) -> Iterator[Somebody]:
    """Yield the owner of a session that serves TLS with a certificate which is its own authority."""
    cert, key = write_pair(tmp_path, "127.0.0.1")
    words = ["--set", f"terminal.tls.certFile={cert}", "--set", f"terminal.tls.keyFile={key}",
             "--set", "codeServer.password=lab-pass-word"]  # fmt: skip
    quick.run("up", "secure", *PREPARED, *NO_EDITOR, *words, "--no-docker-wait", timeout=420)
    try:
        url = quick.json("status", "secure")["urls"]["terminal"]
        yield Somebody(url, "lab-pass-word", ssl.create_default_context(cafile=cert))
    finally:
        quick.run("down", "secure", check=False)


async def test_a_session_serves_tls_with_the_certificate_it_was_given(secure: Somebody) -> None:
    assert secure.origin.startswith("https://127.0.0.1:")
    assert all("Secure" in line.split("; ") for line in secure.cookies)
    until(lambda: secure.ask("GET", "/ready")[0] == 200, what="the terminal's own way into the guest", seconds=60)
    known, secure.tls = secure.tls, ssl.create_default_context()
    with pytest.raises(ssl.SSLCertVerificationError):  # it is checked indeed
        secure.ask("GET", "/ready")
    assert known is not None
    url = f"wss://{urlsplit(secure.origin).netloc}/ws"
    sent = {"Cookie": secure.cookie, "Origin": secure.origin}
    async with connect(
        url, ssl=known, additional_headers=sent, subprotocols=[Subprotocol(p.SUBPROTOCOL)], proxy=None
    ) as socket:
        terminal = Terminal(socket)
        await terminal.send(p.Hello())
        await terminal.until(b"~\x1b[0m# ", 60)
        await terminal.type("echo $(hostname)-$((6*7))\n")
        await terminal.until(b"secure-42", 60)
