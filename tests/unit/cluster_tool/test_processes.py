"""Processes are known by pid and start time; killing finds marked ones and touches nobody else."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from tools.cluster import inventory, processes

from dozlab.lib.errors import DozlabError
from tests.support import until


def _start(tmp_path: Path, mark: str = "none") -> processes.Process:
    return processes.start(["/bin/sleep", "600"], tmp_path / "log", {"DOZLAB_TEST_MARK": mark})


def test_start_and_kill(tmp_path: Path) -> None:
    process = _start(tmp_path)
    assert process.alive
    assert processes.kill([process]) == []
    assert not process.alive


def test_a_reused_pid_is_left_alone(tmp_path: Path) -> None:
    process = _start(tmp_path)
    other = replace(process, start=process.start - 1)
    assert not other.alive
    assert processes.kill([other]) == []
    assert process.alive
    processes.kill([process])


def test_marked_processes_are_found(tmp_path: Path) -> None:
    mine, other = _start(tmp_path, f"{tmp_path}/a"), _start(tmp_path, f"{tmp_path}/ab")
    for process in (mine, other):  # exec(2) has returned a moment before the kernel shows the environment
        until(Path(f"/proc/{process.pid}/environ").read_bytes, what="the process's environment", seconds=60)
    assert processes.marked("DOZLAB_TEST_MARK", f"{tmp_path}/a") == [mine]
    processes.kill([mine, other])
    assert processes.known(os.getpid()) is not None


def test_missing_program(tmp_path: Path) -> None:
    with pytest.raises(DozlabError, match="cannot start /no/such"):
        processes.start(["/no/such"], tmp_path / "log", {})


def test_differences() -> None:
    before, after = {"link": ["a", "b"]}, {"link": ["b", "c"], "mount": ["/m"]}
    assert inventory.differences(before, after) == ["+ link: c", "- link: a", "+ mount: /m"]
    assert inventory.differences(before, before) == []
