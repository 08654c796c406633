"""The whole component on real devices: who reaches whom, idempotence, least rights, in namespaces made here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dozlab.lib.timeline import Timeline
from tests.support import REPOSITORY
from tests.unit.network_setup.netns import Lab

pytestmark = pytest.mark.root
USER = 64_998
"""Some uid that is nobody's."""

_BIND = "mount -o bind,ro /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys"
_PROOF = "! echo 1 2>/dev/null > /proc/sys/net/ipv4/ip_forward"
READ_ONLY_PROC_SYS = ("unshare", "-m", "sh", "-c", f'{_BIND} && {_PROOF} && exec "$@"', "sh")
ONLY_NET_ADMIN = ("setpriv", "--bounding-set", "-all,+net_admin", "--inh-caps", "-all,+net_admin", "--no-new-privs")
NO_NET_ADMIN = ("setpriv", "--bounding-set", "-net_admin", "--no-new-privs")
OPEN = ("198.51.100.10", "8.8.4.4")
CLOSED = (
    "10.1.2.3",
    "10.9.9.9",
    "169.254.169.254",
    "192.168.7.7",
    "100.64.0.9",
    "172.20.0.1",
    "240.0.0.1",
    "10.50.0.1",
)


@pytest.fixture
def lab() -> Iterator[Lab]:
    lab = Lab()
    try:
        yield lab
    finally:
        lab.close()


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    return tmp_path


def world_answers(lab: Lab) -> None:
    for address in (*OPEN, *CLOSED[:-1], "203.0.113.5"):
        lab.ip(lab.world, f"addr add {address}/32 dev lo")
    lab.serve(lab.world, 53, 80)


def test_who_reaches_whom(lab: Lab, shared: Path) -> None:
    world_answers(lab)
    lab.serve(lab.session, 5540, 8080, 8081, 8082, 2222, 2375, 9999)
    env = {"EGRESS_ALLOW": "10.1.2.0/24", "EGRESS_DENY": "203.0.113.0/24", "PORTS_PORT": "8082"}
    forwarding = lab.read("cat", "/proc/sys/net/ipv4/ip_forward")  # 1 on a host with Docker, say
    done = lab.setup(shared, *READ_ONLY_PROC_SYS, *ONLY_NET_ADMIN, **env)
    assert done.returncode == 0, done.stderr
    assert lab.read("cat", "/proc/sys/net/ipv4/ip_forward") == forwarding
    lab.plug_guest_in()
    lab.serve(lab.guest, 22, 2375)

    outer = [f"tcp:{a}:80" for a in (*OPEN, *CLOSED, "203.0.113.5")]
    ports = (5540, 8080, 8081, 8082, 2222, 2375, 9999, 53)
    own = [f"tcp:{a}:{p}" for a in ("172.16.0.1", "10.50.0.2") for p in ports]
    dns = ["udp:10.50.0.1:53", "tcp:10.50.0.1:53", "udp:10.50.0.1:80"]
    reached = {f"tcp:{a}:80" for a in (*OPEN, "10.1.2.3")}
    answered = reached | {"tcp:172.16.0.1:5540", *dns[:2]}
    seen = lab.ask(lab.guest, *("+" * (each in answered) + each for each in (*outer, *own, *dns)))
    assert {k for k, v in seen.items() if v} == answered
    assert {seen[each] for each in reached} == {"10.50.0.2"}  # masqueraded

    local = lab.ask(lab.session, "+tcp:172.16.0.2:22", "+tcp:172.16.0.2:2375", "+tcp:127.0.0.1:9999")
    assert all(local.values())

    lab.ip(lab.world, "route add 172.16.0.0/24 via 10.50.0.2")
    outside = lab.ask(
        lab.world, *(f"+tcp:10.50.0.2:{p}" for p in (8080, 8081, 8082, 2222)),
        *(f"tcp:10.50.0.2:{p}" for p in (2375, 9999, 5540)),
        "tcp:172.16.0.1:8080", "tcp:172.16.0.2:22", "tcp:172.16.0.2:2375",
    )  # fmt: skip
    assert {k for k, v in outside.items() if v} == {f"tcp:10.50.0.2:{p}" for p in (8080, 8081, 8082, 2222)}

    for target, answers in (("172.16.0.1", True), ("10.50.0.2", False), ("198.51.100.10", True)):
        ping = subprocess.run(
            lab.inside(lab.guest, sys.executable, "-c", PING, target, str(20 if answers else 1)),
            check=False, capture_output=True,
        )  # fmt: skip
        assert (ping.returncode == 0) is answers, target


PING = """
import socket, struct, sys
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP); s.settimeout(float(sys.argv[2]))
s.connect((sys.argv[1], 0))
body = struct.pack("!BBHHH", 8, 0, 0, 7, 1)
total = sum(struct.unpack("!4H", body)); total = (total >> 16) + (total & 0xffff)
s.send(body[:2] + struct.pack("!H", 0xffff - total) + body[4:])
s.recv(100)
"""


