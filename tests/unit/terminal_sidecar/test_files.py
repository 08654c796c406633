"""Files through the real program: OpenSSH's SFTP server behind a real SSH server, HTTP as a browser speaks it."""

from __future__ import annotations

import http.client
import io
import json
import os
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.unit.terminal_sidecar.conftest import Guest, Sidecar

NOISE = os.urandom(1 << 20)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a folder in the guest."""
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


class Browser:
    """Somebody who is logged in."""

    def __init__(self, sidecar: Sidecar) -> None:
        self.sidecar = sidecar
        self.headers = {"Cookie": sidecar.login()[1], "Origin": sidecar.origin}

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.sidecar.port, timeout=100)
        try:
            connection.request(method, path, body, self.headers)
            reply = connection.getresponse()
            return reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read()
        finally:
            connection.close()

    def put(self, path: Path | bytes, body: bytes, **more: str) -> tuple[int, str]:
        extra = "".join(f"&{name}={value}" for name, value in more.items())
        status, _, answer = self.ask("PUT", f"/files/content?path={quote(bytes(path))}{extra}", body)
        return status, json.loads(answer)["kind"] if answer else ""

    def get(self, path: Path | bytes) -> tuple[int, dict[str, str], bytes]:
        return self.ask("GET", f"/files/content?path={quote(bytes(path))}")

    def list(self, path: Path | bytes = b"") -> dict[str, object]:
        status, _, answer = self.ask("GET", f"/files?path={quote(bytes(path))}")
        assert status == 200, answer
        found: dict[str, object] = json.loads(answer)
        return found

    def kind(self, method: str, path: str, body: bytes | None = None) -> tuple[int, str]:
        status, _, answer = self.ask(method, path, body)
        return status, json.loads(answer)["kind"] if answer else ""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory, page: Path) -> Iterator[Browser]:
    """Return somebody at a machine that all tests here share which do nothing to it."""
    shared = tmp_path_factory.mktemp("shared")
    guest = Guest(shared)
    guest.boot()
    sidecar = Sidecar(shared, guest.port, page)
    sidecar.until("/ready", 200)
    yield Browser(sidecar)
    assert sidecar.stop() == 0
    guest.switch_off()


@pytest.fixture
def alone(sidecar: Sidecar) -> Browser:
    """Return somebody at a machine of this test's own (`guest`)."""
    return Browser(sidecar)


def until(happens: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.02)


def test_up_and_down_again(browser: Browser, home: Path) -> None:
    for name in (b"plain.bin", "M\u00e4rz \U0001f600 100%+&#?.txt".encode(), b"\xff not utf-8", b"empty"):
        path = home / os.fsdecode(name)
        body = b"" if name == b"empty" else NOISE[:300_001]
        assert browser.put(path, body) == (204, "")
        assert path.read_bytes() == body
        status, headers, found = browser.get(path)
        assert (status, found) == (200, body)
        assert headers["content-type"] == "application/octet-stream"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"].startswith("sandbox;")
        assert headers["content-disposition"].startswith("attachment; ")
        assert headers["cache-control"] == "no-store"
    assert (home / "plain.bin").stat().st_mode & 0o777 == 0o644
    assert {path.name for path in home.iterdir() if path.name.startswith(".dozlab")} == set()


def test_a_list_says_what_is_there(browser: Browser, home: Path) -> None:
    (home / "b.txt").write_bytes(b"12345")
    (home / "A").mkdir()
    (home / "link").symlink_to("A")
    (home / "broken").symlink_to("nowhere")
    os.mkfifo(home / "pipe")
    (home / "line\nfeed<b>").touch()
    found = browser.list(home)
    entries = found["entries"]
    assert isinstance(entries, list)
    assert [(each["name"], each["kind"], each["link"], each["size"]) for each in entries if each["kind"] == "file"] == [
        ("b.txt", "file", False, 5), ("line\ufffdfeed<b>", "file", False, 0)
    ]  # fmt: skip
    assert [(each["name"], each["link"]) for each in entries if each["kind"] == "folder"] == [
        ("A", False), ("link", True)
    ]  # fmt: skip
    assert [each["name"] for each in entries if each["kind"] == "other"] == ["broken", "pipe"]
    assert found["path"] == str(home)
    assert isinstance(found["free"], int) and found["free"] > 0
    crumbs = found["crumbs"]
    assert isinstance(crumbs, list)
    assert crumbs[-1] == {"name": "home", "path": str(home)}
    assert str(browser.list()["path"]).startswith("/")  # the user's home


def test_a_huge_folder_is_cut(browser: Browser, home: Path) -> None:
    for number in range(2100):
        (home / f"{number:04}").touch()
    found = browser.list(home)
    assert isinstance(found["entries"], list)
    assert (len(found["entries"]), found["more"]) == (2000, True)


