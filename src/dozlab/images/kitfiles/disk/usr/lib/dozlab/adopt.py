"""The guest's side of snapshots: makes the machine ready to be saved, gives each copy an identity, sets the clock.

Started by systemd at the first request. One JSON object a line, one request a connection, each with the key of the day:
the one it was booted with until adoption, then the session's. Python 3.10 or newer, nothing else.
What adoption runs is plain on purpose: the first time it meets code after a restore, an emulated processor is slow.
Sources: random(4) for RNDADDENTROPY and RNDRESEEDCRNG, proc(5) for /proc/PID/mem, machine-id(5),
systemd-random-seed(8), tcp(7) and linux/tcp.h for TCP_INFO.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import glob
import hmac
import json
import mmap
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import uuid
from typing import Any, BinaryIO

IDENTITY = "/run/dozlab/identity"
TABLE = "/usr/lib/dozlab/identity"
SERVICES = ("ssh.service", "sshd.service")
"""Held while the machine is saved: nobody must meet the snapshot's host key. They read the new one when let go."""
HOST_KEY = "/etc/ssh/ssh_host_ed25519_key"
SSHD_NEEDS = ("authorized_keys", "ssh_host_ed25519_key")
SOCKETS = ("ssh.socket", "sshd.socket")
"""Stopped before the machine is saved, started again by adoption."""
ENGINE_ID = "/var/lib/docker/engine-id"
BOOT_ID = "/run/dozlab/boot-id"
CONTAINERD_ID = "/var/lib/containerd/io.containerd.grpc.v1.introspection/uuid"
RNDADDENTROPY = 0x40085203
RNDRESEEDCRNG = 0x5207
LAST_DATA_RECV = slice(52, 56)
"""Where TCP_INFO tells how many milliseconds ago the newest data came."""
MS_BIND = 4096
LIMIT = 1 << 20
KEY_PATIENCE = 10.0
"""Seconds in which sshd has come to its host key."""
QUIET = 0.5
"""Seconds without a request after adoption until the rest is done."""
PATIENCE = 90.0
TEN_SECONDS = struct.pack("ll", 10, 0)
"""A struct timeval, for who connects and says nothing."""
FIRST, AS_ALL = os.sched_param(1), os.sched_param(0)
DECODER = json.JSONDecoder()
libc = ctypes.CDLL(None, use_errno=True)


class Kept:
    """A file that adoption rewrites: open, in our memory, and its page ready to be written to.

    A write(2) takes an emulated machine 40 ms, the first time; a change of this memory takes none.
    """

    def __init__(self, path: str) -> None:
        self.file = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
        self.length = os.fstat(self.file).st_size
        """What it has once it is `done`."""
        self.memory = mmap.mmap(self.file, 0) if self.length else None

    def make_ready(self) -> None:
        """Have the kernel do now what it does at the first write (page_mkwrite)."""
        if self.memory:
            self.memory[:1] = self.memory[:1]

    def put(self, data: bytes) -> None:
        """Change what it holds. A shorter text has empty lines at its end until it is `done`."""
        text = data.endswith(b"\n")
        if self.memory and (len(data) == len(self.memory) or (text and len(data) < len(self.memory))):
            self.memory[:] = data.ljust(len(self.memory), b"\n")
        else:
            os.pwrite(self.file, data, 0)
            os.ftruncate(self.file, len(data))
        self.length = len(data)

    def done(self) -> None:
        """Cut what is too long, and let go of it."""
        if self.memory:
            self.memory.close()
        if os.fstat(self.file).st_size != self.length:
            os.ftruncate(self.file, self.length)
        os.close(self.file)


class State:
    """What is kept between requests."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.sockets: list[str] = []
        self.held: list[int] = []
        """Processes that are stopped until adoption."""
        self.key_pipe = -1
        """Where sshd waits for its host key."""
        self.docker: list[tuple[int, int]] = []
        """(/proc/PID/mem, address) of each place that holds Docker's id."""
        self.docker_id = b""
        self.table: list[tuple[str, str, int]] = []
        """What `table` returns."""
        self.kept: dict[str, Kept] = {}
        """Path -> a file that adoption rewrites."""
        self.random = os.open("/dev/urandom", os.O_RDWR)
        self.later: list[str] | None = None
        """Units to start once adoption has been answered."""
        self.connection: socket.socket | None = None
        """Where the request came from that is being answered."""


