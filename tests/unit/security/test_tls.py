"""TLS of the sidecar's own: served, renewed without a restart, and never half."""

from __future__ import annotations

import http.client
import os
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from websockets.asyncio.client import connect

from dozlab.lib.errors import BadUsage, DozlabError
from dozlab.lib.files import write_atomic
from dozlab.terminal_sidecar.settings import Settings
from dozlab.terminal_sidecar.tls import Certificate
from tests.certificates import write_pair
from tests.unit.terminal_sidecar.conftest import Sidecar


class TlsSidecar(Sidecar):
    """A sidecar that is spoken to over TLS."""

    def __init__(self, shared: Path, page: Path, cert: str, key: str) -> None:
        self.context = ssl.create_default_context(cafile=cert)
        super().__init__(shared, 1, page, TLS_CERT=cert, TLS_KEY=key)
        self.origin = f"https://localhost:{self.port}"

    def request(
        self, method: str, path: str, body: str | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPSConnection("localhost", self.port, timeout=30, context=self.context)
        try:
            connection.request(method, path, body, headers or {})
            reply = connection.getresponse()
            cookies = "\n".join(value for name, value in reply.getheaders() if name == "set-cookie")
            return reply.status, {"set-cookie": cookies}, reply.read()
        finally:
            connection.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, page: Path) -> Iterator[TlsSidecar]:
    folder = tmp_path_factory.mktemp("tls")
    server = TlsSidecar(folder, page, *write_pair(folder))
    yield server
    assert server.stop() == 0


async def test_pages_and_terminals_are_served_over_tls(served: TlsSidecar) -> None:
    status, headers, _ = served.request(
        "POST", "/login", "password=correct+horse", {"Origin": served.origin, "Content-Type": "text/plain"}
    )
    lines = headers["set-cookie"].splitlines()
    assert status == 303 and lines and all("Secure" in line.split("; ") for line in lines)
    cookie = "; ".join(line.split(";")[0] for line in lines)
    sent = {"Cookie": cookie, "Origin": served.origin}
    url = f"wss://localhost:{served.port}/ws"
    async with connect(url, ssl=served.context, additional_headers=sent, proxy=None) as socket:
        assert socket.transport.get_extra_info("ssl_object").version() in ("TLSv1.2", "TLSv1.3")


def test_what_is_not_tls_gets_nothing(served: TlsSidecar) -> None:
    connection = http.client.HTTPConnection("localhost", served.port, timeout=30)
    with pytest.raises((http.client.HTTPException, OSError)):
        connection.request("GET", "/health")
        connection.getresponse()
    connection.close()
    served.until("/health", 200)


def test_a_renewed_certificate_is_taken_and_a_broken_one_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    certificate = Certificate(*write_pair(tmp_path, "old.example"))
    assert shown(certificate, "old.example")
    certificate.look()
    key = (tmp_path / "tls.key").read_bytes()
    write_pair(tmp_path, "new.example")
    certificate.look()
    assert shown(certificate, "new.example") and not shown(certificate, "old.example")
    newest = (tmp_path / "tls.key").read_bytes()
    write_atomic(tmp_path / "tls.key", key)  # of the other certificate
    certificate.look()
    assert "the old TLS certificate stays in use" in caplog.text and shown(certificate, "new.example")
    write_pair(tmp_path, "half.example")
    write_atomic(tmp_path / "tls.key", newest)  # the certificate came first, its key not yet
    certificate.look()
    assert shown(certificate, "new.example")
    os.unlink(tmp_path / "tls.crt")
    certificate.look()
    assert shown(certificate, "new.example")
    write_pair(tmp_path, "newest.example")
    certificate.look()
    assert shown(certificate, "newest.example")


def shown(certificate: Certificate, name: str) -> bool:
    """Tell whether the server's context shows a certificate for that name, by a handshake in memory."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = certificate.context.wrap_bio(to_server, to_client, server_side=True)
    theirs = client.wrap_bio(to_client, to_server)
    for _ in range(4):
        for side in (theirs, ours):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    der = theirs.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).subject.rfc4514_string() == f"CN={name}"


def test_files_that_are_no_pair_are_said_in_a_line(tmp_path: Path) -> None:
    cert, key = write_pair(tmp_path)
    for given in ((cert, cert), (key, key), (cert, str(tmp_path / "none"))):
        with pytest.raises(DozlabError, match="cannot be used"):
            Certificate(*given)
    with pytest.raises(DozlabError, match="without a passphrase"):
        Certificate(*write_pair(tmp_path, passphrase="hush"))
    with pytest.raises(BadUsage, match="TLS_CERT and TLS_KEY belong together"):
        Settings.from_env({"SESSION_ID": "a", "PASSWORD": "p", "TLS_CERT": cert})


def test_openssl_is_loaded_only_where_tls_is_served(served: TlsSidecar, running: Sidecar) -> None:
    """It costs 3 MiB of the 100 that a session has."""
    loaded = {each: Path(f"/proc/{each.process.pid}/maps").read_text() for each in (served, running)}
    assert "libssl" in loaded[served] and "libssl" not in loaded[running]
