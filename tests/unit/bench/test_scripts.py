"""The benchmarks as commands: help, the shape of --json, exit status. No figure is held to anything here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.support import REPOSITORY

SCRIPTS = sorted(path for path in (REPOSITORY / "bench").glob("*.py") if path.name != "common.py")


def run(script: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, script, *words], env={**os.environ, **env}, capture_output=True, text=True, timeout=100,
        check=False,
    )  # fmt: skip


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_help_says_what_is_claimed_and_how_it_ends(script: Path) -> None:
    done = run(script, "--help")
    assert done.returncode == 0, done.stderr
    assert "--json" in done.stdout and "Exit status" in done.stdout and "Rival" in done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_unknown_option_is_bad_usage(script: Path) -> None:
    done = run(script, "--nonsense")
    assert done.returncode == 2 and "--nonsense" in done.stderr


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], int, Path]:
    state = tmp_path_factory.mktemp("state")
    done = run(
        REPOSITORY / "bench/disk.py", "--json", "--sizes", "32M,64M", "--disk", "1G", "--rounds", "1",
        XDG_STATE_HOME=str(state),
    )  # fmt: skip
    return json.loads(done.stdout), done.returncode, state


def test_json_has_claim_rival_machine_and_verdict(disk: tuple[dict[str, Any], int, Path]) -> None:
    report, code, _ = disk
    assert {"claim", "rival", "machine", "goals", "ok"} <= report.keys()
    assert {"cores", "memory", "load", "kernel"} <= report["machine"].keys()
    assert report["ok"] == all(goal["holds"] for goal in report["goals"])
    assert code == (0 if report["ok"] else 1)


def test_disk_compares_every_size_with_its_rival(disk: tuple[dict[str, Any], int, Path]) -> None:
    report, _, _ = disk
    assert [row["base"] for row in report["sizes"]] == [32 << 20, 64 << 20]
    for row in report["sizes"]:
        assert row["seconds"].keys() == {"rival", "disk", "init_rootfs"}
        assert row["ratio"].keys() == {"disk", "init_rootfs"}
        assert 0 < row["used_by_session_disk"] < 64 << 20  # sparse


def test_disk_leaves_nothing_behind(disk: tuple[dict[str, Any], int, Path]) -> None:
    assert list(disk[2].iterdir()) == []
