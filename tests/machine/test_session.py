"""One running session, seen as its user sees it: SSH, Docker, the network's rules, the verbs of the command line."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.support import Dozlab, until


def http(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_status_tells_the_stages_and_the_parts(dozlab: Dozlab, lab: str) -> None:
    status = dozlab.json("status", lab)
    assert status["state"] == "running"
    assert status["vm"]["ssh"] and status["vm"]["docker"]
    done = {row["stage"] for row in status["stages"] if row["event"] == "done"}
    assert done == {"rootfs", "network", "vmm", "kernel", "init", "sshd", "dockerd", "terminal", "editor"}
    assert {name for name, part in status["components"].items() if part["running"]} == {
        "firecracker-vm", "terminal-sidecar", "code-server",
    }  # fmt: skip
    assert "lab" in dozlab.run("ls").stdout


def test_root_and_docker_in_the_guest(dozlab: Dozlab, lab: str) -> None:
    assert dozlab.ssh(lab, "id -un; hostname").split() == ["root", "lab"]
    assert "Hello" in dozlab.ssh(lab, "docker run --rm hello-world")
    info = json.loads(dozlab.ssh(lab, "docker info --format '{{json .}}'"))
    assert info["Driver"] == "overlay2"
    assert "extfs" in json.dumps(info["DriverStatus"])
    assert dozlab.ssh(lab, "docker compose version --short; docker buildx version | wc -l").split()[1] == "1"


def test_the_guest_is_whole(dozlab: Dozlab, lab: str) -> None:
    failed = dozlab.ssh(lab, "systemctl --failed --no-legend --plain")
    assert failed.strip() == ""
    assert dozlab.ssh(lab, "stat -c '%U %a' /root/.ssh/authorized_keys /etc/ssh/ssh_host_ed25519_key").split() == [
        "root", "600", "root", "600",
    ]  # fmt: skip


def test_exit_status_of_a_command_in_the_guest_comes_back(dozlab: Dozlab, lab: str) -> None:
    assert dozlab.run("ssh", lab, "--", "exit 7", check=False).returncode == 7


def test_password_login_is_refused(dozlab: Dozlab, lab: str) -> None:
    port = dozlab.json("status", lab)["urls"]["ssh"].split()[2]
    done = subprocess.run(
        ["ssh", "-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
         "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-i", "/dev/null", "-p", port, "root@127.0.0.1", "id"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 255
    assert "Permission denied (publickey)" in done.stderr


def test_pages_answer(dozlab: Dozlab, lab: str) -> None:
    urls = dozlab.json("status", lab)["urls"]
    assert http(urls["terminal"] + "health") == 200
    assert http(urls["terminal"] + "ready") == 200
    assert http(urls["vscode"] + "healthz") == 200


def test_docker_is_not_published_on_the_host(lab: str) -> None:
    with pytest.raises(OSError, match=r"refused|timed out"):
        socket.create_connection(("127.0.0.1", 2375), timeout=2)


def test_editor_side_has_docker_compose_and_buildx(dozlab: Dozlab, lab: str) -> None:
    run = ["exec", lab, "-c", "code-server", "--"]
    assert "Hello" in dozlab.run(*run, "docker", "run", "--rm", "hello-world").stdout
    assert dozlab.run(*run, "docker", "compose", "version").stdout.startswith("Docker Compose")
    assert "buildx" in dozlab.run(*run, "docker", "buildx", "version").stdout


def test_editor_side_sees_nothing_of_the_host(dozlab: Dozlab, lab: str) -> None:
    script = "ls / /home; cat /etc/shadow; ls /mnt /root /work; id -u; ps -e 2>/dev/null | wc -l; ls /shared"
    shown = dozlab.run("exec", lab, "-c", "code-server", "--", "sh", "-c", script, check=False)
    text = shown.stdout + shown.stderr
    for secret in ("id_ed25519", "vm.sock", "root:", "main", "dozlab-test"):
        assert secret not in text


def test_the_workspace_is_the_same_on_both_sides(dozlab: Dozlab, lab: str) -> None:
    until(
        lambda: "sshfs" in dozlab.ssh(lab, "findmnt -no FSTYPE /workspace", check=False),
        what="/workspace in the guest",
        seconds=240,
    )
    editor = ["exec", lab, "-c", "code-server", "--", "sh", "-c"]
    dozlab.run(*editor, "echo from-editor > /workspace/a; mkdir -p /workspace/d")
    assert dozlab.ssh(lab, "cat /workspace/a").strip() == "from-editor"
    dozlab.ssh(lab, "echo from-guest > /workspace/d/b; chown 1000:1000 /workspace/d/b; mv /workspace/d/b /workspace/c")
    assert dozlab.run(*editor, "cat /workspace/c").stdout.strip() == "from-guest"
    # hello-world is empty but for its program: the guest's own /usr lends it cat.
    lent = "-v /usr:/usr:ro -v /usr/lib:/lib:ro -v /usr/lib64:/lib64:ro --entrypoint /usr/bin/cat"
    out = dozlab.run(*editor, f"cd /workspace && docker run --rm -v $PWD:/x {lent} hello-world /x/c", check=False)
    assert out.stdout.strip() == "from-guest", out.stderr


def test_the_workspace_serves_git_locks_and_many_files(dozlab: Dozlab, lab: str) -> None:
    script = (
        "set -e; cd /workspace; rm -rf repo clone many; git init -q repo; cd repo;"
        " git -c user.name=a -c user.email=a@b commit -q --allow-empty -m x; cd ..; git clone -q repo clone;"
        " flock lockfile true; mkdir many; cd many; seq 1000 | xargs touch; ls | wc -l; cd ..;"
        " rm -rf repo clone many lockfile"
    )
    assert dozlab.ssh(lab, script, timeout=240).strip().endswith("1000")


class _Hello(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"host's own server")

    def log_message(self, *_args: object) -> None:
        pass


def test_the_guest_reaches_neither_the_host_nor_the_namespace(dozlab: Dozlab, lab: str) -> None:
    """The host's loopback and the session's own ports, by every address they have: all closed."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Hello) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        gateway = dozlab.ssh(lab, "ip route show default").split()[2]
        assert gateway == "172.16.0.1"
        shown = dozlab.run("exec", lab, "-c", "terminal-sidecar", "--", "ip", "-j", "-4", "address").stdout
        own = [info["local"] for link in json.loads(shown) for info in link["addr_info"]]
        assert len(own) >= 3
        closed = [f"{address}/{target}" for address in own for target in (port, 8080, 8081, 2222)]
        workspace = f"{gateway}/5540"  # open, so that the others could be
        probe = "(timeout {1} bash -c 'exec 3<>/dev/tcp/{0}' 2>/dev/null && echo {0}) &"
        script = " ".join([probe.format(workspace, 90), *(probe.format(target, 5) for target in closed)])
        assert dozlab.ssh(lab, f"{script} wait").split() == [workspace]
        server.shutdown()


