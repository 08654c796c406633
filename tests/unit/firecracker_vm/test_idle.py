"""Who is here, judged by a table of connections: the kernel's own, and one that is made up."""

from __future__ import annotations

import socket

from dozlab.firecracker_vm.idle import LASTING, Idle, connections, look

TABLE = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 1 1 0 100 0 0 10 0
   1: 0100007F:1F90 0100007F:D431 01 00000000:00000000 00:00000000 00000000  1000        0 2 1 0 20 4 30 10 -1
   2: 0100007F:1F91 0100007F:D432 06 00000000:00000000 00:00000000 00000000  1000        0 3 1 0 20 4 30 10 -1
   3: 0100007F:D431 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1000        0 4 1 0 20 4 30 10 -1
   4: 0100007F:08AE 0100007F:D433 01 00000000:00000000 00:00000000 00000000  1000        0 5 1 0 20 4 30 10 -1
"""


def test_established_connections_to_our_ports_count() -> None:
    assert connections(TABLE, {8080, 8081}) == {"0100007F:1F90 0100007F:D431"}
    assert len(connections(TABLE, {8080, 8081, 2222})) == 2
    assert connections("", {8080}) == set()


def test_the_kernels_own_table() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert look({port}) == set()
        with socket.create_connection(("127.0.0.1", port)), server.accept()[0]:  # which waits for its last step
            assert len(look({port})) == 1


def test_a_probe_is_nobody() -> None:
    idle = Idle(0.0)
    for second in range(1, 61):
        assert not idle.see(float(second), {f"probe {second}"})
    assert idle.seconds(60.0) == 60.0


def test_who_stays_is_somebody() -> None:
    idle = Idle(0.0)
    assert not idle.see(10.0, {"browser"})
    assert not idle.see(11.0, {"browser", "probe"})
    assert idle.see(10.0 + LASTING, {"browser"})
    assert idle.seconds(14.0) == 14.0 - 10.0 - LASTING
    assert not idle.see(15.0, set())
    assert idle.seconds(100.0) == 100.0 - 10.0 - LASTING


def test_a_resume_counts_as_use() -> None:
    idle = Idle(0.0)
    idle.reset(50.0)
    assert idle.seconds(60.0) == 10.0
