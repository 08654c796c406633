"""The nftables rules of a session: settings and facts in, one text for `nft -f -` out. Pure: no device, no process.

Policy is design.md section 4 (Egress, Ports); the guest is taken for hostile. Nothing here depends on the order of
devices coming up, since devices are matched by name: the rules are loaded before the tap exists.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, collapse_addresses

from dozlab.network_setup.settings import Settings

TABLE = "dozlab"
PUBLIC_PORTS = (8080, 8081)
"""Editor and terminal: open from the uplink's side, with the ports of the SSH relay and of the terminal's proxy."""

EVERYTHING = IPv4Network("0.0.0.0/0")
CLOSED = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network (RFC 791)
        "10.0.0.0/8",  # private (RFC 1918), as the two below
        "100.64.0.0/10",  # carrier-grade NAT (RFC 6598): also some clouds' node networks
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link-local: cloud metadata
        "172.16.0.0/12",
        "192.168.0.0/16",
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved and broadcast
    )
)
"""Closed to the guest unless EGRESS_ALLOW opens it; the uplink's own subnets and gateway come on top."""


@dataclass(frozen=True)
class Facts:
    """What the namespace looks like. `uplink` is empty where there is no default route."""

    uplink: str = ""
    addresses: tuple[IPv4Address, ...] = ()
    """Every IPv4 address of the namespace but the tap's."""
    subnets: tuple[IPv4Network, ...] = ()
    """The uplink's own."""
    gateways: tuple[IPv4Address, ...] = ()
    """Next hop of the default route (it may lie outside the subnets, as with Calico)."""


def ruleset(settings: Settings, facts: Facts) -> str:
    """Return the whole ruleset. Loading it replaces an earlier one in one transaction; other tables stay."""
    chains = [
        _chain("antispoof", "type filter hook prerouting priority raw; policy accept;", _antispoof(settings, facts)),
        _chain("input", "type filter hook input priority filter; policy drop;", _input(settings)),
        _chain("from_guest", "", _from_guest(settings, facts)),
        _chain("clamp", "type filter hook forward priority mangle; policy accept;", _clamp(settings)),
        _chain("forward", "type filter hook forward priority filter; policy drop;", _forward(settings, facts)),
        _chain("egress", "", _egress(settings, facts)),
    ]
    if facts.uplink:
        nat = [f'oifname "{facts.uplink}" ip saddr {settings.vm} masquerade']
        chains.append(_chain("nat", "type nat hook postrouting priority srcnat; policy accept;", nat))
    # "add" first, so that "delete" never fails: the usual idiom for an idempotent replacement (nft(8)).
    head = f"add table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n"
    return head + "\n".join(chains) + "}\n"


def _chain(name: str, hook: str, rules: Iterable[str]) -> str:
    lines = [hook, *rules] if hook else list(rules)
    return f"\tchain {name} {{\n" + "".join(f"\t\t{line}\n" for line in lines) + "\t}\n"


def _set(items: Iterable[object]) -> str:
    return "{ " + ", ".join(str(item) for item in items) + " }"


def _nets(networks: Iterable[IPv4Network]) -> str:
    """Return an nft set; overlapping intervals in one set are an error for nft, so they are collapsed."""
    return _set(collapse_addresses(networks))


def _antispoof(settings: Settings, facts: Facts) -> list[str]:
    rules = [
        f'iifname "{settings.tap}" meta nfproto ipv6 drop',
        f'iifname "{settings.tap}" ip saddr != {settings.vm} drop',
    ]
    if facts.uplink:
        # Nobody outside can pass for the guest, nor address it: replies to it still carry the uplink's address here.
        rules.append(f'iifname "{facts.uplink}" ip saddr {settings.link} drop')
        rules.append(f'iifname "{facts.uplink}" ip daddr {settings.link} drop')
    return rules


def _input(settings: Settings) -> list[str]:
    ports = _set(sorted({*PUBLIC_PORTS, settings.relay_port, *filter(None, [settings.ports_port])}))
    return [
        'iifname "lo" accept',
        "ct state invalid drop",
        "ct state established,related accept",
        f'iifname "{settings.tap}" goto from_guest',
        f"tcp dport {ports} accept",
        "icmp type echo-request accept",
        "icmpv6 type { echo-request, nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert } accept",
    ]


def _from_guest(settings: Settings, facts: Facts) -> list[str]:
    """Guest to namespace: the workspace, an echo, and DNS where the server is an address of the namespace itself."""
    rules = [
        *(
            [f"ip daddr {settings.gateway} tcp dport {settings.workspace_port} accept"]
            if settings.workspace_port
            else []
        ),
        f"ip daddr {settings.gateway} icmp type echo-request limit rate 50/second accept",
    ]
    own = {settings.gateway, *facts.addresses}
    if local := [server for server in settings.dns if server in own]:
        rules.append(f"ip daddr {_set(local)} meta l4proto {{ tcp, udp }} th dport 53 accept")
    return [*rules, "drop"]


def _clamp(settings: Settings) -> list[str]:
    """Both directions, so that guests and their Docker bridges (MTU 1500) survive any uplink MTU >= 1280."""
    flags = "tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu"
    return [f'iifname "{settings.tap}" {flags}', f'oifname "{settings.tap}" {flags}']


def _forward(settings: Settings, facts: Facts) -> list[str]:
    if not facts.uplink:
        return []
    return [
        "ct state invalid drop",
        f'iifname "{facts.uplink}" oifname "{settings.tap}" ct state established,related accept',
        f'iifname "{settings.tap}" oifname "{facts.uplink}" goto egress',
    ]


def _egress(settings: Settings, facts: Facts) -> list[str]:
    """In this order: DNS, what is denied, what is allowed, what is closed by default, the rest.

    No blanket "established": a network closed by a second run is closed to open connections as well.
    """
    own = {settings.gateway, *facts.addresses}
    rules = [f"ip saddr != {settings.vm} drop"]
    if remote := [server for server in settings.dns if server not in own]:
        rules.append(f"ip daddr {_set(remote)} meta l4proto {{ tcp, udp }} th dport 53 accept")
    denied = [network for network in settings.deny if network != EVERYTHING]
    if denied:
        rules.append(f"ip daddr {_nets(denied)} drop")
    if settings.allow:
        rules.append(f"ip daddr {_nets(settings.allow)} accept")
    if EVERYTHING in settings.deny:
        return [*rules, "drop"]
    gateways = [IPv4Network(gateway) for gateway in facts.gateways]
    closed = [*CLOSED, *facts.subnets, *gateways, *settings.protected]
    # ip saddr was checked above, so this accepts IPv4 only: IPv6 of the guest never gets past "antispoof" either.
    return [*rules, f"ip daddr {_nets(closed)} drop", f"ip saddr {settings.vm} accept"]
