"""The rules compared whole, and what must hold of them for any settings."""

from __future__ import annotations

import ipaddress
import subprocess
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dozlab.lib.errors import BadUsage
from dozlab.lib.proc import Result
from dozlab.lib.resolv import nameservers
from dozlab.network_setup import links, nft, rules
from dozlab.network_setup.settings import Settings, from_env

FACTS = rules.Facts(
    uplink="eth0",
    addresses=(IPv4Address("10.42.0.7"),),
    subnets=(IPv4Network("10.42.0.0/24"),),
    gateways=(IPv4Address("198.51.100.1"),),
)


def make(**extra: str) -> Settings:
    env: Mapping[str, str] = {"SESSION_ID": "a", "TAP_UID": "1000", "DNS_SERVERS": "10.43.0.10", **extra}
    return from_env(env)


WHOLE = """\
add table inet dozlab
delete table inet dozlab
table inet dozlab {
	chain antispoof {
		type filter hook prerouting priority raw; policy accept;
		iifname "tap0" meta nfproto ipv6 drop
		iifname "tap0" ip saddr != 172.16.0.2 drop
		iifname "eth0" ip saddr 172.16.0.0/24 drop
		iifname "eth0" ip daddr 172.16.0.0/24 drop
	}

	chain input {
		type filter hook input priority filter; policy drop;
		iifname "lo" accept
		ct state invalid drop
		ct state established,related accept
		iifname "tap0" goto from_guest
		tcp dport { 2222, 8080, 8081 } accept
		icmp type echo-request accept
		icmpv6 type { echo-request, nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert } accept
	}

	chain from_guest {
		ip daddr 172.16.0.1 tcp dport 5540 accept
		ip daddr 172.16.0.1 icmp type echo-request limit rate 50/second accept
		ip daddr { 10.42.0.7 } meta l4proto { tcp, udp } th dport 53 accept
		drop
	}

	chain clamp {
		type filter hook forward priority mangle; policy accept;
		iifname "tap0" tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu
		oifname "tap0" tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu
	}

	chain forward {
		type filter hook forward priority filter; policy drop;
		ct state invalid drop
		iifname "eth0" oifname "tap0" ct state established,related accept
		iifname "tap0" oifname "eth0" goto egress
	}

	chain egress {
		ip saddr != 172.16.0.2 drop
		ip daddr { 169.254.1.53 } meta l4proto { tcp, udp } th dport 53 accept
		ip daddr { 203.0.113.0/24 } drop
		ip daddr { 10.1.2.0/24 } accept
		ip daddr { 0.0.0.0/8, 10.0.0.0/8, 100.64.0.0/10, 127.0.0.0/8, 169.254.0.0/16, 172.16.0.0/12, \
192.168.0.0/16, 198.51.100.1/32, 224.0.0.0/3 } drop
		ip saddr 172.16.0.2 accept
	}

	chain nat {
		type nat hook postrouting priority srcnat; policy accept;
		oifname "eth0" ip saddr 172.16.0.2 masquerade
	}
}
"""


def test_the_whole_ruleset() -> None:
    wanted = make(DNS_SERVERS="169.254.1.53 10.42.0.7", EGRESS_ALLOW="10.1.2.0/24", EGRESS_DENY="203.0.113.0/24")
    assert rules.ruleset(wanted, FACTS) == WHOLE


def test_the_port_of_the_terminals_proxy_is_open_where_there_is_one() -> None:
    opened = "tcp dport { 2222, 8080, 8081, 8082 } accept"
    assert opened in rules.ruleset(make(PORTS_PORT="8082"), FACTS)
    assert opened not in rules.ruleset(make(PORTS_PORT="0"), FACTS)


def verdict(wanted: Settings, target: IPv4Address, port: int = 443) -> bool:
    """Walk the egress chain as the kernel would; tell whether a packet of the guest to `target` passes."""
    body = rules.ruleset(wanted, FACTS).partition("\tchain egress {\n")[2].partition("\n\t}")[0]
    for line in body.splitlines():
        words = line.strip()
        if words == "drop":
            return False
        if words.startswith("ip saddr !="):
            continue
        if words.startswith("ip saddr"):
            return True
        nets = [IPv4Network(net) for net in words.partition("{ ")[2].partition(" }")[0].split(", ")]
        if any(target in net for net in nets) and ("dport 53" not in words or port == 53):
            return words.endswith("accept")
    raise AssertionError("the chain has no end")


@pytest.mark.parametrize(
    "target",
    ["169.254.169.254", "10.0.0.1", "172.31.0.1", "192.168.1.1", "100.64.0.1", "127.0.0.1", "0.0.0.1", "224.0.0.1",
     "255.255.255.255", "10.42.0.1", "198.51.100.1"],
)  # fmt: skip
def test_closed_by_default(target: str) -> None:
    assert not verdict(make(), IPv4Address(target))


def test_dns_is_open_wherever_it_is_and_only_port_53() -> None:
    for wanted in (make(), make(EGRESS_DENY="0.0.0.0/0"), make(EGRESS_DENY="10.43.0.10/32")):
        assert verdict(wanted, IPv4Address("10.43.0.10"), 53)
        assert not verdict(wanted, IPv4Address("10.43.0.10"), 443)