def test_a_guest_with_another_address_is_silenced(lab: Lab, shared: Path) -> None:
    world_answers(lab)
    lab.serve(lab.session, 5540)
    assert lab.setup(shared).returncode == 0
    lab.plug_guest_in("172.16.0.77/24")
    assert not any(lab.ask(lab.guest, "tcp:198.51.100.10:80", "tcp:172.16.0.1:5540", "udp:10.50.0.1:53").values())
    lab.ip(
        lab.guest, "addr add 172.16.0.2/24 dev g0", "addr del 172.16.0.77/24 dev g0", "addr add 172.16.0.2/24 dev g0"
    )
    lab.ip(lab.guest, "route replace default via 172.16.0.1")
    assert all(lab.ask(lab.guest, "+tcp:198.51.100.10:80", "+tcp:172.16.0.1:5540").values())


def test_nothing_of_ipv6(lab: Lab, shared: Path) -> None:
    assert lab.setup(shared).returncode == 0
    lab.plug_guest_in()
    assert "inet6" not in lab.read("ip", "addr", "show", "tap0")


def test_dns_on_an_address_of_the_namespace(lab: Lab, shared: Path) -> None:
    lab.serve(lab.session, 53, 80)
    assert lab.setup(shared, DNS_SERVERS="10.50.0.2").returncode == 0
    lab.plug_guest_in()
    asked = lab.ask(lab.guest, "+udp:10.50.0.2:53", "+tcp:10.50.0.2:53", "tcp:10.50.0.2:80", "udp:172.16.0.1:53")
    assert [bool(answer) for answer in asked.values()] == [True, True, False, False]


def test_twice_is_once_and_changes_are_applied(lab: Lab, shared: Path) -> None:
    world_answers(lab)
    assert lab.setup(shared).returncode == 0
    state = (("nft", "list", "ruleset"), ("ip", "-d", "addr", "show", "tap0"))
    first = [lab.read(*argv) for argv in state]
    lab.plug_guest_in()
    again = lab.setup(shared)
    assert again.returncode == 0, again.stderr  # with the tap in use, as under a running VM
    assert lab.read(*state[0]) == first[0]
    assert lab.ask(lab.guest, "+tcp:198.51.100.10:80")["tcp:198.51.100.10:80"]
    assert lab.setup(shared, EGRESS_DENY="0.0.0.0/0").returncode == 0
    assert not lab.ask(lab.guest, "tcp:198.51.100.10:80")["tcp:198.51.100.10:80"]
    busy = lab.setup(shared, TAP_UID="4711")
    assert (busy.returncode, "tap tap0 is in use by another process" in busy.stderr) == (1, True)
    lab.pump.close()
    moved = lab.setup(shared, GATEWAY_IP="172.18.5.1", VM_IP="172.18.5.2", TAP_UID="4711")
    assert moved.returncode == 0, moved.stderr
    tap = lab.read("ip", "-d", "addr", "show", "tap0")
    assert "inet 172.18.5.1/24" in tap
    assert "172.16.0.1" not in tap
    assert "user 4711" in tap


def test_network_json_mtu_and_device_settings(lab: Lab, shared: Path) -> None:
    lab.ip(lab.session, "link set eth0 mtu 1400")
    done = lab.setup(shared, TAP_UID="1234")
    assert done.returncode == 0, done.stderr
    assert json.loads((shared / "network.json").read_text()) == {
        "tap": "tap0", "gateway": "172.16.0.1", "vm": "172.16.0.2", "prefix": 24, "mac": "06:00:ac:10:00:02",
        "uplink": "eth0", "mtu": 1400, "dns": ["10.50.0.1"],
    }  # fmt: skip
    tap = lab.read("ip", "-d", "link", "show", "tap0")
    for words in ("mtu 1400", "tun type tap pi off vnet_hdr on persist on user 1234", "06:01:ac:10:00:01"):
        assert words in tap
    conf = {
        name: lab.read("cat", f"/proc/sys/net/ipv4/conf/tap0/{name}").strip()
        for name in ("forwarding", "rp_filter", "arp_ignore", "send_redirects", "accept_redirects")
    }
    assert conf == {
        "forwarding": "1", "rp_filter": "1", "arp_ignore": "1", "send_redirects": "0", "accept_redirects": "0",
    }  # fmt: skip
    assert [(e.stage, e.event) for e in Timeline(shared).read()] == [("network", "start"), ("network", "done")]


