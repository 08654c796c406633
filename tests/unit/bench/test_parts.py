"""The benchmarks' own arithmetic."""

from __future__ import annotations

import os
import socket
import threading

import pytest
from bench import common, memory, start, terminal


@pytest.mark.parametrize(
    ("value", "sense", "holds"),
    [(1.1, "at most", True), (1.11, "at most", False), (1.1, "at least", True), (1.09, "at least", False)],
)
def test_goal_holds_up_to_its_limit(value: float, sense: common.Sense, holds: bool) -> None:
    goal = common.Goal("x", value, 1.1, sense)
    assert goal.holds is holds
    assert goal.line().startswith("ok" if holds else "MISS")


def test_a_report_without_goals_is_not_ok() -> None:
    assert not common.Report("claim", "rival", {}).ok
    goals = [common.Goal("a", 1, 2), common.Goal("b", 3, 2)]
    assert common.Report("claim", "rival", {}, goals[:1]).ok
    assert not common.Report("claim", "rival", {}, goals).ok


def test_ratio_is_of_medians() -> None:
    assert common.ratio_of_medians([1, 2, 90], [4, 1, 100]) == 0.5
    with pytest.raises(ValueError, match="nothing"):
        common.ratio_of_medians([], [1.0])


@pytest.mark.parametrize(
    ("count", "percent", "found"), [(20, 50, 10), (20, 95, 19), (20, 100, 20), (1, 95, 1), (3, 50, 2), (4, 1, 1)]
)
def test_percentile_is_the_nearest_rank(count: int, percent: float, found: float) -> None:
    assert start.percentile([float(number) for number in range(count, 0, -1)], percent) == found


def test_a_percentile_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing"):
        start.percentile([], 50)


@pytest.mark.parametrize(
    ("argv", "role", "side"),
    [
        ("/usr/bin/pasta.avx2 --config-net", "pasta", "ours"),
        ("/v/bin/python -m dozlab.session.supervisor lab 4", "supervisor", "ours"),
        ("/mnt/app/venv/bin/python -m dozlab.firecracker_vm", "firecracker-vm", "ours"),
        ("/mnt/app/venv/bin/python -m dozlab.code_server", "code-server's launcher and bridge", "ours"),
        ("bwrap --unshare-user -- /opt/node", "bwrap", "ours"),
        ("/usr/lib/openssh/sftp-server -e", "sftp-server", "ours"),
        ("/usr/bin/qemu-system-x86_64 -name guest=lab", "qemu-system-x86_64", "guest"),
        ("/mnt/bin/firecracker --api-sock x", "firecracker", "guest"),
        ("/opt/node /opt/code-server/entry.js", "code-server (node)", "editor"),
        ("something-new", "something-new", "ours"),
    ],
)
def test_roles(argv: str, role: str, side: str) -> None:
    assert memory.role_of(argv.split()) == (role, side)


def test_smaps_fields_are_exact() -> None:
    text = "Size: 8 kB\nPss:                5 kB\nPss_Anon:   3 kB\nSize: 4 kB\nPss: 1 kB\n"
    assert memory.fields(text, "Pss") == [5, 1]
    assert memory.fields(text, "Size") == [8, 4]


def test_a_look_at_ourselves() -> None:
    found = memory.look(os.getpid())
    assert found is not None
    assert found.pss > 1 and found.cpu > 0 and found.guest_ram == 0
    assert os.getpid() in memory.tree(os.getppid())


def test_roles_add_up_memory_and_processor_time_since_then() -> None:
    found = [
        memory.Process(1, "bwrap", "ours", 1.0, 0.0, 5.0),
        memory.Process(2, "bwrap", "ours", 2.0, 0.0, 1.0),
        memory.Process(3, "qemu", "guest", 900.0, 800.0, 9.0),
    ]
    rows = memory.by_role(found, {1: 4.5, 3: 9.0}, 30.0)
    assert rows["bwrap"] == {"side": "ours", "processes": 2, "pss": 3.0, "guest_ram": 0.0, "cpu": 5.0}
    assert rows["qemu"]["guest_ram"] == 800.0 and rows["qemu"]["cpu"] == 0.0


@pytest.mark.parametrize(("greeting", "is_ssh"), [(b"SSH-2.0-OpenSSH_10.0\r\n", True), (b"HTTP/1.1 400\r\n", False)])
def test_banner(greeting: bytes, is_ssh: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(greeting)

        thread = threading.Thread(target=answer)
        thread.start()
        assert start.banner(server.getsockname()[1]) is is_ssh
        thread.join()
    assert not start.banner(1)


def test_the_terminal_is_held_to_every_goal() -> None:
    def figures(speed: float) -> terminal.Figures:
        found = terminal.Figures([40.0 * speed] * 3, [10.0] * 3, [0.05 / speed] * 3, [[0.4 / speed] * 100] * 3)
        found.client = {"one_shell": 20.0, "own_shell": 20.0}
        return found

    better = terminal.report({"ours": figures(4), "ttyd": figures(1)}, {}, "1.7.7")
    assert better.ok and len(better.goals) == 8
    equal = terminal.report({"ours": figures(1), "ttyd": figures(1)}, {}, "1.7.7")
    assert {goal.what for goal in equal.goals if not goal.holds} == {"throughput, of ttyd's", "the same, of ttyd's"}
    assert equal.as_dict()["ratio"]["throughput"] == 1.0
