"""The host's side of adoption against the guest's own program, and against answers no guest should give."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import json
import socket
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from dozlab.firecracker_vm import adoption
from dozlab.firecracker_vm.adoption import Guest
from dozlab.images import cpio, initramfs
from dozlab.lib.errors import DozlabError


@pytest.fixture
def adopt() -> ModuleType:
    """The guest's program, as a module."""
    path = Path(str(initramfs.kitfiles() / "disk/usr/lib/dozlab/adopt.py"))
    spec = importlib.util.spec_from_file_location("adopt", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@asynccontextmanager
async def serving(monkeypatch: pytest.MonkeyPatch, answer: Callable[[bytes], bytes]) -> AsyncIterator[None]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(await reader.readline()))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 20)
    monkeypatch.setattr(adoption, "PORT", server.sockets[0].getsockname()[1])
    try:
        yield
    finally:
        server.close()
        await server.wait_closed()


def test_both_sides_name_the_same_port() -> None:
    unit = initramfs.kitfiles() / "disk/usr/lib/systemd/system/dozlab-adopt.socket"
    assert f"ListenStream=0.0.0.0:{adoption.PORT}\n" in unit.read_text()


def test_the_token_comes_in_the_identity() -> None:
    (entry,) = (each for each in cpio.unpack(adoption.token_archive("secret")) if each.data)
    assert (entry.name, entry.data, entry.mode & 0o777) == ("dozlab/identity/token", b"secret\n", 0o600)


def test_the_identity_is_read_out_of_its_archive() -> None:
    members = [
        cpio.directory("dozlab"),
        cpio.directory("dozlab/identity"),
        cpio.file("dozlab/identity/hostname", b"lab\n"),
    ]
    assert adoption.identity_of(cpio.pad(cpio.pack(members), 512)) == {"hostname": b"lab\n"}


async def test_a_key_opens_and_the_next_one_follows(monkeypatch: pytest.MonkeyPatch, adopt: ModuleType) -> None:
    state = adopt.State("first")
    seen: list[dict[str, Any]] = []

    def verb(state: Any, request: dict[str, Any]) -> dict[str, Any]:
        seen.append(request)
        state.token = request["token_next"]
        return {}

    adopt.VERBS["adopt"] = verb
    guest, begun = Guest("127.0.0.1", "first"), time.time()
    async with serving(monkeypatch, lambda line: json.dumps(adopt.answer(state, line)).encode() + b"\n"):
        docker, _ = await guest.adopt({"hostname": b"lab\n"}, "A=1\n", timeout=30)
        assert docker
        assert guest.token != "first"
        with pytest.raises(DozlabError, match="not the key"):
            await Guest("127.0.0.1", "first").adopt({}, "", timeout=30)
    (request,) = seen
    assert begun <= request["time"] <= time.time()
    assert len(request["entropy"]) >= 64
    assert "first" not in repr(guest)


@pytest.mark.parametrize(("way", "tick", "right"), [(0.001, 0.0, True), (0.001, 0.004, True), (0.025, 0.0, False)])
async def test_adoption_alone_tells_whether_the_clock_is_right(
    monkeypatch: pytest.MonkeyPatch, way: float, tick: float, right: bool
) -> None:
    """The guest's clock is behind by the way to it, and at the most by the way there and back; or a tick ahead."""
    now = [1_764_279_000.0]

    def answer(line: bytes) -> bytes:
        request = json.loads(line)
        now[0] += way  # on its way to the guest
        told = {"ok": True, "time": request["time"] + tick}
        now[0] += way
        return json.dumps(told).encode() + b"\n"

    monkeypatch.setattr(adoption, "time", SimpleNamespace(time=lambda: now[0]))
    async with serving(monkeypatch, answer):
        assert await Guest("127.0.0.1", "key").adopt({}, "", timeout=30) == (True, right)


async def test_the_clock_is_set_and_looked_at(monkeypatch: pytest.MonkeyPatch, adopt: ModuleType) -> None:
    """The guest's clock starts a year off and takes 50 ms to be set: the second round makes up for that."""
    shift, looks = [-365 * 86400.0], itertools.count()

    def now() -> float:
        """Both sides' time here: a millisecond from one look to the next, however busy this machine is."""
        return 1_764_279_000 + next(looks) / 1000

    class Clock:
        CLOCK_REALTIME = 0

        @staticmethod
        def time() -> float:
            return now() + shift[0]

        @staticmethod
        def clock_settime(_clock: int, value: float) -> None:
            shift[0] = value - now() - (0.05 if not steps else 0.0)
            steps.append(value)

    steps: list[float] = []
    monkeypatch.setattr(adopt, "time", Clock)
    monkeypatch.setattr(adoption, "time", SimpleNamespace(time=now))
    state = adopt.State("key")
    async with serving(monkeypatch, lambda line: json.dumps(adopt.answer(state, line)).encode() + b"\n"):
        off = await Guest("127.0.0.1", "key").set_clock(timeout=30)
    assert abs(off) <= adoption.CLOCK_ERROR
    assert len(steps) == 2