def test_segments_are_clamped_to_the_uplink_in_both_directions(lab: Lab, shared: Path) -> None:
    """The guest's own device and the world's keep 1500; only the uplink between them is narrow."""
    lab.ip(lab.session, "link set eth0 mtu 1300")
    lab.ip(lab.world, "addr add 198.51.100.10/32 dev lo")
    lab.serve(lab.world, 81)
    assert lab.setup(shared).returncode == 0
    lab.plug_guest_in()
    lab.serve(lab.guest, 81)
    to_guest = int(lab.ask(lab.guest, "+tcp:198.51.100.10:81")["tcp:198.51.100.10:81"])
    assert 1200 < to_guest <= 1300 - 40
    lab.read("nft", "flush chain inet dozlab antispoof")
    lab.ip(lab.world, "route add 172.16.0.0/24 via 10.50.0.2")
    lab.read("nft", "insert rule inet dozlab forward accept")  # only here: let the world in, to see its SYN
    from_world = int(lab.ask(lab.world, "+tcp:172.16.0.2:81")["tcp:172.16.0.2:81"])
    assert 1200 < from_world <= 1300 - 40


def test_other_tables_stay(lab: Lab, shared: Path) -> None:
    lab.read("nft", "add table ip cni")
    assert lab.setup(shared).returncode == 0
    assert "table ip cni" in lab.read("nft", "list", "tables")


def test_no_default_route_works_and_is_said(lab: Lab, shared: Path) -> None:
    lab.ip(lab.session, "route del default")
    done = lab.setup(shared)
    assert done.returncode == 0
    assert "no default route" in done.stderr
    assert json.loads((shared / "network.json").read_text())["uplink"] == ""


@pytest.mark.parametrize(
    ("before", "env", "words"),
    [
        (NO_NET_ADMIN, {}, "needs the capability NET_ADMIN"),
        ((), {"PATH": "/nowhere"}, "run: sudo apt-get install nftables"),
        ((), {"UPLINK_DEVICE": "eth7"}, "no such device"),
        ((), {"TAP_DEVICE_NAME": "eth0", "UPLINK_DEVICE": ""}, "exists and is no tap"),
        ((), {"GATEWAY_IP": "10.50.0.9", "VM_IP": "10.50.0.8"}, "the address 10.50.0.2 of this namespace lies in it"),
        (("unshare", "-m", "sh", "-c", 'mount -t tmpfs none /dev && exec "$@"', "sh"), {}, "sudo modprobe tun"),
    ],
)
def test_each_lack_is_one_line(
    before: tuple[str, ...], env: dict[str, str], words: str, lab: Lab, shared: Path, request: pytest.FixtureRequest
) -> None:
    if env.get("PATH"):  # nft is looked for in the sbin folders as well: hide them
        before = ("/usr/bin/unshare", "-m", "/bin/sh", "-c", '/bin/mount -t tmpfs none /usr/sbin && exec "$@"', "sh")
        env = {}
    done = lab.setup(shared, *before, **env)
    assert done.returncode == 1, done.stderr
    line = [line for line in done.stderr.splitlines() if line.startswith("network-setup: ")]
    assert len(line) == 1
    assert words in line[0]
    assert Timeline(shared).read()[-1].event == "failed"
    assert not (shared / "network.json").exists()


def test_the_machines_own_namespace_is_refused(lab: Lab, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hardware uplink cannot be made here: the driver's name of the veth is taken away instead."""
    argv = lab.inside(
        lab.session, sys.executable, "-c",
        "import dataclasses, sys; from dozlab.network_setup import netlink, __main__ as m\n"
        "p = netlink._parse_link; netlink._parse_link = lambda b: dataclasses.replace(p(b), kind='')\n"
        "sys.exit(m.main([]))",
    )  # fmt: skip
    env = {**os.environ, "SESSION_ID": "a", "SHARED_DIR": str(shared)}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "the machine's own network namespace" in done.stderr
    assert lab.read("nft", "list", "ruleset") == ""


def test_as_ordinary_user_where_tun_is_open(tmp_path: Path) -> None:
    tun = Path("/dev/net/tun")
    mode = tun.stat().st_mode & 0o777
    tmp_path.chmod(0o777)
    for parent in list(tmp_path.parents)[:3]:
        parent.chmod(parent.stat().st_mode | 0o055)
    # The user may not be able to read this tree: a copy, and Python itself (this component needs nothing else).
    shutil.copytree(
        REPOSITORY / "src/dozlab", tmp_path / "src/dozlab", ignore=shutil.ignore_patterns("page", "__pycache__")
    )
    python = os.path.realpath(sys.executable)
    argv = [
        "setpriv", "--reuid", str(USER), "--regid", str(USER), "--clear-groups", "--", "env", "SESSION_ID=a",
        f"SHARED_DIR={tmp_path}", "DNS_SERVERS=192.0.2.1", f"PYTHONPATH={tmp_path}/src",
        "unshare", "-Urn", python, "-m", "dozlab.network_setup",
    ]  # fmt: skip
    try:
        tun.chmod(0o600)
        closed = subprocess.run(argv, capture_output=True, text=True, check=False, cwd="/")
        assert "run: sudo chmod 0666 /dev/net/tun" in closed.stderr
        tun.chmod(0o666)
        done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd="/")
        assert done.returncode == 0, done.stderr
    finally:
        tun.chmod(mode)