Request = dict[str, Any]


def run(*words: str, check: bool = True) -> str:
    """Run a program; return what it printed."""
    done = subprocess.run(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(words[:3])}: {done.stdout.strip()[-300:]}")
    return done.stdout


def prepare(state: State, _request: Request) -> Request:
    """Wait until nothing is left to start, close what only a session may open, and look where Docker keeps its id."""
    deadline = time.monotonic() + PATIENCE
    while run("systemctl", "list-jobs", "--no-legend", check=False).strip():
        if time.monotonic() > deadline:
            raise RuntimeError("the machine is still starting: " + run("systemctl", "list-jobs", "--no-legend"))
        time.sleep(0.5)
    active = run("systemctl", "is-active", *SOCKETS, check=False).split()
    state.sockets = [unit for unit, how in zip(SOCKETS, active, strict=False) if how == "active"]
    if state.sockets:
        run("systemctl", "stop", *state.sockets)
    told = run("systemctl", "show", "--property=MainPID", "--value", *SERVICES, check=False).split()
    sshds = [int(pid) for pid in {*told} - {"0"}]  # one of the two may be another name of the other
    state.key_pipe = wait_for_key(sshds)
    if state.key_pipe < 0:
        state.held = sshds
        for pid in state.held:
            os.kill(pid, signal.SIGSTOP)
    state.docker_id, places = find_docker_id()
    memory = {pid: os.open(f"/proc/{pid}/mem", os.O_RDWR) for pid, _ in places}
    state.docker = [(memory[pid], address) for pid, address in places]
    hide_boot_id()
    state.table = table()
    for path in (*(target for _, target, _ in state.table), ENGINE_ID, CONTAINERD_ID, BOOT_ID):
        with contextlib.suppress(OSError):
            state.kept[path] = Kept(path)
    for name in os.listdir(IDENTITY):
        if name != "token":
            os.unlink(os.path.join(IDENTITY, name))
    os.sync()
    for kept in state.kept.values():
        kept.make_ready()
    with contextlib.suppress(OSError):  # before whatever else wakes in a restored machine
        os.sched_setscheduler(0, os.SCHED_FIFO, FIRST)
    return {}


def hide_boot_id() -> None:
    """Lay a file over the kernel's boot_id, which every copy of this machine would have."""
    write(BOOT_ID, (str(uuid.uuid4()) + "\n").encode(), 0o444)
    if libc.mount(BOOT_ID.encode(), b"/proc/sys/kernel/random/boot_id", None, MS_BIND, None):
        raise OSError(ctypes.get_errno(), "boot_id: " + os.strerror(ctypes.get_errno()))


def table() -> list[tuple[str, str, int]]:
    """Return (name, where it belongs, mode) of each file of an identity."""
    with open(TABLE) as rows:
        found = (line.split() for line in rows if not line.startswith("#"))
        return [(name, target, int(mode, 8)) for name, target, mode in found]


def wait_for_key(sshds: list[int]) -> int:
    """Start sshd anew up to the point where it reads its host key, which is a pipe meanwhile, so that a session waits
    for the rest of its start only. Return the pipe's end, -1 where sshd does not read that key.
    """
    try:
        with open(HOST_KEY, "rb") as file:
            known = file.read()
    except OSError:
        return -1
    os.unlink(HOST_KEY)
    os.mkfifo(HOST_KEY, 0o600)
    try:
        for pid in sshds:
            os.kill(pid, signal.SIGHUP)
        deadline = time.monotonic() + KEY_PATIENCE
        while sshds and time.monotonic() < deadline:
            try:
                pipe = os.open(HOST_KEY, os.O_WRONLY | os.O_NONBLOCK)
            except OSError:  # nobody reads it yet (ENXIO, fifo(7))
                time.sleep(0.05)
                continue
            os.set_blocking(pipe, True)
            return pipe
        return -1
    finally:
        os.unlink(HOST_KEY)
        write(HOST_KEY, known, 0o600)


