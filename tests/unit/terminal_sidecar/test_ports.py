"""The proxy as the real program: HTTP and WebSockets to servers that the stand-in guest reaches on its 127.0.0.1."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from starlette.responses import Response
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.sync.server import ServerConnection, serve
from websockets.typing import Origin

from dozlab.terminal_sidecar.guest import Guest as RealGuest
from dozlab.terminal_sidecar.ports.routes import Ports
from dozlab.terminal_sidecar.settings import Settings
from dozlab.terminal_sidecar.tls import Certificate
from tests.certificates import write_pair
from tests.support import free_port
from tests.unit.terminal_sidecar.conftest import Guest
from tests.unit.terminal_sidecar.ports_lab import App, Handler, Lab
from tests.unit.terminal_sidecar.test_files import memory


@pytest.fixture
def app() -> Iterator[Callable[[Handler], App]]:
    """Return what starts a server in the guest."""
    running: list[App] = []

    def start(handler: Handler) -> App:
        running.append(App(handler))
        return running[-1]

    yield start
    for each in running:
        each.close()


def answer(text: bytes, *more: bytes) -> bytes:
    lines = [b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(text), *more]
    return b"\r\n".join(lines) + b"\r\n\r\n" + text


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, page: Path) -> Iterator[Lab]:
    shared = tmp_path_factory.mktemp("ports")
    guest = Guest(shared)
    guest.boot()
    made = Lab(shared, guest, page)
    yield made
    assert made.sidecar.stop() == 0
    guest.switch_off()


def test_the_list_names_what_listens(lab: Lab, app: Callable[[Handler], App]) -> None:
    server = app(lambda sock, head: None)
    status, _, body = lab.sidecar.request("GET", "/ports", headers={"Cookie": lab.cookie})
    assert status == 200
    found = {each["port"]: each for each in json.loads(body)["ports"]}
    assert found[server.port] == {"port": server.port, "addresses": ["127.0.0.1"], "open": False, "link": True}
    assert lab.sidecar.request("GET", "/ports")[0] == 401


def test_a_request_and_its_answer(lab: Lab, app: Callable[[Handler], App]) -> None:
    server = app(
        lambda sock, head: sock.sendall(answer(b"hello", b"Set-Cookie: sid=1; Domain=localhost", b"X-App: yes",
                                               b"Set-Cookie: dozlab-terminal-lab1=evil"))
    )  # fmt: skip
    cookie = lab.open(server.port)
    status, found, body = lab.ask("GET", "/a%20b?q=1", Cookie=f"{cookie}; {lab.cookie}; mine=1")
    assert (status, body, found["x-app"], found["set-cookie"]) == (200, b"hello", "yes", "sid=1")
    lines = server.heads[0].split(b"\r\n")
    assert lines[0] == b"GET /a%20b?q=1 HTTP/1.1"
    assert b"Cookie: mine=1" in lines
    assert b"Host: localhost:%d" % lab.port in lines
    assert {b"X-Forwarded-Proto: http", b"X-Forwarded-For: 127.0.0.1"} <= set(lines)
    assert b"dozlab" not in server.heads[0]


def test_another_port_takes_the_place_and_its_files_are_forgotten(lab: Lab, app: Callable[[Handler], App]) -> None:
    first, second = (app(lambda sock, head, text=text: sock.sendall(answer(text))).port for text in (b"1", b"2"))  # type: ignore[misc]
    cookie = lab.open(first)
    for port, forgotten in ((first, None), (second, '"cache"')):
        _, found, _ = lab.sidecar.request("GET", f"/ports/{port}/open", headers={"Cookie": lab.cookie})
        link = urlsplit(found["location"])
        _, found, _ = lab.ask("POST", link.path, link.fragment.encode(), Origin=lab.origin, Cookie=cookie)
        assert found.get("clear-site-data") == forgotten
    assert lab.ask("GET", "/", Cookie=found["set-cookie"].split(";")[0])[2] == b"2"
    assert lab.ask("GET", "/", Cookie=cookie)[2] == b"1"


def test_head_has_no_body_and_no_content_stays_none(lab: Lab, app: Callable[[Handler], App]) -> None:
    def handle(sock: socket.socket, head: bytes) -> None:
        empty = b"HTTP/1.1 204 No Content\r\n\r\n"
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n" if head.startswith(b"HEAD") else empty)

    cookie = lab.open(app(handle).port)
    status, found, body = lab.ask("HEAD", "/", Cookie=cookie)
    assert (status, found["content-length"], body) == (200, "12345", b"")
    assert lab.ask("DELETE", "/", Cookie=cookie)[0] == 204


def test_large_bodies_both_ways_with_and_without_a_length(lab: Lab, app: Callable[[Handler], App]) -> None:
    size = 8 << 20

    def handle(sock: socket.socket, head: bytes) -> None:
        reader = sock.makefile("rb")
        taken = 0
        if b"chunked" in head:
            while length := int(reader.readline(), 16):
                taken += len(reader.read(length))
                reader.readline()
        else:
            taken = len(reader.read(size))
        sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Taken: %d\r\n\r\n" % taken)
        for _ in range(size >> 16):
            sock.sendall(b"10000\r\n" + b"y" * 65536 + b"\r\n")
        sock.sendall(b"0\r\n\r\n")

    cookie = lab.open(app(handle).port)
    for body in (b"x" * size, (b"x" * 65536 for _ in range(size >> 16))):
        status, found, got = lab.ask("POST", "/", body, Cookie=cookie)
        assert (status, found["x-taken"], len(got), set(got)) == (200, str(size), size, {ord("y")})


def test_memory_stays_flat_where_nobody_reads(lab: Lab, app: Callable[[Handler], App]) -> None:
    size = 48 << 20

    def handle(sock: socket.socket, head: bytes) -> None:
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size >> 16):
            sock.sendall(b"y" * 65536)

    cookie = lab.open(app(handle).port)
    lab.ask("GET", "/", Cookie=cookie)
    before = memory(lab.sidecar.process.pid)
    connections = [http.client.HTTPConnection("127.0.0.1", lab.port, timeout=100) for _ in range(4)]
    for connection in connections:
        connection.request("GET", "/", headers={"Host": f"localhost:{lab.port}", "Cookie": cookie})
    replies = [connection.getresponse() for connection in connections]
    assert len(replies[0].read()) == size  # while the others wait
    assert memory(lab.sidecar.process.pid) - before < 8 << 20
    for connection in connections:
        connection.close()


def read_until(sock: socket.socket, wanted: bytes) -> bytes:
    got = b""
    while wanted not in got:
        data = sock.recv(4096)
        assert data, got
        got += data
    return got


def head(lab: Lab, cookie: str, line: str, *more: str) -> bytes:
    lines = [line, f"Host: localhost:{lab.port}", f"Cookie: {cookie}", *more]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def test_events_come_as_they_happen_and_a_browser_that_leaves_is_told(lab: Lab, app: Callable[[Handler], App]) -> None:
    more, gone = threading.Event(), threading.Event()

    def handle(sock: socket.socket, head: bytes) -> None:
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        assert more.wait(60)
        sock.sendall(b"data: 2\n\n")
        if sock.recv(1) == b"":
            gone.set()

    cookie = lab.open(app(handle).port)
    with lab.raw() as sock:
        sock.sendall(head(lab, cookie, "GET / HTTP/1.1"))
        read_until(sock, b"data: 1\n\n")
        more.set()
        read_until(sock, b"data: 2\n\n")
    assert gone.wait(60)


def test_a_body_may_wait_for_100_and_a_connection_is_used_again(lab: Lab, app: Callable[[Handler], App]) -> None:
    def handle(sock: socket.socket, head: bytes) -> None:
        if b"100-continue" in head:
            sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            assert sock.recv(5) == b"12345"
        sock.sendall(answer(b"taken"))

    cookie = lab.open(app(handle).port)
    with lab.raw() as sock:
        sock.sendall(head(lab, cookie, "PUT / HTTP/1.1", "Content-Length: 5", "Expect: 100-continue"))
        read_until(sock, b"100 Continue\r\n\r\n")
        sock.sendall(b"12345")
        read_until(sock, b"taken")
        sock.sendall(head(lab, cookie, "GET /2 HTTP/1.1") + head(lab, cookie, "GET /3 HTTP/1.1"))
        read_until(sock, b"taken")


def dial(url: str, cookie: str, origin: str) -> ClientConnection:
    return connect(url, additional_headers={"Cookie": cookie}, origin=Origin(origin), proxy=None)


def test_websockets_both_ways(lab: Lab) -> None:
    def echo(connection: ServerConnection) -> None:
        for message in connection:
            connection.send(message)

    with serve(echo, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        cookie = lab.open(server.socket.getsockname()[1])
        url = f"ws://localhost:{lab.port}/live"
        with dial(url, cookie, lab.origin) as client:
            for message in ("hello", b"\x00" * 300_000):
                client.send(message)
                assert client.recv(timeout=60) == message
        for origin in ("http://127.0.0.1:1", "null", lab.sidecar.origin):
            with pytest.raises(InvalidStatus, match="403"):
                dial(url, cookie, origin)
        server.shutdown()


@pytest.mark.parametrize(
    "nonsense",
    [b"SSH-2.0-OpenSSH\r\n", b"", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
     b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000, b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"],
)  # fmt: skip
def test_a_server_that_speaks_no_http_is_said(lab: Lab, app: Callable[[Handler], App], nonsense: bytes) -> None:
    cookie = lab.open(app(lambda sock, head: sock.sendall(nonsense)).port)
    status, found, body = lab.ask("GET", "/", Cookie=cookie)
    assert status == 502 and b"does not speak HTTP" in body
    assert found["content-type"].startswith("text/plain")


def test_a_cut_answer_is_cut_for_the_browser_too(lab: Lab, app: Callable[[Handler], App]) -> None:
    cookie = lab.open(app(lambda sock, head: sock.sendall(answer(b"x" * 10)[:-3])).port)
    with pytest.raises(http.client.IncompleteRead):
        lab.ask("GET", "/", Cookie=cookie)


def test_nobody_listens(lab: Lab) -> None:
    cookie = lab.open(free_port())
    status, _, body = lab.ask("GET", "/", Cookie=cookie)
    assert status == 502 and b"Nothing answers on port" in body


def test_who_has_no_pass_stays_outside(lab: Lab, app: Callable[[Handler], App]) -> None:
    server = app(lambda sock, head: sock.sendall(answer(b"secret")))
    cookie = lab.open(server.port)
    name = cookie.partition("=")[0]
    for wrong in ("", f"{name}=x", lab.cookie):
        assert lab.ask("GET", "/", Cookie=wrong)[0] == 401
    assert lab.ask("GET", "/", Cookie=f"{name}=tossed; {cookie}")[0] == 200  # a page may have added its own
    assert lab.ask("GET", "/", Cookie=cookie, Origin="http://evil.example")[0] == 403
    assert lab.ask("GET", "/sw.js", more={"Service-Worker": "script"}, Cookie=cookie)[0] == 403
    assert lab.ask("GET", "/.dozlab/other", Cookie=cookie)[0] == 404
    assert lab.ask("TRACE", "/", Cookie=cookie)[0] == 400
    assert lab.ask("HEAD", "/")[0] == 401
    assert len(server.heads) == 1
    for cookies, origin in (("", ""), (lab.cookie, lab.sidecar.origin)):
        assert lab.ask("POST", "/.dozlab/enter", b"guess", Cookie=cookies, Origin=origin or lab.origin)[0] == 403
    status, found, body = lab.ask("GET", "/.dozlab/enter")
    assert status == 200 and b"enter.js" in body
    assert "script-src 'self'" in found["content-security-policy"]
    _, found, _ = lab.sidecar.request("GET", f"/ports/{server.port}/open", headers={"Cookie": lab.cookie})
    link = urlsplit(found["location"])
    assert lab.ask("POST", link.path, link.fragment.encode(), Origin=lab.sidecar.origin)[0] == 403


def test_a_page_of_the_proxy_reaches_neither_terminal_nor_files(lab: Lab, app: Callable[[Handler], App]) -> None:
    """Not even with all cookies in the jar, as where terminal and proxy have one host name."""
    cookie = lab.open(app(lambda sock, head: None).port)
    jar = f"{lab.cookie}; {cookie}"
    for origin in (lab.origin, f"http://127.0.0.1:{lab.port}"):
        for method, path in (
            ("PUT", "/files/content?path=/tmp/x"), ("POST", "/files/check?path=/tmp/x"), ("POST", "/logout"),
            ("POST", "/files/folder?path=/tmp/x"), ("DELETE", "/shells/main"),
        ):  # fmt: skip
            assert lab.sidecar.request(method, path, "", {"Cookie": jar, "Origin": origin})[0] == 403
        for path in ("/files", "/ports", f"/ports/{lab.port}/open"):
            asked = {"Cookie": jar, "Origin": origin, "Sec-Fetch-Site": "same-site"}
            assert lab.sidecar.request("GET", path, headers=asked)[0] == 403
        with pytest.raises(InvalidStatus, match="403"):
            dial(f"ws://127.0.0.1:{lab.sidecar.port}/ws", jar, origin)
    assert lab.sidecar.request("GET", "/files", headers={"Cookie": cookie})[0] == 401  # the pass opens nothing there
    assert lab.sidecar.request("GET", "/ports", headers={"Cookie": lab.cookie})[0] == 200


def test_no_request_smuggles_another(lab: Lab, app: Callable[[Handler], App]) -> None:
    server = app(lambda sock, head: sock.sendall(answer(b"ok")))
    cookie = lab.open(server.port)
    for more in (
        ("Content-Length: 5", "Content-Length: 6"), ("Transfer-Encoding: chunked, identity",), ("Content-Length: +5",),
        ("Transfer-Encoding : chunked",), ("Host: other",),
    ):  # fmt: skip
        with lab.raw() as sock:
            sock.sendall(head(lab, cookie, "POST / HTTP/1.1", *more) + b"0\r\n\r\n")
            assert read_until(sock, b"\r\n")[9:10] in (b"4", b"5"), more
    with lab.raw() as sock:
        sock.sendall(head(lab, cookie, "GET http://other/ HTTP/1.1"))
        assert b" 400 " in read_until(sock, b"\r\n")
    assert server.heads == []


def test_a_logout_ends_what_is_open(lab: Lab, app: Callable[[Handler], App]) -> None:
    def handle(sock: socket.socket, head: bytes) -> None:
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        sock.recv(1)

    port = app(handle).port
    kept, lab.cookie = lab.cookie, lab.sidecar.login()[1]
    try:
        cookie = lab.open(port)
        with lab.raw() as sock:
            sock.sendall(head(lab, cookie, "GET / HTTP/1.1"))
            read_until(sock, b"data: 1\n\n")
            origin = {"Cookie": lab.cookie, "Origin": lab.sidecar.origin}
            assert lab.sidecar.request("POST", "/logout", headers=origin)[0] == 303
            with contextlib.suppress(ConnectionError):
                while sock.recv(100):
                    pass
        assert lab.ask("GET", "/", Cookie=cookie)[0] == 401
    finally:
        lab.cookie = kept


def test_a_paused_machine_is_said_and_one_that_sleeps_is_waited_for(
    tmp_path: Path, guest: Guest, page: Path, app: Callable[[Handler], App]
) -> None:
    server = app(lambda sock, head: sock.sendall(answer(b"awake")))
    own = Lab(tmp_path, guest, page)
    try:
        cookie = own.open(server.port)
        guest.tell("paused", paused="asked")
        while True:
            status, _, body = own.ask("GET", "/", Cookie=cookie)
            if status != 200:  # it looks every 0.2 s
                break
        assert (status, body) == (503, b"The machine is paused: let it go on first.\n")
        assert own.sidecar.request("GET", "/ports", headers={"Cookie": own.cookie})[0] == 409
        guest.tell("paused", paused="idle")
        threading.Timer(0.5, guest.tell, ["running"]).start()
        status, _, body = own.ask("GET", "/", Cookie=cookie)
        while status == 503:  # as above
            status, _, body = own.ask("GET", "/", Cookie=cookie)
        assert (status, body) == (200, b"awake")
    finally:
        assert own.sidecar.stop() == 0


def test_where_the_proxy_is_found(tmp_path: Path, guest: Guest, page: Path) -> None:
    own = Lab(tmp_path, guest, page, PORTS_ORIGIN="https://*.ports.lab.example")
    try:
        asked = {"Cookie": own.cookie}
        _, found, _ = own.sidecar.request("GET", "/ports/3000/open", headers=asked)
        assert found["location"].startswith("https://3000.ports.lab.example/.dozlab/enter#")
        ticket = urlsplit(found["location"]).fragment.encode()
        host = {"Host": "3000.ports.lab.example", "Origin": "https://3000.ports.lab.example"}
        status, found, _ = own.ask("POST", "/.dozlab/enter", ticket, host)
        assert status == 200 and found["set-cookie"].endswith("; Secure")
    finally:
        assert own.sidecar.stop() == 0


def test_a_flood_of_connections_pushes_out_its_own(lab: Lab, app: Callable[[Handler], App]) -> None:
    cookie = lab.open(app(lambda sock, head: sock.sendall(answer(b"in"))).port)
    flood = [lab.raw() for _ in range(300)]
    assert lab.ask("GET", "/", Cookie=cookie)[2] == b"in"
    for sock in flood:
        sock.close()


def test_it_speaks_tls_where_the_terminal_does(tmp_path: Path) -> None:
    cert, key = write_pair(tmp_path)
    settings = Settings("x", password="x", host="127.0.0.1", ports_port=free_port(), shared_dir=tmp_path)

    async def ask() -> bytes:
        guest = RealGuest("127.0.0.1", 1, "root", tmp_path)
        proxy = Ports(
            settings, guest, lambda request: Response(), lambda key: True, Certificate(cert, key), lambda: 0.0
        )
        proxy.bind()
        await proxy.start()
        try:
            context = ssl.create_default_context(cafile=cert)
            reader, writer = await asyncio.open_connection("localhost", settings.ports_port, ssl=context)
            writer.write(b"GET /.dozlab/enter HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            found = await reader.read()
            writer.close()
            return found
        finally:
            await proxy.close()

    assert asyncio.run(ask()).endswith(b"</html>\n")
