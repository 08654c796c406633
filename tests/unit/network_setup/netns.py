"""Three network namespaces (guest, session, world) that end with the processes holding them. Test helper, root only.

Every namespace is held by one child `sleep`-like process in it and has no name: nothing can be left behind.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

HOLD = "import sys; sys.stdout.write('up\\n'); sys.stdout.flush(); sys.stdin.read()"

PUMP = """
import ctypes, fcntl, os, select, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
def tap(pid, name):
    fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    if libc.setns(fd, 0x40000000): raise OSError(ctypes.get_errno(), "setns")
    t = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(t, 0x400454CA, struct.pack("=16sH22x", name.encode(), 0x0002 | 0x1000 | 0x4000))
    return t
a, b = tap(sys.argv[1], sys.argv[2]), tap(sys.argv[3], sys.argv[4])
print("up", flush=True)
while True:
    for fd in select.select([a, b, 0], [], [])[0]:
        if fd == 0: sys.exit()
        frame = os.read(fd, 70000)
        try: os.write(b if fd == a else a, frame)
        except OSError: pass
"""

SERVE = """
import selectors, socket, sys
sel = selectors.DefaultSelector()
for port in map(int, sys.argv[1:]):
    t = socket.create_server(("", port), reuse_port=True); t.setblocking(False); sel.register(t, 1, "tcp")
    u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(("", port)); sel.register(u, 1, "udp")
sel.register(sys.stdin, 1, "end")
print("up", flush=True)
while True:
    for key, _ in sel.select():
        if key.data == "end": sys.exit()
        if key.data == "tcp":
            c, peer = key.fileobj.accept()
            mss = c.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
            c.sendall(str(mss if c.getsockname()[1] == 81 else peer[0]).encode()); c.close()
        else:
            _, peer = key.fileobj.recvfrom(2000); key.fileobj.sendto(peer[0].encode(), peer)
"""

ASK = """
import concurrent.futures as f, json, socket, sys
def ask(target):
    kind, host, port = target.lstrip("+").split(":")
    seconds = 20.0 if target[0] == "+" else 1.0
    try:
        if kind == "tcp":
            with socket.create_connection((host, int(port)), seconds) as s: return s.recv(100).decode()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.settimeout(seconds); s.sendto(b"x", (host, int(port))); return s.recv(100).decode()
    except OSError as e: return ""
with f.ThreadPoolExecutor(40) as pool: print(json.dumps(list(pool.map(ask, sys.argv[1:]))))
"""


class Held:
    """A child that prints `up` when it is ready and ends when its stdin closes."""

    def __init__(self, argv: Sequence[str]) -> None:
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        if self.process.stdout.readline() != "up\n":
            self.close()
            raise AssertionError(f"{argv[:6]} did not come up")

    @property
    def pid(self) -> int:
        return self.process.pid

    def close(self) -> None:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


class Lab:
    """The three namespaces: session has eth0 (a veth to world), guest hangs on the tap."""

    def __init__(self) -> None:
        self.held: list[Held] = []
        try:
            self.world, self.session, self.guest = (
                self._hold("unshare", "-n", sys.executable, "-c", HOLD) for _ in "123"
            )
            self.ip(self.session, "link add eth0 type veth peer name w0")
            self.ip(self.session, f"link set w0 netns {self.world.pid}")
            self.ip(self.session, "addr add 10.50.0.2/24 dev eth0", "link set eth0 up", "link set lo up")
            self.ip(self.session, "route add default via 10.50.0.1")
            self.ip(self.world, "addr add 10.50.0.1/24 dev w0", "link set w0 up", "link set lo up")
        except BaseException:
            self.close()
            raise

    def _hold(self, *argv: str) -> Held:
        held = Held(argv)
        self.held.append(held)
        return held

    def inside(self, where: Held, *argv: str) -> list[str]:
        return ["nsenter", f"--net=/proc/{where.pid}/ns/net", *argv]

    def ip(self, where: Held, *commands: str) -> None:
        for command in commands:
            subprocess.run(self.inside(where, "ip", *command.split()), check=True, capture_output=True)

    def serve(self, where: Held, *ports: int) -> None:
        self._hold(*self.inside(where, sys.executable, "-c", SERVE, *map(str, ports)))

    def plug_guest_in(self, address: str = "172.16.0.2/24", tap: str = "tap0") -> None:
        """Give the guest namespace a tap whose frames are pumped to and from the session's tap."""
        self.pump = self._hold(
            sys.executable, "-c", PUMP, str(self.session.pid), tap, str(self.guest.pid), "g0"
        )  # fmt: skip
        self.ip(self.guest, f"addr add {address} dev g0", "link set g0 up", "link set lo up")
        self.ip(self.guest, "route add default via 172.16.0.1")

    def ask(self, where: Held, *targets: str) -> dict[str, str]:
        """Return for each `tcp:HOST:PORT` or `udp:...` the address the server saw, empty when there was no answer.

        One that is written with a `+` before it is waited for: there is to be an answer, and the machine may be busy.
        """
        argv = self.inside(where, sys.executable, "-c", ASK, *targets)
        out = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
        return dict(zip((target.lstrip("+") for target in targets), json.loads(out), strict=True))

    def setup(self, shared: Path, *before: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run network-setup in the session's namespace, by way of the command words `before`."""
        full: Mapping[str, str] = {
            **os.environ, "SESSION_ID": "alpha", "SHARED_DIR": str(shared), "DNS_SERVERS": "10.50.0.1", **env,
        }  # fmt: skip
        argv = self.inside(self.session, *before, sys.executable, "-m", "dozlab.network_setup")
        return subprocess.run(argv, env=dict(full), capture_output=True, text=True, check=False, timeout=60)

    def read(self, *argv: str) -> str:
        return subprocess.run(
            self.inside(self.session, *argv), check=True, capture_output=True, text=True
        ).stdout  # fmt: skip

    def close(self) -> None:
        for held in reversed(self.held):
            held.close()