def test_the_time_in_which_a_request_waited_to_be_read_counts(
    adopt: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the kernel tells it: last_data_recv is the 12th of TCP_INFO's 32 bit numbers, after 8 bytes of flags."""
    set_to: list[float] = []

    class Connection:
        def getsockopt(self, level: int, option: int, size: int) -> bytes:
            assert (level, option) == (socket.IPPROTO_TCP, socket.TCP_INFO)
            return (bytes(8) + struct.pack("=12I", *range(11), 250))[:size]

    monkeypatch.setattr(adopt, "time", SimpleNamespace(CLOCK_REALTIME=0, clock_settime=lambda _, to: set_to.append(to)))
    state = adopt.State("key")
    state.connection = Connection()
    adopt.set_clock(state, {"time": 1_764_279_000.0})
    assert set_to == [1_764_279_000.25]


def test_the_kernel_tells_when_a_request_came(adopt: ModuleType) -> None:
    state = adopt.State("key")
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        state.connection, _ = server.accept()
        with state.connection:
            client.sendall(b"{}\n")
            assert adopt.request_line(state.connection) == b"{}\n"
            came = time.monotonic()
            while adopt.since_request(state) < 0.5:
                assert time.monotonic() - came < 60
                time.sleep(0.05)
            assert time.monotonic() - came > 0.4  # a tick of the slowest kernel is 10 ms


def test_sshd_goes_on_when_it_has_what_it_needs_and_the_clock_is_set_last(
    adopt: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    state = adopt.State("key")
    rows = ["hostname", "authorized_keys", "ssh_host_ed25519_key", "machine-id"]
    state.table = [(name, f"/{name}", 0o600) for name in rows]
    monkeypatch.setattr(adopt, "reseed", lambda *_: done.append("reseed"))
    monkeypatch.setattr(adopt, "put", lambda _state, path, *_: done.append(path))
    monkeypatch.setattr(adopt, "let_sshd_go", lambda _state, key: done.append(f"sshd with {key.decode()}"))
    monkeypatch.setattr(adopt, "change_docker_id", lambda _state, new: done.append(new.decode()))
    monkeypatch.setattr(adopt, "set_clock", lambda *_: done.append("clock"))
    request = {
        "verb": "adopt", "token": "key", "token_next": "next", "time": 5.0, "entropy": "",
        "identity": {name: name for name in rows[1:]}, "ids": ["boot", "containerd", "docker"],
    }  # fmt: skip
    assert adopt.answer(state, json.dumps(request).encode())["ok"] is True
    sshd = "sshd with ssh_host_ed25519_key"
    assert done == [
        "reseed", "/authorized_keys", "/ssh_host_ed25519_key", sshd, "/machine-id", adopt.BOOT_ID, "docker", "clock"
    ]  # fmt: skip
    assert (state.token, state.later) == ("next", [])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"", "cannot be understood"),
        (b"not json\n", "cannot be understood"),
        (b"[]\n", "cannot be understood"),
        (b"x" * (1 << 17), "cannot be understood"),
        (b'{"ok": false, "error": "\\u001b[31mno\\nway"}\n', "refused clock"),
        (b'{"ok": 1}\n', "refused clock"),
    ],
)
async def test_a_hostile_answer_is_one_line(monkeypatch: pytest.MonkeyPatch, line: bytes, words: str) -> None:
    async with serving(monkeypatch, lambda _: line):
        with pytest.raises(DozlabError) as caught:
            await Guest("127.0.0.1", "key").call("clock", timeout=30)
    assert words in str(caught.value)
    assert str(caught.value).isprintable()


async def test_a_guest_that_does_not_listen_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adoption, "PORT", 1)
    with pytest.raises(DozlabError, match="did not answer clock within 0 s"):
        await Guest("127.0.0.1", "key").call("clock", timeout=0.2)


def test_dockers_id_is_found_in_memory(adopt: ModuleType, tmp_path: Path) -> None:
    word = b"0b1f6a1e-0000-4000-8000-000000000001"
    step = 4 << 20
    data = bytearray(2 * step + 8192)
    places = [0, 4096, step - 10, 2 * step + 100]
    for place in places:
        data[place : place + len(word)] = word
    (tmp_path / "mem").write_bytes(bytes(1000) + data)
    with (tmp_path / "mem").open("rb") as memory:
        assert adopt.search(memory, 1000, 1000 + len(data), word) == places