def test_what_cannot_be_done_is_said(browser: Browser, home: Path) -> None:
    (home / "file").write_bytes(b"old")
    (home / "file").chmod(0o750)
    (home / "folder").mkdir()
    os.mkfifo(home / "pipe")
    path = quote(str(home))
    assert browser.put(home / "file", b"new") == (409, "exists")
    assert browser.kind("POST", f"/files/check?path={path}/file&size=3") == (409, "exists")
    assert browser.kind("POST", f"/files/check?path={path}/file&size=3&overwrite=1") == (204, "")
    assert (home / "file").read_bytes() == b"old"
    assert browser.put(home / "file", b"new", overwrite="1") == (204, "")
    assert ((home / "file").read_bytes(), (home / "file").stat().st_mode & 0o777) == (b"new", 0o750)
    assert browser.put(home / "folder", b"new", overwrite="1") == (409, "folder")
    assert browser.put(home / "pipe", b"new", overwrite="1") == (409, "other")
    assert browser.put(home / "none" / "file", b"new") == (404, "missing")
    assert browser.put(b"relative", b"new") == (400, "path")
    assert browser.kind("POST", f"/files/check?path={path}/big&size={1 << 60}") == (507, "space")
    for name, answer in (("folder", (409, "folder")), ("pipe", (409, "other")), ("none", (404, "missing"))):
        status, _, body = browser.get(home / name)
        assert (status, json.loads(body)["kind"]) == answer
    assert browser.kind("GET", f"/files?path={path}/file") == (400, "file")
    assert browser.kind("GET", f"/files/content?path={path}/file&check=1") == (204, "")
    assert sorted(each.name for each in home.iterdir()) == ["file", "folder", "pipe"]


def test_a_guest_that_lets_nobody_write(guest: Guest, sidecar: Sidecar, home: Path) -> None:
    (guest.shared / "sftp-arguments").write_text("-R")
    browser = Browser(sidecar)
    assert browser.put(home / "file", b"new") == (403, "permission")
    assert browser.kind("POST", f"/files/folder?path={quote(str(home))}/x") == (403, "permission")
    assert list(home.iterdir()) == []


def test_an_overwritten_link_stays_one(browser: Browser, home: Path) -> None:
    (home / "real").write_bytes(b"old")
    (home / "link").symlink_to("real")
    assert browser.put(home / "link", b"new", overwrite="1") == (204, "")
    assert (home / "link").is_symlink() and (home / "real").read_bytes() == b"new"


def test_folders_are_made_once(browser: Browser, home: Path) -> None:
    path = quote(str(home))
    for _ in range(2):
        assert browser.kind("POST", f"/files/folder?path={path}/a%20b") == (204, "")
    (home / "file").touch()
    assert browser.kind("POST", f"/files/folder?path={path}/file") == (409, "exists")
    assert browser.kind("POST", f"/files/folder?path={path}/x/y") == (404, "missing")
    assert (home / "a b").is_dir()


def test_files_that_say_no_size_end(browser: Browser) -> None:
    status, headers, body = browser.get(b"/proc/version")
    assert (status, body[:5]) == (200, b"Linux")
    assert "content-length" not in headers


def test_an_archive_holds_the_folder(browser: Browser, home: Path) -> None:
    (home / "it's").mkdir()
    (home / "it's" / "a").write_bytes(NOISE)
    status, headers, body = browser.ask("GET", f"/files/archive?path={quote(str(home))}/it%27s")
    assert status == 200
    assert "it's.tar" in headers["content-disposition"]
    with tarfile.open(fileobj=io.BytesIO(body)) as archive:
        taken = archive.extractfile("it's/a")
        assert taken is not None and taken.read() == NOISE
    assert browser.kind("GET", f"/files/archive?path={quote(str(home))}/none")[0] == 404


def begin_upload(browser: Browser, path: Path, size: int) -> http.client.HTTPConnection:
    """Send the head of an upload and a part of its body."""
    connection = http.client.HTTPConnection("127.0.0.1", browser.sidecar.port, timeout=100)
    connection.putrequest("PUT", f"/files/content?path={quote(str(path))}")
    for name, value in (browser.headers | {"Content-Length": str(size)}).items():
        connection.putheader(name, value)
    connection.endheaders(NOISE[:200_000])
    until(lambda: any(each.stat().st_size >= 100_000 for each in path.parent.glob(".dozlab-upload-*")))
    return connection


def test_a_cut_upload_leaves_nothing(browser: Browser, home: Path) -> None:
    begin_upload(browser, home / "file", 10 << 20).close()
    until(lambda: list(home.iterdir()) == [])


