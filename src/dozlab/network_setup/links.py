"""Devices: the uplink as it is found, the tap as it is wanted. All I/O of network-setup but nft; rules are in rules.py.

Needs CAP_NET_ADMIN in the namespace's user namespace and /dev/net/tun, nothing else: no write to /proc/sys
(design.md D10).
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import struct
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

from dozlab.lib.errors import DozlabError
from dozlab.network_setup.netlink import Link, Netlink
from dozlab.network_setup.rules import Facts
from dozlab.network_setup.settings import PREFIX, Settings

log = logging.getLogger(__name__)

TUN = Path("/dev/net/tun")
MAX_MTU, MIN_MTU = 1500, 576
"""Bytes. pasta's uplink has 65520, which no guest and no bridge in it would expect; RFC 791 hosts take at least 576."""

# linux/if_tun.h
TUNSETIFF, TUNSETPERSIST, TUNSETOWNER = 0x400454CA, 0x400454CB, 0x400454CC
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_IFREQ = struct.Struct("=16sH22x")

# linux/ip.h, IPV4_DEVCONF_*: the same numbers serve IFLA_INET_CONF
FORWARDING, ACCEPT_REDIRECTS, SEND_REDIRECTS, RP_FILTER, ACCEPT_SOURCE_ROUTE, ARP_IGNORE = 1, 4, 6, 8, 9, 19


def facts(netlink: Netlink, settings: Settings) -> tuple[Facts, int]:
    """Return what the rules need to know, and the MTU for the tap.

    :raises DozlabError: when this is the machine's own namespace, or its addresses collide with the guest's link
    """
    links = {link.index: link for link in netlink.links()}
    uplink, gateways = _uplink(netlink, settings, links)
    addresses = [(index, a) for index, a in netlink.addresses() if links[index].name not in (settings.tap, "lo")]
    for what, address in [("address", a.ip) for _, a in addresses] + [("gateway", g) for g in gateways]:
        if address in settings.link:
            raise DozlabError(
                f"{settings.link} cannot be the guest's network: the {what} {address} of this namespace lies in it",
                hint="choose another network.gatewayIp and network.vmIp",
            )
    found = Facts(
        uplink=uplink.name if uplink else "",
        addresses=tuple(a.ip for _, a in addresses),
        subnets=tuple(a.network for index, a in addresses if uplink and index == uplink.index),
        gateways=tuple(gateways),
    )
    mtu = max(MIN_MTU, min(MAX_MTU, uplink.mtu)) if uplink else MAX_MTU
    return found, mtu


def _uplink(netlink: Netlink, settings: Settings, links: dict[int, Link]) -> tuple[Link | None, list[IPv4Address]]:
    routes = [route for route in netlink.default_routes() if links[route.index].name != settings.tap]
    if settings.uplink:
        uplink = next((link for link in links.values() if link.name == settings.uplink), None)
        if uplink is None:
            raise DozlabError(f"UPLINK_DEVICE={settings.uplink}: no such device here")
    elif routes:
        uplink = links[routes[0].index]
        if not uplink.kind:
            # A Pod's and pasta's uplinks are virtual. Our input rules in the machine's own namespace would lock it up.
            raise DozlabError(
                f"{uplink.name} is a hardware device: this looks like the machine's own network namespace",
                hint=f"run in the session's own namespace (no hostNetwork); if it is, set UPLINK_DEVICE={uplink.name}",
            )
    else:
        log.warning("no default route: the guest will reach nothing beyond this namespace")
        return None, []
    return uplink, [route.gateway for route in routes if route.index == uplink.index and route.gateway]


def set_up_tap(netlink: Netlink, settings: Settings, mtu: int) -> Link:
    """Bring the tap to the wanted state, whatever it is now: owner, address, MTU, per-device settings, up.

    :raises DozlabError: naming the right that lacks, and how to get it
    """
    tap = netlink.link(settings.tap)
    if tap is not None and tap.kind != "tun":
        raise DozlabError(
            f"device {settings.tap} exists and is no tap ({tap.kind or 'hardware'})",
            hint="choose another network.tapDevice",
        )
    if tap is not None and (not tap.tun_tap or tap.tun_multi_queue):
        netlink.delete_link(tap.index)  # Firecracker refuses multi-queue taps
        tap = None
    if tap is None or tap.tun_owner != settings.tap_uid or not tap.tun_vnet_hdr:
        _make_tap(settings.tap, settings.tap_uid)
        tap = netlink.link(settings.tap)
        assert tap is not None
    netlink.no_ipv6_address(tap.index)
    netlink.set_link(tap.index, mtu=mtu, mac=bytes([6, 1, *settings.gateway.packed]))  # fixed: a snapshot's ARP has it
    netlink.set_ipv4_conf(
        tap.index,
        {FORWARDING: 1, ACCEPT_REDIRECTS: 0, SEND_REDIRECTS: 0, RP_FILTER: 1, ACCEPT_SOURCE_ROUTE: 0, ARP_IGNORE: 1},
    )
    wanted = IPv4Interface(f"{settings.gateway}/{PREFIX}")
    for index, address in netlink.addresses():
        if index == tap.index and address != wanted:
            netlink.delete_address(index, address)
    netlink.add_address(tap.index, wanted)
    netlink.set_link(tap.index, up=True)
    return tap


def forward_on(netlink: Netlink, device: str) -> None:
    """Let the device forward IPv4. Both sides need it: with the tap alone, replies are lost (notes/microvm.md 6)."""
    link = netlink.link(device)
    assert link is not None
    netlink.set_ipv4_conf(link.index, {FORWARDING: 1, SEND_REDIRECTS: 0})


def _make_tap(name: str, uid: int) -> None:
    try:
        fd = os.open(TUN, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise _tun_fault(error) from error
    try:
        request = _IFREQ.pack(name.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)
        fcntl.ioctl(fd, TUNSETIFF, request)
        fcntl.ioctl(fd, TUNSETOWNER, uid)
        fcntl.ioctl(fd, TUNSETPERSIST, 1)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise DozlabError(
                f"tap {name} is in use by another process and has another owner or mode",
                hint="stop the VM that uses it first",
            ) from error
        if error.errno == errno.EINVAL:
            raise DozlabError(f"uid {uid} cannot own tap {name}: it does not exist in this user namespace") from error
        raise
    finally:
        os.close(fd)


def _tun_fault(error: OSError) -> DozlabError:
    if error.errno in (errno.EACCES, errno.EPERM):
        if os.access(TUN, os.R_OK | os.W_OK):  # the file's mode is fine, so it is the container's device rule
            return DozlabError(
                f"{TUN} may not be opened in this container",
                hint="let the Pod ask for the tun resource of the device plugin (charts/dozlab-node)",
            )
        return DozlabError(
            f"no right to open {TUN}", hint=f"run: sudo chmod 0666 {TUN} (Debian's own default, kept by udev)"
        )
    if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return DozlabError(
            f"there is no {TUN}",
            hint="run: sudo modprobe tun (in a Pod: ask for the tun resource of the device plugin, charts/dozlab-node)",
        )
    return DozlabError(f"cannot open {TUN}: {error.strerror}")


def guest_mac(settings: Settings) -> str:
    """Return the guest's MAC address: locally administered, made from its IPv4 address, the same in every session.

    A snapshot has it baked in, and every session has the same addresses in its own namespace (design.md D13).
    """
    return "06:00:" + ":".join(f"{byte:02x}" for byte in settings.vm.packed)