def test_an_identity_goes_where_the_table_says_and_nowhere_else(
    adopt: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "target").symlink_to("/nonexistent/elsewhere")
    (tmp_path / "table").write_text(f"# name target mode\nkey {tmp_path}/target 600\nhosts {tmp_path}/hosts 644\n")
    monkeypatch.setattr(adopt, "TABLE", str(tmp_path / "table"))
    adopt.apply_identity({"key": "secret", "../escape": "x"})
    assert (tmp_path / "target").read_bytes() == b"secret"  # the link is replaced, not followed
    assert (tmp_path / "target").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["table", "target"]


@pytest.mark.parametrize(
    ("before", "after", "meanwhile"),
    [
        (b"a longer one of before\n", b"lab\n", b"lab" + 20 * b"\n"),
        (b"lab\n", b"a longer one\n", b"a longer one\n"),
        (b"1b9d6bcd", b"0f8fad5b", b"0f8fad5b"),
        (b"1b9d6bcd", b"0f8", b"0f8"),  # no text: no line may be added to it
        (b"", b"lab\n", b"lab\n"),
    ],
)
def test_a_file_at_hand_is_written_in_its_place(
    adopt: ModuleType, tmp_path: Path, before: bytes, after: bytes, meanwhile: bytes
) -> None:
    path = tmp_path / "hosts"
    path.write_bytes(before)
    number = path.stat().st_ino
    state = adopt.State("key")
    state.kept[str(path)] = adopt.Kept(str(path))
    state.kept[str(path)].make_ready()
    assert path.read_bytes() == before
    adopt.put(state, str(path), after)
    assert path.read_bytes() == meanwhile
    adopt.put(state, str(tmp_path / "other"), b"new\n", 0o600)  # was not there when the machine was saved
    assert ((tmp_path / "other").read_bytes(), (tmp_path / "other").stat().st_mode & 0o777) == (b"new\n", 0o600)
    adopt.afterwards(state)
    assert (path.read_bytes(), path.stat().st_ino, state.kept) == (after, number, {})


def test_no_link_is_kept_at_hand(adopt: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "resolv.conf").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").write_text("theirs\n")
    with pytest.raises(OSError, match="symbolic links"):
        adopt.Kept(str(tmp_path / "resolv.conf"))


SSHD = """
import signal, sys, time
def again(*_):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # as after exec: a second one would end it
    print("key " + open(sys.argv[1]).read(), flush=True)
signal.signal(signal.SIGHUP, again if sys.argv[2] == "reads" else lambda *_: None)
print("up", flush=True)
while True: time.sleep(1)
"""


@pytest.mark.parametrize("how", ["reads", "does not read"])
def test_sshd_waits_for_its_host_key_in_the_snapshot(
    adopt: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str
) -> None:
    key = tmp_path / "key"
    key.write_bytes(b"the snapshot's")
    monkeypatch.setattr(adopt, "HOST_KEY", str(key))
    monkeypatch.setattr(adopt, "KEY_PATIENCE", 60.0 if how == "reads" else 0.2)
    argv = [sys.executable, "-c", SSHD, str(key), how]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as sshd:
        try:
            assert sshd.stdout is not None and sshd.stdout.readline() == "up\n"
            state = adopt.State("key")
            state.key_pipe = adopt.wait_for_key([sshd.pid])
            assert (state.key_pipe >= 0) is (how == "reads")
            assert key.read_bytes() == b"the snapshot's" and key.stat().st_mode & 0o777 == 0o600
            adopt.let_sshd_go(state, b"the session's")
            if how == "reads":
                assert sshd.stdout.readline() == "key the session's\n"
            assert state.key_pipe == -1
        finally:
            sshd.kill()


def test_a_return_to_a_checkpoint_lets_todays_keys_in(adopt: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The session may have been started again since, with another client key."""
    done: list[Any] = []
    monkeypatch.setattr(adopt, "set_clock", lambda _, request: done.append(request["time"]))
    monkeypatch.setattr(adopt, "reseed", lambda _, entropy: done.append(entropy))
    monkeypatch.setattr(adopt, "apply_identity", done.append)
    monkeypatch.setattr(adopt, "touch_workspace", lambda: None)
    request = {
        "verb": "refresh", "token": "key", "time": 5.0, "entropy": b"noise".hex(),
        "identity": {"authorized_keys": "new key"},
    }  # fmt: skip
    state = adopt.State("key")
    assert adopt.answer(state, json.dumps(request).encode())["ok"] is True
    assert done == [5.0, b"noise", {"authorized_keys": "new key"}]
    assert state.token == "key"


def test_the_table_of_the_kit_is_whole() -> None:
    lines = (initramfs.kitfiles() / "disk/usr/lib/dozlab/identity").read_text().splitlines()
    rows = [line.split() for line in lines if not line.startswith("#")]
    assert {row[0] for row in rows} == {
        "authorized_keys", "ssh_host_ed25519_key", "ssh_host_ed25519_key.pub", "machine-id", "resolv.conf", "hosts",
        "hostname",
    }  # fmt: skip
    assert {row[0]: row[2] for row in rows}["ssh_host_ed25519_key"] == "600"
