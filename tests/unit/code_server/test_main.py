"""The component as a process: environment, timeline, signals, exit codes. Mirrors code_server/__main__.py.

Node is a real process here too: a few lines of Python in its place, serving /healthz.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dozlab.code_server.install import ENTRY
from dozlab.code_server.launch import command, environment, hash_password
from dozlab.code_server.settings import Settings
from dozlab.lib.errors import BadUsage
from tests.support import free_port

SERVER = """
import http.server, os, sys, pathlib
host, port = sys.argv[sys.argv.index("--bind-addr") + 1].split(":")
pathlib.Path(os.environ["HOME"], "pid").write_text(str(os.getpid()))
pathlib.Path(os.environ["HOME"], "environ").write_text("\\n".join(sorted(os.environ)))
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer((host, int(port)), Answer).serve_forever()
"""


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """An environment as the supervisor gives it, with our stand-in for Node."""
    for name in ("vm/workspace", "home", "shared"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "cs" / ENTRY).parent.mkdir(parents=True)
    (tmp_path / "cs" / ENTRY).write_text(SERVER)
    (tmp_path / "password").write_text("correct horse\n")
    return {
        "PATH": os.environ["PATH"], "SESSION_ID": "lab-1", "PASSWORD_FILE": str(tmp_path / "password"),
        "PORT": str(free_port()), "VM_DATA": str(tmp_path / "vm"), "VSCODE_DATA": str(tmp_path / "home"),
        "SHARED_DIR": str(tmp_path / "shared"), "CODE_SERVER_DIR": str(tmp_path / "cs"), "NODE_BIN": sys.executable,
        "SECRET_OF_OURS": "x",
    }  # fmt: skip


@pytest.fixture
def running(env: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    argv = [sys.executable, "-m", "dozlab.code_server", "--only", "editor"]
    with subprocess.Popen(argv, env=env, stderr=subprocess.PIPE, text=True) as process:
        yield process
        if process.poll() is None:
            process.kill()


def wait_healthy(process: subprocess.Popen[str]) -> None:
    assert process.stderr
    for line in process.stderr:
        if "is healthy" in line:
            return
    raise AssertionError("ended before it was healthy")


def timeline(env: dict[str, str]) -> list[tuple[str, str]]:
    lines = Path(env["SHARED_DIR"], "timeline.jsonl").read_text().splitlines()
    return [(entry["stage"], entry["event"]) for entry in map(json.loads, lines)]


def test_sigterm_ends_all_of_it_with_status_0(env: dict[str, str], running: subprocess.Popen[str]) -> None:
    wait_healthy(running)
    assert timeline(env) == [("editor", "start"), ("editor", "done")]
    pid = int(Path(env["VSCODE_DATA"], "pid").read_text())
    running.send_signal(signal.SIGTERM)
    assert running.wait(60) == 0
    assert not Path(f"/proc/{pid}").exists()


def test_a_dead_node_is_status_1_and_one_line(env: dict[str, str], running: subprocess.Popen[str]) -> None:
    wait_healthy(running)
    os.kill(int(Path(env["VSCODE_DATA"], "pid").read_text()), signal.SIGKILL)
    assert running.wait(60) == 1
    assert running.stderr
    assert "code-server: code-server has ended by signal 9" in running.stderr.read()
    assert timeline(env)[-1] == ("editor", "failed")


def test_the_editor_gets_nothing_of_our_environment(env: dict[str, str], running: subprocess.Popen[str]) -> None:
    wait_healthy(running)
    names = set(Path(env["VSCODE_DATA"], "environ").read_text().splitlines())
    assert not {"SECRET_OF_OURS", "PASSWORD_FILE", "SHARED_DIR", "VM_DATA"} & names
    assert {"HASHED_PASSWORD", "DOCKER_HOST", "HOME"} <= names


def test_faults_are_named_all_at_once(tmp_path: Path) -> None:
    with pytest.raises(BadUsage) as caught:
        Settings.from_env({"PORT": "0", "WORKSPACE_SIZE": "much"})
    assert [line.partition("=")[0].split()[0] for line in str(caught.value).splitlines()] == [
        "SESSION_ID", "PORT", "WORKSPACE_SIZE",
    ]  # fmt: skip
    with pytest.raises(BadUsage) as caught:
        Settings.from_env({"SESSION_ID": "-x", "SANDBOX": "chroot"})
    assert [line.partition("=")[0].split()[0] for line in str(caught.value).splitlines()] == [
        "SESSION_ID", "SANDBOX", "PASSWORD_FILE",
    ]  # fmt: skip


def test_the_hash_is_stable_per_session_and_hides_the_password(settings: Settings) -> None:
    one = hash_password("correct horse", "lab-1")
    assert one == hash_password("correct horse", "lab-1")  # cookies survive a restart
    assert one != hash_password("correct horse", "lab-2")
    assert one.startswith("$argon2id$")
    assert "correct horse" not in " ".join([*environment(settings, one).values(), *command(settings)])
    assert not [word for word in command(settings) if "argon2" in word]