def test_an_upload_cut_with_its_guest_is_removed_when_that_is_back(alone: Browser, home: Path, guest: Guest) -> None:
    connection = begin_upload(alone, home / "file", 10 << 20)
    guest.switch_off()
    connection.send(NOISE)
    assert connection.getresponse().status == 503
    connection.close()
    assert [each.name[:14] for each in home.iterdir()] == [".dozlab-upload"]
    guest.boot()
    until(lambda: list(home.iterdir()) == [])


def test_a_sidecar_that_ends_leaves_nothing(tmp_path: Path, guest: Guest, page: Path, home: Path) -> None:
    sidecar = Sidecar(tmp_path, guest.port, page)
    sidecar.until("/ready", 200)
    connection = begin_upload(Browser(sidecar), home / "file", 10 << 20)
    assert sidecar.stop() == 0
    connection.close()
    assert list(home.iterdir()) == []


def test_four_at_a_time(browser: Browser, home: Path) -> None:
    uploads = []
    for name in "abcd":
        (home / name).mkdir()
        uploads.append(begin_upload(browser, home / name / "file", 10 << 20))
    assert browser.put(home / "fifth", b"x") == (429, "busy")
    (home / "small").write_bytes(b"x")
    assert browser.get(home / "small")[0] == 429
    for connection in uploads:
        connection.close()
    until(lambda: browser.put(home / "fifth", b"x")[0] == 204)


def memory(pid: int) -> int:
    """Return the most memory a process has had, bytes."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) << 10


def test_memory_stays_flat_whatever_the_size(browser: Browser, home: Path) -> None:
    sidecar = browser.sidecar
    big = home / "big"
    with big.open("wb") as file:
        file.truncate(48 << 20)
    browser.get(home / "big")
    before = memory(sidecar.process.pid)
    slow = http.client.HTTPConnection("127.0.0.1", sidecar.port, timeout=100)
    slow.request("GET", f"/files/content?path={quote(str(big))}", headers=browser.headers)
    reply = slow.getresponse()  # and nothing is read for the time being
    assert browser.put(home / "copy", bytes(48 << 20)) == (204, "")
    assert memory(sidecar.process.pid) - before < 12 << 20
    assert len(reply.read()) == 48 << 20
    slow.close()


def test_a_paused_machine_is_said_and_a_transfer_survives_it(alone: Browser, home: Path, guest: Guest) -> None:
    connection = begin_upload(alone, home / "file", 400_000)
    guest.freeze()
    guest.tell("paused", paused="asked")
    path = quote(str(home))
    assert alone.kind("GET", f"/files?path={path}") == (409, "paused")  # asked before it was known, or not
    assert alone.put(home / "other", b"x") == (409, "paused")
    connection.send(NOISE[200_000:400_000])
    guest.thaw()
    guest.tell("running")
    assert connection.getresponse().status == 204
    connection.close()
    assert (home / "file").read_bytes() == NOISE[:400_000]


def test_nobody_else_gets_in(browser: Browser, home: Path) -> None:
    sidecar = browser.sidecar
    cookie = sidecar.login()[1]
    path = quote(str(home))
    for method, where in (
        ("GET", "/files"), ("GET", f"/files/content?path={path}/x"), ("PUT", f"/files/content?path={path}/x"),
        ("POST", f"/files/check?path={path}/x"), ("POST", f"/files/folder?path={path}/x"),
        ("GET", f"/files/archive?path={path}"),
    ):  # fmt: skip
        assert sidecar.request(method, where, "", {"Origin": sidecar.origin})[0] == 401
        if method != "GET":
            assert sidecar.request(method, where, "", {"Cookie": cookie})[0] == 403
            assert sidecar.request(method, where, "", {"Cookie": cookie, "Origin": "http://127.0.0.1:1"})[0] == 403
    assert list(home.iterdir()) == []


def test_a_logout_ends_transfers(browser: Browser, home: Path) -> None:
    other = Browser(browser.sidecar)
    connection = begin_upload(other, home / "file", 10 << 20)
    assert other.ask("POST", "/logout")[0] == 303
    assert connection.getresponse().status == 503
    connection.close()
    until(lambda: list(home.iterdir()) == [])


def test_a_machine_without_an_sftp_server_says_so_until_it_has_one(alone: Browser, tmp_path: Path) -> None:
    (tmp_path / "no-sftp").touch()
    status, _, body = alone.ask("GET", "/files")
    words = "the machine's sshd serves no files: install openssh-sftp-server in it"
    assert (status, json.loads(body)) == (503, {"error": words, "kind": "away"})
    (tmp_path / "no-sftp").unlink()
    assert alone.list()["entries"] is not None
