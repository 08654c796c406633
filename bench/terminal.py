"""The web terminal against ttyd: throughput, Ctrl-C, echo, processor time and memory, before the same sshd.

Rival: ttyd (Debian sid's, unpacked below the cache) as `ttyd ssh -tt`, the usual way to a shell on another machine.
Both talk to one real OpenSSH sshd on 127.0.0.1 with the same cipher, neither compresses, and one client program
(bench/terminals/client.py) speaks both protocols. Rounds alternate between the two, and so do keys within a round;
figures are medians.
ttyd's ssh processes count as ttyd's: without them it serves nothing. sshd and the shells count for neither.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench.common import Goal, Report, free_port, machine, main, ratio_of_medians, say, scratch
from bench.memory import fields, tree
from bench.rivals import ttyd
from bench.start import percentile
from bench.terminals import sshd
from bench.terminals.client import Kind, Terminal

from dozlab.lib.errors import DozlabError
from dozlab.terminal_sidecar.settings import Settings

THROUGHPUT_GOAL = 1.2  # times ttyd's
CTRL_C_GOAL, CTRL_C_RATIO_GOAL = 0.1, 0.3  # seconds; of ttyd's
ECHO_GOAL = 1.0  # of ttyd's, p50 and p99
CLIENT_GOAL = 30.0  # kB per idle client
GROWTH_GOAL = 2.0  # MiB behind a slow and a stopped reader
SLOW = 5 << 20  # bytes a second
_GAP = 0.004  # seconds between two keys, so that each wakes an idle server
PASSWORD = "bench"
KINDS: tuple[Kind, Kind] = ("ours", "ttyd")


@dataclass
class Server:
    """One of the two servers, running."""

    kind: Kind
    port: int
    process: subprocess.Popen[bytes]
    cookie: str = ""
    shells: int = 0

    def open(self, shell: str = "main") -> Terminal:
        """Return a client at a prompt."""
        terminal = Terminal(self.kind, self.port, cookie=self.cookie, shell=shell)
        terminal.type(b"PS1='> '; echo up-$((1+1))\r")
        terminal.until(b"up-2")
        return terminal

    def cpu(self) -> float:
        """Return the processor time of the server and its children so far, in seconds (proc(5), stat)."""
        ticks = 0
        for pid in tree(self.process.pid):
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += sum(map(int, words[11:15] if pid == self.process.pid else words[11:13]))
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory(self) -> float:
        """Return the PSS of the server and its children, in MiB."""
        kib = 0
        for pid in tree(self.process.pid):
            with contextlib.suppress(OSError):  # it has just ended
                kib += sum(fields(Path(f"/proc/{pid}/smaps_rollup").read_text(), "Pss"))
        return kib / 1024

    def alone(self) -> None:
        """Wait until the server has no children left of clients that have gone."""
        end = time.monotonic() + 10
        while len(tree(self.process.pid)) > 1 and time.monotonic() < end:
            time.sleep(0.05)


@dataclass
class Figures:
    """What was measured of one server, a value a round."""

    throughput: list[float] = field(default_factory=list)  # MB/s
    cpu: list[float] = field(default_factory=list)  # milliseconds per MB
    ctrl_c: list[float] = field(default_factory=list)  # seconds
    echo: list[list[float]] = field(default_factory=list)  # milliseconds
    slow: float = 0.0  # MiB grown
    stopped: float = 0.0
    client: dict[str, float] = field(default_factory=dict)  # kB per idle client, by what they share

    def as_dict(self) -> dict[str, Any]:
        """Return medians and their rounds."""
        return {
            "throughput_mb_s": {"median": statistics.median(self.throughput), "rounds": self.throughput},
            "cpu_ms_per_mb": {"median": statistics.median(self.cpu), "rounds": self.cpu},
            "ctrl_c_s": {"median": statistics.median(self.ctrl_c), "rounds": self.ctrl_c},
            "echo_ms": {f"p{p}": [percentile(samples, p) for samples in self.echo] for p in (50, 95, 99)},
            "grown_mib": {"slow_reader": self.slow, "stopped_reader": self.stopped},
            "kb_per_idle_client": self.client,
        }

    def echo_at(self, percent: float) -> list[float]:
        """Return that percentile of every round."""
        return [percentile(samples, percent) for samples in self.echo]


@contextlib.contextmanager
def ours(shared: Path, guest: sshd.Sshd) -> Iterator[Server]:
    """Yield the terminal sidecar as it is shipped: every shell is recorded."""
    port, recordings = free_port(), shared / "recordings"
    recordings.mkdir()
    environment = {
        **os.environ, "SESSION_ID": "bench", "PASSWORD": PASSWORD, "SHARED_DIR": str(shared),
        "VM_IP": "127.0.0.1", "VM_SSH_PORT": str(guest.port), "SSH_USER": guest.user, "HOST": "127.0.0.1",
        "PORT": str(port), "MAX_CLIENTS": "1000", "MAX_SHELLS": "100", "LOG_LEVEL": "warning",
        "RECORDING_DIR": str(recordings),
    }  # fmt: skip
    process = subprocess.Popen([sys.executable, "-m", "dozlab.terminal_sidecar"], env=environment)
    try:
        _until(lambda: _ready(port), process, "the terminal sidecar")
        yield Server("ours", port, process, _log_in(port))
    finally:
        process.terminate()
        process.wait(20)


def _ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with contextlib.closing(connection), contextlib.suppress(OSError):
        connection.request("GET", "/ready")
        return connection.getresponse().status == 200
    return False


def _log_in(port: int) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        connection.request("POST", "/login", urlencode({"password": PASSWORD}), kind)
        reply = connection.getresponse()
        return "; ".join(line.split(";")[0] for line in reply.headers.get_all("set-cookie", []))


@contextlib.contextmanager
def theirs(work: Path, guest: sshd.Sshd) -> Iterator[tuple[Server, str]]:
    """Yield ttyd and its version."""
    port = free_port()
    process, version = ttyd.start(work, port, guest.client_options())

    def answers() -> bool:
        with contextlib.suppress(OSError):
            Terminal("ttyd", port).close()
            return True
        return False

    try:
        _until(answers, process, "ttyd")
        yield Server("ttyd", port, process), version
    finally:
        process.send_signal(signal.SIGINT)  # what it stops on, its clients with it
        process.wait(20)


def _until(done: Callable[[], bool], process: subprocess.Popen[bytes], what: str) -> None:
    end = time.monotonic() + 30
    while not done():
        if process.poll() is not None or time.monotonic() > end:
            raise DozlabError(f"{what} did not start")
        time.sleep(0.05)


# --- one measurement each


def throughput(server: Server, terminal: Terminal, file: Path) -> tuple[float, float]:
    """Return MB/s of `cat FILE`, and the milliseconds of processor time per MB."""
    before, begun = server.cpu(), time.monotonic()
    terminal.type(f"cat {file}; echo all-$((1+1))\r".encode())
    size = terminal.until(b"all-2")
    spent = time.monotonic() - begun
    return size / 1e6 / spent, (server.cpu() - before) * 1000 / (size / 1e6)


def echo(terminals: dict[Kind, Terminal], count: int) -> dict[Kind, list[float]]:
    """Return the milliseconds that each of `count` keys took to come back, echoed by the guest's terminal.

    The servers take turns key by key, in an order that is drawn each time: a machine is never the same for a second.
    What is seen counts: the acknowledgement that our protocol sends for it comes after that.
    """
    times: dict[Kind, list[float]] = {kind: [] for kind in terminals}
    turn, dice = list(terminals), random.Random(count)
    for terminal in terminals.values():
        terminal.type(b"cat >/dev/null; echo done-$((1+1))\r")
        terminal.until(b"\n")
    for number in range(count):
        dice.shuffle(turn)
        for kind in turn:
            terminal = terminals[kind]
            time.sleep(_GAP)
            begun = time.perf_counter()
            terminal.type(b"k")
            terminal.until(b"k")
            times[kind].append((terminal.seen - begun) * 1000)
            if number % 60 == 59:
                terminal.type(b"\r")
                terminal.until(b"\n")
    for terminal in terminals.values():
        terminal.type(b"\r\x04")
        terminal.until(b"done-2")
    return times


def ctrl_c(terminal: Terminal) -> float:
    """Return the seconds from ^C under `yes` until it is seen, for a client that takes 5 MB/s."""
    terminal.type(b"yes\r")
    terminal.drain(1.5, SLOW)
    begun = time.monotonic()
    terminal.type(b"\x03")
    terminal.until(b"^C", rate=SLOW)
    spent = time.monotonic() - begun
    settle(terminal)
    return spent


def settle(terminal: Terminal) -> None:
    """Come back to a prompt."""
    terminal.type(b"echo settled-$((1+1))\r")
    terminal.until(b"settled-2")


def grown(server: Server, terminal: Terminal, rate: float) -> float:
    """Return the MiB that the server grows by in 4 s of `yes` read at `rate` bytes a second (0: not at all)."""
    before = server.memory()
    terminal.type(b"yes\r")
    if rate:
        terminal.drain(4, rate)
    else:
        time.sleep(4)
    after = server.memory()
    terminal.type(b"\x03")
    terminal.until(b"^C")
    settle(terminal)
    return after - before


def idle_clients(server: Server, count: int, shell: Callable[[int], str]) -> float:
    """Return the kB that each of `count` clients at a prompt costs the server."""
    server.alone()
    before = server.memory()
    with contextlib.ExitStack() as stack:
        for number in range(count):
            stack.callback(server.open(shell(number)).close)
        return (server.memory() - before) * 1024 * 1.024 / count


# --- the whole


def measure(options: argparse.Namespace) -> Report:
    """Run both servers side by side and compare.

    :raises DozlabError: when one does not start, or the page is not built
    """
    if not (Settings("x").page_dir / "index.html").exists():
        raise DozlabError("the terminal's page is not built", hint="run: make page")
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(scratch())
        file = folder / "lines"
        with file.open("w") as lines:
            for number in range(options.size * 1_000_000 // 80):
                lines.write(f"{number:010d} {'abcdefghij ' * 7}"[:79] + "\n")
        facts = machine()
        guest = stack.enter_context(sshd.running(folder))
        us = stack.enter_context(ours(folder, guest))
        they, version = stack.enter_context(theirs(folder / "ttyd", guest))
        found = rounds((us, they), file, options)
    return report(found, facts, version)


def rounds(servers: tuple[Server, Server], file: Path, options: argparse.Namespace) -> dict[Kind, Figures]:
    """Measure both in turn."""
    found: dict[Kind, Figures] = {kind: Figures() for kind in KINDS}
    for number in range(options.rounds):
        for server in servers if number % 2 == 0 else servers[::-1]:
            figures = found[server.kind]
            say(f"round {number + 1} of {options.rounds}: {server.kind}")
            with contextlib.closing(server.open()) as client:  # a new one: who idles does not answer pings
                rate, cost = throughput(server, client, file)
                figures.throughput.append(rate)
                figures.cpu.append(cost)
                figures.ctrl_c.append(ctrl_c(client))
        with contextlib.ExitStack() as stack:
            both = {server.kind: stack.enter_context(contextlib.closing(server.open())) for server in servers}
            say(f"round {number + 1} of {options.rounds}: keys")
            for kind, times in echo(both, options.keys).items():
                found[kind].echo.append(times)
    for server in servers:
        figures = found[server.kind]
        say(f"memory: {server.kind}")
        with contextlib.closing(server.open()) as client:
            figures.slow, figures.stopped = grown(server, client, SLOW / 5), grown(server, client, 0)
        if server.kind == "ours":  # first: what others leave behind would be taken again
            figures.client["one_shell"] = idle_clients(server, options.clients, lambda number: "main")
        figures.client["own_shell"] = idle_clients(
            server, options.clients, lambda number: f"s{number}" if number else "main"
        )
    return found


def report(found: dict[Kind, Figures], facts: dict[str, Any], version: str) -> Report:
    """Return the verdict. Pure."""
    us, they = found["ours"], found["ttyd"]
    ratio = {
        "throughput": ratio_of_medians(us.throughput, they.throughput),
        "ctrl_c": ratio_of_medians(us.ctrl_c, they.ctrl_c),
        "echo_p50": ratio_of_medians(us.echo_at(50), they.echo_at(50)),
        "echo_p99": ratio_of_medians(us.echo_at(99), they.echo_at(99)),
        "cpu": ratio_of_medians(us.cpu, they.cpu),
    }
    goals = [
        Goal("throughput, of ttyd's", ratio["throughput"], THROUGHPUT_GOAL, "at least"),
        Goal("^C under yes at 5 MB/s", statistics.median(us.ctrl_c), CTRL_C_GOAL, unit="s"),
        Goal("the same, of ttyd's", ratio["ctrl_c"], CTRL_C_RATIO_GOAL),
        Goal("echo p50, of ttyd's", ratio["echo_p50"], ECHO_GOAL),
        Goal("echo p99, of ttyd's", ratio["echo_p99"], ECHO_GOAL),
        Goal("memory per idle client", us.client["one_shell"], CLIENT_GOAL, unit="kB"),
        Goal("growth behind a slow reader", us.slow, GROWTH_GOAL, unit="MiB"),
        Goal("growth behind a stopped reader", us.stopped, GROWTH_GOAL, unit="MiB"),
    ]
    lines = [f"{'':24}{'ours':>10}{'ttyd':>10}"]

    def row(what: str, one: float, other: float) -> None:
        lines.append(f"{what:24}{one:10.3g}{other:10.3g}")

    row("throughput, MB/s", statistics.median(us.throughput), statistics.median(they.throughput))
    row("processor, ms per MB", statistics.median(us.cpu), statistics.median(they.cpu))
    row("^C at 5 MB/s, s", statistics.median(us.ctrl_c), statistics.median(they.ctrl_c))
    for percent in (50, 95, 99):
        row(f"echo p{percent}, ms", statistics.median(us.echo_at(percent)), statistics.median(they.echo_at(percent)))
    row("idle client, own shell, kB", us.client["own_shell"], they.client["own_shell"])
    row("slow reader, MiB grown", us.slow, they.slow)
    row("stopped reader, MiB", us.stopped, they.stopped)
    lines.append(f"idle client on one shell, kB: {us.client['one_shell']:.3g} (ttyd cannot share a shell)")
    figures = {"ours": us.as_dict(), "ttyd": they.as_dict(), "ratio": ratio}
    claim = "The terminal is faster than ttyd, answers Ctrl-C at once, and does not grow."
    return Report(claim, f"ttyd {version} before ssh -tt", facts, goals, figures, lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each, in turn (7)")
    parser.add_argument("--size", type=int, default=32, help="MB of output per throughput round (32)")
    parser.add_argument("--keys", type=int, default=600, help="keys echoed per round (600)")
    parser.add_argument("--clients", type=int, default=100, help="idle clients, at most 100 (100)")
    raise SystemExit(main(__doc__, measure, parser))