nets = st.builds(
    lambda address, length: IPv4Network((address, length), strict=False), st.integers(0, 2**32 - 1), st.integers(1, 32)
)
addresses = st.integers(0, 2**32 - 1).map(IPv4Address)


@given(st.lists(nets, max_size=4), st.lists(nets, max_size=4), addresses)
def test_deny_beats_allow_beats_default(allow: list[IPv4Network], deny: list[IPv4Network], target: IPv4Address) -> None:
    wanted = make(EGRESS_ALLOW=" ".join(map(str, allow)), EGRESS_DENY=" ".join(map(str, deny)))
    closed = [*rules.CLOSED, *FACTS.subnets, IPv4Network("198.51.100.1")]
    expected = not any(target in net for net in deny) and (
        any(target in net for net in allow) or not any(target in net for net in closed)
    )
    assert verdict(wanted, target) is expected


@given(st.lists(nets, max_size=4), addresses)
def test_deny_everything_leaves_what_is_allowed(allow: list[IPv4Network], target: IPv4Address) -> None:
    wanted = make(EGRESS_ALLOW=" ".join(map(str, allow)), EGRESS_DENY="0.0.0.0/0")
    assert verdict(wanted, target) is any(target in net for net in allow)


@settings(max_examples=25, deadline=None)
@given(st.lists(nets, max_size=6), st.lists(nets, max_size=6), st.booleans())
def test_nft_takes_every_ruleset(allow: list[IPv4Network], deny: list[IPv4Network], uplink: bool) -> None:
    wanted = make(EGRESS_ALLOW=" ".join(map(str, allow)), EGRESS_DENY=" ".join(map(str, deny)))
    text = rules.ruleset(wanted, FACTS if uplink else rules.Facts())
    # a user and network namespace of its own: nft asks the kernel even for a check
    argv = ["unshare", "-Urn", "/usr/sbin/nft", "--check", "-f", "-"]
    done = subprocess.run(argv, input=text.encode(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_without_an_uplink_nothing_is_forwarded() -> None:
    text = rules.ruleset(make(), rules.Facts())
    assert "masquerade" not in text
    assert "goto egress" not in text


def test_node_and_api_server_are_closed() -> None:
    wanted = make(KUBERNETES_SERVICE_HOST="203.0.113.1", HOST_IP="203.0.113.9")
    assert not verdict(wanted, IPv4Address("203.0.113.1"))
    assert not verdict(wanted, IPv4Address("203.0.113.9"))
    assert verdict(wanted, IPv4Address("203.0.113.2"))


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"VM_IP": "172.17.0.2"}, "VM_IP=172.17.0.2 must be another address of 172.16.0.0/24"),
        ({"VM_IP": "172.16.0.1"}, "must be another address"),
        ({"TAP_DEVICE_NAME": "a" * 16}, "TAP_DEVICE_NAME"),
        ({"TAP_DEVICE_NAME": 'x"y'}, "TAP_DEVICE_NAME"),
        ({"TAP_DEVICE_NAME": "lo"}, "cannot be a tap's name"),
        ({"UPLINK_DEVICE": "e;drop"}, "UPLINK_DEVICE"),
        ({"EGRESS_ALLOW": "10.0.0.1/8"}, "EGRESS_ALLOW: 10.0.0.1/8 has host bits set"),
        ({"EGRESS_DENY": "everything"}, "EGRESS_DENY"),
        ({"DNS_SERVERS": "127.0.0.53"}, "would be the guest itself"),
        ({"DNS_SERVERS": "fe80::1"}, "DNS_SERVERS"),
        ({"SESSION_ID": ""}, "SESSION_ID is not set"),
    ],
)
def test_bad_settings(extra: dict[str, str], words: str) -> None:
    with pytest.raises(BadUsage) as caught:
        make(**extra)
    assert words in str(caught.value)


def test_all_faults_at_once() -> None:
    with pytest.raises(BadUsage) as caught:
        make(SESSION_ID="", VM_IP="nope", EGRESS_DENY="x", DNS_SERVERS="127.0.0.1")
    assert len(str(caught.value).splitlines()) >= 4


def test_nameservers_of_a_resolv_conf() -> None:
    text = "# c\nsearch x\nnameserver 127.0.0.53\nnameserver 192.0.2.1\nnameserver ::1\nnameserver 192.0.2.1\n"
    assert nameservers(text) == [ipaddress.IPv4Address("192.0.2.1")]


@pytest.mark.parametrize(
    ("err", "words"),
    [
        ("Error: Could not process rule: Operation not permitted\n", "NET_ADMIN"),
        ("netlink.c: Unable to initialize Netlink socket: Protocol not supported\n", "sudo modprobe nf_tables"),
        ("/dev/stdin:3:1-2: Error: Could not process rule: No such file or directory\n", "nft_masq"),
        ("/dev/stdin:3:1-2: Error: syntax error\n", "nft refused the rules: /dev/stdin:3:1-2: Error: syntax error"),
    ],
)
def test_what_nft_says_becomes_one_line(err: str, words: str) -> None:
    text = str(nft.explain(Result(("nft",), 1, "", err)))
    assert words in text
    assert "\n" not in text


def test_guest_mac_is_made_from_its_address() -> None:
    assert links.guest_mac(make()) == "06:00:ac:10:00:02"
