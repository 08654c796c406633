"""Bad input and faults: each one clear line, the right exit code, nothing left behind."""

from __future__ import annotations

import gzip
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.machine.conftest import NO_EDITOR, SMALL
from tests.support import Dozlab, until
from tests.tiny import small_ext4, without_init, without_services

pytestmark = pytest.mark.usefixtures("clean")
QUICK = ["--cold", *SMALL, *NO_EDITOR, "--set", "terminal.enabled=false"]


def refused(dozlab: Dozlab, code: int, *words: str, timeout: float = 120) -> list[str]:
    """Run a verb that must fail and return its error lines; nothing of the session may be left."""
    done = dozlab.run(*words, check=False, timeout=timeout)
    lines = [line.removeprefix("error: ") for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "bad" not in dozlab.run("ls").stdout.split()
    return lines


# Bad input


def test_bad_values_all_at_once(dozlab: Dozlab, tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    file.write_text("vm: {memroy: 1, cpuCount: many}\nrootfs: {diskSize: 63M}\n")
    assert refused(dozlab, 2, "up", "bad", "-f", str(file), "--set", "nonsense=1") == [
        "vm.cpuCount: Input should be a valid integer, unable to parse string as an integer (got 'many')",
        "vm.memroy: unknown value; did you mean memory?",
        "nonsense: unknown value",
    ]
    assert refused(dozlab, 2, "up", "bad", "--set", "rootfs.diskSize=63M") == [
        "rootfs.diskSize: 63M is too small; at least 64.0 MiB"
    ]


@pytest.mark.parametrize("text", ["a: [", "- list\n", "\xff\xfe"])
def test_bad_values_files(dozlab: Dozlab, tmp_path: Path, text: str) -> None:
    file = tmp_path / "values.yaml"
    file.write_bytes(text.encode("latin-1"))
    (line,) = refused(dozlab, 2, "up", "bad", "-f", str(file))
    assert line.startswith(str(file))


def test_bad_ids(dozlab: Dozlab) -> None:
    for name in ("Bad", "-x", "a/b", "..", "x" * 41):
        assert len(refused(dozlab, 2, "up", "--", name)) == 1
    (line,) = refused(dozlab, 3, "down", "nobody-there")
    assert line.startswith("no session 'nobody-there' (there is: ")


def test_an_image_that_is_not_there(dozlab: Dozlab) -> None:
    assert refused(dozlab, 1, "up", "bad", *QUICK, "--image", "unknown-name") == [
        "no image 'unknown-name' in the store; build it: dozlab image build unknown-name"
    ]
    (line,) = refused(dozlab, 1, "up", "bad", *QUICK, "--image", "/nonexistent/image")
    assert line == "no such image file: /nonexistent/image"


def test_a_published_port_in_use(dozlab: Dozlab) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        (line,) = refused(dozlab, 1, "up", "bad", *QUICK, "--set", f"publish.ssh={port}")
    assert line.startswith(f"publish.ssh: port {port} of 127.0.0.1 is in use")


class _Images(BaseHTTPRequestHandler):
    """Serves what a test needs to go wrong."""

    image = b""

    def do_HEAD(self) -> None:
        self._head()

    def do_GET(self) -> None:
        if self._head():
            self.wfile.write(self.image[: len(self.image) // 2] if self.path == "/cut" else self.image)

    def _head(self) -> bool:
        if self.path == "/missing":
            self.send_error(404)
            return False
        self.send_response(200)
        length = 1 << 50 if self.path == "/huge" else len(self.image)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        return True

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def images() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Images)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("path", "words"),
    [("/missing", "404"), ("/cut", "broke off"), ("/huge", "too large|does not fit|free"), ("/rubbish", "not an ext4")],
)
def test_downloads_that_fail(dozlab: Dozlab, images: str, tmp_path: Path, path: str, words: str) -> None:
    import re

    ext4 = small_ext4(tmp_path).read_bytes()
    _Images.image = b"rubbish" * 1000 if path == "/rubbish" else ext4
    (line,) = refused(dozlab, 1, "up", "bad", *QUICK, "--image", images + path)
    assert line.startswith("session bad did not start: ")
    assert re.search(words, line), line


def test_a_refused_connection_and_a_wrong_digest(dozlab: Dozlab, images: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    (line,) = refused(dozlab, 1, "up", "bad", *QUICK, "--image", f"http://127.0.0.1:{port}/x")
    assert "refused" in line or "connect" in line.lower()
    _Images.image = small_ext4(tmp_path).read_bytes()
    wrong = "0" * 64
    (line,) = refused(dozlab, 1, "up", "bad", *QUICK, "--image", images + "/x", "--set", f"rootfs.sha256={wrong}")
    assert wrong in line


def test_a_truncated_archive(dozlab: Dozlab, tmp_path: Path) -> None:
    data = gzip.compress(os.urandom(1 << 20) + small_ext4(tmp_path).read_bytes(), 1)
    (tmp_path / "cut.gz").write_bytes(data[: len(data) // 2])
    (line,) = refused(dozlab, 1, "up", "bad", *QUICK, "--image", str(tmp_path / "cut.gz"))
    assert "session bad did not start: " in line


def test_images_that_cannot_be_a_machine(dozlab: Dozlab, tmp_path: Path) -> None:
    """Without /sbin/init; without sshd (its guest is busybox running a shell script that never ends)."""
    (line,) = refused(dozlab, 1, "up", "bad", *QUICK, "--image", str(without_init(tmp_path)), timeout=200)
    assert line == "session bad did not start: the VM failed: base image has no /sbin/init", line

    (line,) = refused(dozlab, 1, "up", "bad", *QUICK, "--image", str(without_services(tmp_path)), timeout=200)
    assert line == "session bad cannot be used: the image has no sshd"


# What the machine lacks


@pytest.mark.root
@pytest.mark.parametrize(
    ("program", "line"),
    [
        ("pasta", "pasta is not installed; run: sudo apt-get install passt"),
        ("mke2fs", "mke2fs is not installed; run: sudo apt-get install e2fsprogs"),
        ("qemu-system-x86_64", "qemu-system-x86_64 is not installed; run: sudo apt-get install qemu-system-x86"),
    ],
)
def test_a_missing_program(dozlab: Dozlab, program: str, line: str) -> None:
    """The program hidden by an empty file over it, in a mount namespace of the test's own."""
    path = os.path.realpath(shutil.which(program) or "")
    script = 'mount --bind /dev/null "$1" && shift && exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", path, *dozlab.argv("up", "bad", *QUICK)],
        env=dozlab.environment(), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"error: {line}"


@pytest.mark.root
def test_no_right_on_the_tun_device(user_dozlab: Dozlab) -> None:
    os.chmod("/dev/net/tun", 0o600)
    done = user_dozlab.run("up", "bad", *QUICK, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "error: no right to open /dev/net/tun; run: sudo chmod 0666 /dev/net/tun (Debian's default)"
    )


# Faults of running sessions. None of these needs a guest that has booted.


def _started(dozlab: Dozlab, name: str) -> dict[str, int]:
    """Start a session, wait for its VMM and return the host's pids by role."""
    dozlab.run("up", name, *QUICK, "--no-wait")
    until(lambda: "vmm" in _done(dozlab, name), what="the VMM", seconds=240)
    return _pids(dozlab, name)


def _done(dozlab: Dozlab, name: str) -> set[str]:
    return {row["stage"] for row in dozlab.json("status", name)["stages"] if row["event"] == "done"}


def _pids(dozlab: Dozlab, name: str) -> dict[str, int]:
    from dozlab.session.inside import _descendants

    supervisor = int(dozlab.json("status", name)["supervisor"])
    found = {"supervisor": supervisor}
    with open(f"/proc/{supervisor}/stat") as file:
        found["pasta"] = int(file.read().rpartition(")")[2].split()[1])
    for pid in _descendants(supervisor):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):  # ended while we looked
            continue
        if b"qemu-system" in words.split(b"\0")[0]:
            found["qemu"] = pid
        elif b"dozlab.firecracker_vm" in words:
            found["firecracker-vm"] = pid
    return found


@pytest.mark.parametrize(
    ("role", "state", "reason"),
    [
        ("qemu", "failed", "signal 9|killed|SIGKILL"),
        ("firecracker-vm", "failed", "ended by signal 9"),
        ("supervisor", "dead", "its supervisor was killed"),
        ("pasta", "stopped", "stopped from outside|uplink"),
    ],
)
def test_kill_9(dozlab: Dozlab, role: str, state: str, reason: str) -> None:
    import re

    pids = _started(dozlab, "victim")
    os.kill(pids[role], signal.SIGKILL)
    until(
        lambda: dozlab.json("status", "victim")["state"] == state, what=f"{state} after kill -9 of {role}", seconds=180
    )
    status = dozlab.json("status", "victim")
    assert re.search(reason, status["reason"]), status["reason"]
    until(lambda: not [pid for pid in pids.values() if os.path.exists(f"/proc/{pid}")], what="every end", seconds=120)
    dozlab.run("down", "victim")


def test_two_ups_of_one_id_at_once(dozlab: Dozlab) -> None:
    first, second = (dozlab.popen("up", "twin", *QUICK, "--no-wait") for _ in range(2))
    outputs = [process.communicate(timeout=240)[0] for process in (first, second)]
    assert sorted((first.returncode, second.returncode)) == [0, 1], outputs
    loser = outputs[0] if first.returncode else outputs[1]
    assert "error: session twin is" in loser
    dozlab.run("down", "twin")


@pytest.mark.parametrize("stage", ["", "rootfs", "network", "vmm", "kernel"])
def test_ctrl_c_at_every_stage(dozlab: Dozlab, stage: str) -> None:
    process = dozlab.popen("up", "brief", *QUICK)
    assert process.stdout
    line = ""
    while stage and f"✓ {stage}" not in line:
        line = process.stdout.readline()
        assert line, "up ended by itself"
    if not stage:
        folder = dozlab.state / "dozlab/sessions/brief"
        until(folder.exists, what="the first sign of the session", seconds=60)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=240)
    assert process.returncode == 130
    assert "brief" not in dozlab.run("ls").stdout


@pytest.mark.parametrize("delay", [0.0, 0.15, 0.3, 0.5, 0.8])
def test_down_at_any_moment_of_a_start(dozlab: Dozlab, delay: float) -> None:
    """pasta, ended while it makes its namespaces, leaves a child that waits for ever: `down` finds that one too."""
    dozlab.run("up", "hasty", *QUICK, "--no-wait")
    time.sleep(delay)
    dozlab.run("down", "hasty")


def test_down_all(dozlab: Dozlab) -> None:
    _started(dozlab, "one")
    dozlab.run("down", "one")
    assert dozlab.run("down", "one", check=False).returncode == 3
    assert dozlab.run("down", check=False).returncode == 2