def test_logs_of_every_part(dozlab: Dozlab, lab: str) -> None:
    assert "dozlab: stage=init" in dozlab.run("logs", lab, "-c", "firecracker-vm").stdout
    for name in ("init-rootfs", "network-setup", "terminal-sidecar", "code-server"):
        assert dozlab.run("logs", lab, "-c", name).stdout.strip(), name
    assert len(dozlab.run("logs", lab, "-c", "firecracker-vm", "--tail", "2").stdout.splitlines()) == 2
    assert dozlab.run("logs", lab, "-c", "nonsense", check=False).returncode == 2


def test_no_secret_in_logs_arguments_or_environment(dozlab: Dozlab, lab: str) -> None:
    everything = dozlab.run("logs", lab).stdout
    assert "lab-pass-word" not in everything
    assert "PRIVATE KEY" not in everything
    listing = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert "lab-pass-word" not in listing


@pytest.mark.root
def test_components_run_without_capabilities_under_a_uid_of_their_own(dozlab: Dozlab, lab: str) -> None:
    from dozlab.session.inside import _descendants

    seen = {}
    for pid in _descendants(dozlab.json("status", lab)["supervisor"]):
        with contextlib.suppress(OSError):  # ended while we looked
            words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            told = Path(f"/proc/{pid}/status").read_text()
            if name := re.search(r"qemu-system|firecracker_vm|terminal_sidecar|code_server", words):
                uid, caps = re.search(r"^Uid:\s*(\d+)", told, re.M), re.search(r"^CapEff:\s*(\w+)", told, re.M)
                assert uid and int(uid[1]) >= 720_000, words
                assert caps and int(caps[1], 16) == 0, words
                seen[name[0]] = pid
    assert seen.keys() >= {"firecracker_vm", "terminal_sidecar", "code_server"}, seen


def test_a_flood_on_the_console_costs_neither_disk_nor_the_session(dozlab: Dozlab, lab: str) -> None:
    log = dozlab.state / "dozlab/sessions" / lab / "logs/firecracker-vm.log"
    dozlab.ssh(lab, "timeout 15 sh -c 'yes flood-flood-flood-flood > /dev/console'; true", timeout=120)
    assert dozlab.ssh(lab, "echo alive").strip() == "alive"
    assert log.stat().st_size < 8 << 20


def test_a_guest_whose_clock_jumps_is_still_reached(dozlab: Dozlab, lab: str) -> None:
    before = int(dozlab.ssh(lab, "date +%s"))
    dozlab.ssh(lab, "date -s '+400 days' >/dev/null")
    try:
        assert int(dozlab.ssh(lab, "date +%s")) >= before + 400 * 86400
        assert dozlab.json("status", lab)["state"] == "running"
        assert http(dozlab.json("status", lab)["urls"]["terminal"] + "ready") == 200
    finally:
        dozlab.ssh(lab, "date -s '-400 days' >/dev/null")


def test_a_second_up_of_the_same_id_is_refused(dozlab: Dozlab, lab: str) -> None:
    done = dozlab.run("up", lab, check=False)
    assert done.returncode == 1
    assert done.stderr.strip() == "error: session lab is already running; see it: dozlab status lab"


@pytest.mark.parametrize("name", ["terminal-sidecar", "code-server"])
def test_a_killed_part_comes_back(dozlab: Dozlab, lab: str, name: str) -> None:
    before = dozlab.json("status", lab)["components"][name]
    pid = _host_pid(dozlab.json("status", lab)["supervisor"], before["pid"])
    subprocess.run(["kill", "-9", str(pid)], check=True)
    path, base = ("health", "terminal") if name == "terminal-sidecar" else ("healthz", "vscode")

    def back() -> bool:
        status = dozlab.json("status", lab)
        try:
            return (
                bool(status["components"][name]["restarts"] > before["restarts"])
                and http(status["urls"][base] + path) == 200
            )
        except OSError:
            return False

    until(back, what=f"{name} again", seconds=240)


def _host_pid(supervisor: int, inner: int) -> int:
    from dozlab.session.inside import _host_pid

    return _host_pid(supervisor, inner)
