"""The component as a process: exit status and its one line, before any VM."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def run(tmp_path: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "SHARED_DIR": str(tmp_path), "KIT_DIR": str(tmp_path / "kit"), **environ}
    argv = [sys.executable, "-m", "dozlab.firecracker_vm", *words]
    return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_help_names_the_environment(tmp_path: Path) -> None:
    done = run(tmp_path, "--help")
    assert done.returncode == 0
    assert "CONSOLE_LOG" in done.stdout


def test_bad_settings_are_all_named_and_are_status_2(tmp_path: Path) -> None:
    done = run(tmp_path, MEMORY="much")
    assert done.returncode == 2
    assert "SESSION_ID is not set" in done.stderr
    assert "MEMORY='much'" in done.stderr


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"FIRECRACKER_BIN": "/nonexistent"}, "FIRECRACKER_BIN=/nonexistent is not a program"),
        ({"VMM": "qemu", "QEMU_BIN": "/nonexistent/qemu", "TAP_DEVICE_NAME": "nosuchtap0"}, "firecracker-vm: "),
    ],
)
def test_a_fault_is_one_line_status_1_and_in_the_timeline(tmp_path: Path, environ: dict[str, str], words: str) -> None:
    done = run(tmp_path, SESSION_ID="unit", SSH_RELAY_PORT="0", **environ)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("firecracker-vm: ")
    assert words in last
    entries = [json.loads(line) for line in (tmp_path / "timeline.jsonl").read_text().splitlines()]
    assert (entries[-1]["stage"], entries[-1]["event"]) == ("vmm", "failed")
    assert entries[-1]["detail"] in last
    assert sorted(os.listdir(tmp_path)) == ["timeline.jsonl"]


def test_it_imports_the_standard_library_only(tmp_path: Path) -> None:
    program = (
        "import sys; import dozlab.firecracker_vm.__main__; "
        "print([name for name in ('pydantic', 'asyncssh', 'httpx2', 'pyroute2', 'zstandard') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