def let_sshd_go(state: State, key: bytes) -> None:
    """Let sshd go on with the session's host key: it listens from then on."""
    if state.key_pipe >= 0:
        os.write(state.key_pipe, key)
        os.close(state.key_pipe)
        state.key_pipe = -1
    for pid in state.held:
        os.kill(pid, signal.SIGHUP)
        os.kill(pid, signal.SIGCONT)


def find_docker_id() -> tuple[bytes, list[tuple[int, int]]]:
    """Return Docker's id and (pid, address) of every copy in dockerd's memory: it reads its file only at its start."""
    try:
        with open(ENGINE_ID, "rb") as file:
            known = file.read().strip()
    except OSError:
        return b"", []
    found: list[tuple[int, int]] = []
    for pid in (int(path.split("/")[2]) for path in glob.glob("/proc/[0-9]*/comm") if read(path) == "dockerd"):
        with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb") as memory:
            for line in maps:
                span = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw.p ", line)
                if not span or "[v" in line:
                    continue
                start, end = (int(part, 16) for part in span.groups())
                found += [(pid, start + at) for at in search(memory, start, end, known)]
    return known, found


def search(memory: BinaryIO, start: int, end: int, word: bytes) -> list[int]:
    """Return the offsets of a word between two addresses; pages nobody has touched read as zeros."""
    offsets: list[int] = []
    step, at = 4 << 20, start
    while at < end:
        size = min(step + len(word), end - at)
        try:
            memory.seek(at)
            block = memory.read(size)
        except OSError:
            block = b""
        here = block.find(word)
        while here >= 0:
            if here < step:
                offsets.append(at - start + here)
            here = block.find(word, here + 1)
        at += step
    return offsets


def change_docker_id(state: State, new: bytes) -> None:
    """Give Docker a new id, in its file and in the running daemon's memory: a restart would take longer than a boot."""
    if not state.docker_id:
        return
    put(state, ENGINE_ID, new)
    for memory, address in state.docker:
        if os.pread(memory, len(new), address) == state.docker_id:
            os.pwrite(memory, new, address)
    state.docker_id = new


def set_clock(state: State, request: Request) -> None:
    """Move the clock by a step, or set it to the host's: what the request says, and the time since it came."""
    if "step" in request:
        time.clock_settime(time.CLOCK_REALTIME, time.time() + float(request["step"]))
    elif "time" in request:
        time.clock_settime(time.CLOCK_REALTIME, float(request["time"]) + since_request(state))


def since_request(state: State) -> float:
    """Return the seconds since the request came to this machine, which may have been long before it was read."""
    if state.connection is None:
        return 0.0
    told = state.connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, LAST_DATA_RECV.stop)
    return int.from_bytes(told[LAST_DATA_RECV], sys.byteorder) / 1000.0


def reseed(state: State, entropy: bytes) -> None:
    """Give the kernel's generator what no other copy has, and make it use that at once."""
    fcntl.ioctl(state.random, RNDADDENTROPY, struct.pack("ii", 8 * len(entropy), len(entropy)) + entropy)
    fcntl.ioctl(state.random, RNDRESEEDCRNG)


def adopt(state: State, request: Request) -> Request:
    """Become the session's machine. sshd goes on as soon as it has all it needs; the clock comes last, because many
    a program wakes when it is set.

    No program is started: that takes an emulated machine a tenth of a second each.
    """
    reseed(state, bytes.fromhex(request["entropy"]))
    state.token = request["token_next"]
    identity = request["identity"]
    sshd_needs = {name: identity.pop(name) for name in SSHD_NEEDS if name in identity}
    apply_identity(sshd_needs, state)
    let_sshd_go(state, sshd_needs.get(SSHD_NEEDS[1], "").encode())
    apply_identity(identity, state)
    boot, containerd, docker = request["ids"]
    put(state, BOOT_ID, boot.encode() + b"\n", 0o444)
    if CONTAINERD_ID in state.kept:
        put(state, CONTAINERD_ID, containerd.encode())
    change_docker_id(state, docker.encode())
    later = [*state.sockets]
    if request.get("env"):
        write("/run/dozlab/env", request["env"].encode())
        later.append("dozlab-workspace.service")
    state.later = later
    set_clock(state, request)
    return {"docker": bool(state.docker_id)}


def apply_identity(files: dict[str, str], state: State | None = None) -> None:
    """Put files (name -> content) where they belong, as apply-identity does at a boot; some are at hand in `state`."""
    for name, target, mode in state.table if state else table():
        if name in files:
            if state:
                put(state, target, files[name].encode(), mode)
            else:
                write(target, files[name].encode(), mode)
    if "hostname" in files:
        socket.sethostname(files["hostname"].strip())


def afterwards(state: State) -> None:
    """What a session need not wait for."""
    units, state.later = state.later or [], None
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_OTHER, AS_ALL)
    for kept in state.kept.values():
        kept.done()
    for memory in {memory for memory, _ in state.docker}:
        os.close(memory)
    state.kept, state.docker = {}, []
    try:
        write("/var/lib/systemd/random-seed", os.urandom(512), 0o600)
        if units:
            run("systemctl", "start", "--no-block", *units)
    except (OSError, RuntimeError) as error:
        sys.stderr.write(f"adopt: {error}\n")


def refresh(state: State, request: Request) -> Request:
    """Go on after a return to a checkpoint: the same machine, but later, with other random numbers and today's keys."""
    set_clock(state, request)
    reseed(state, bytes.fromhex(request["entropy"]))
    apply_identity(request["identity"])
    threading.Thread(target=touch_workspace, daemon=True).start()
    return {}


def touch_workspace() -> None:
    """Meet the error that the first access to /workspace gives when its connection has gone, before a learner does."""
    with contextlib.suppress(OSError):
        os.statvfs("/workspace")


def clock(state: State, request: Request) -> Request:
    """Only the clock, as after a pause."""
    set_clock(state, request)
    return {}


VERBS = {"prepare": prepare, "adopt": adopt, "refresh": refresh, "clock": clock}


def read(path: str) -> str:
    """Return a small file without its last newline, empty where it cannot be read."""
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return ""


def put(state: State, path: str, data: bytes, mode: int = 0o644) -> None:
    """Write a file in its place where it is kept at hand, which is quicker than `write`; nobody reads it yet."""
    if path in state.kept:
        state.kept[path].put(data)
    else:
        write(path, data, mode)


def write(path: str, data: bytes, mode: int = 0o644) -> None:
    """Write a file, whole or not at all."""
    temp = path + ".dozlab"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temp)
    fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        os.fchmod(fd, mode)
    os.rename(temp, path)


def answer(state: State, line: bytes) -> Request:
    """Return the answer to one request."""
    try:
        # Not json.loads, which looks for white space with a regular expression.
        request, _ = DECODER.raw_decode(line.decode())
        if not hmac.compare_digest(str(request.get("token", "")), state.token):
            return {"ok": False, "error": "not the key of this machine"}
        return {"ok": True, **VERBS[request["verb"]](state, request), "time": time.time()}
    except Exception as error:  # whatever it is, the host has to hear it
        return {"ok": False, "error": f"{type(error).__name__}: {error}"}


def request_line(connection: socket.socket) -> bytes:
    """Return what a connection sends up to its first newline, or its end."""
    line = b""
    while not line.endswith(b"\n") and len(line) < LIMIT and (more := connection.recv(LIMIT)):
        line += more
    return line


def main() -> None:
    """Serve until the machine ends."""
    state = State(read(os.path.join(IDENTITY, "token")))
    os.unlink(os.path.join(IDENTITY, "token"))
    server = socket.socket(fileno=3)  # systemd's (sd_listen_fds(3))
    while True:
        server.settimeout(QUIET if state.later is not None else None)
        try:
            connection, _ = server.accept()
        except TimeoutError:
            afterwards(state)
            continue
        with connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, TEN_SECONDS)
            state.connection = connection
            try:
                connection.sendall(json.dumps(answer(state, request_line(connection))).encode() + b"\n")
            except OSError as error:
                sys.stderr.write(f"adopt: {error}\n")


if __name__ == "__main__":
    main()
