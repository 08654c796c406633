"""The few rtnetlink(7) messages that a session needs, in standard library Python. No policy here.

Why not pyroute2: importing it costs 0.19 s (*measured*), a fifth of the second in which a session shall start, and
the one message that matters most here (per-device forwarding, NLA_F_NESTED on every nest) is built by hand anyway.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from types import TracebackType

# linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h, linux/netlink.h
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR, RTM_GETROUTE = 20, 21, 22, 26
NLM_F_REQUEST, NLM_F_ACK, NLM_F_REPLACE, NLM_F_CREATE, NLM_F_DUMP = 0x1, 0x4, 0x100, 0x400, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLA_F_NESTED, NLA_TYPE_MASK = 0x8000, 0x3FFF
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINKINFO, IFLA_AF_SPEC = 1, 3, 4, 18, 26
IFLA_INFO_KIND, IFLA_INFO_DATA = 1, 2
IFLA_TUN_OWNER, IFLA_TUN_TYPE, IFLA_TUN_VNET_HDR, IFLA_TUN_MULTI_QUEUE = 1, 3, 5, 7
IFLA_INET_CONF, IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE = 1, 8, 1
IFA_ADDRESS, IFA_LOCAL = 1, 2
RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_MULTIPATH, RTA_TABLE = 4, 5, 6, 9, 15
RT_TABLE_MAIN, RTN_UNICAST = 254, 1
IFF_UP = 1

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_LINK = struct.Struct("=BxHiII")  # ifinfomsg: family, type, index, flags, change
_ADDRESS = struct.Struct("=BBBBi")  # ifaddrmsg: family, prefix length, flags, scope, index
_ROUTE = struct.Struct("=BBBBBBBBI")  # rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags


@dataclass(frozen=True)
class Link:
    """One device. `kind` is the driver's name for virtual ones (veth, tun, ...), empty for hardware."""

    index: int
    name: str
    mtu: int
    up: bool
    kind: str = ""
    tun_owner: int | None = None
    tun_tap: bool = False
    tun_vnet_hdr: bool = False
    tun_multi_queue: bool = False


@dataclass(frozen=True)
class DefaultRoute:
    """A default route of the main table. `gateway` is None on point-to-point links."""

    index: int
    gateway: IPv4Address | None
    metric: int


def attribute(kind: int, data: bytes) -> bytes:
    """Return one struct nlattr, padded."""
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (type, payload) of each nlattr; stops at a malformed one."""
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        if length < 4 or at + length > len(data):
            return
        yield kind & NLA_TYPE_MASK, data[at + 4 : at + length]
        at += (length + 3) & ~3


def nested(kind: int, *parts: bytes) -> bytes:
    """Return a nest. The flag is required: newer kernels refuse IFLA_INET_CONF without it (notes/microvm.md 6)."""
    return attribute(kind | NLA_F_NESTED, b"".join(parts))


def u32(value: int) -> bytes:
    """Return a native-endian u32."""
    return struct.pack("=I", value)


class Netlink:
    """One rtnetlink socket of the namespace we are in. Errors of the kernel come as OSError."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.settimeout(5)
        self._sequence = 0

    def __enter__(self) -> Netlink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def links(self) -> list[Link]:
        """Return every device."""
        return [_parse_link(body) for kind, body in self._dump(RTM_GETLINK, _LINK.pack(0, 0, 0, 0, 0)) if kind == 16]

    def link(self, name: str) -> Link | None:
        """Return the device of that name."""
        return next((link for link in self.links() if link.name == name), None)

    def addresses(self) -> list[tuple[int, IPv4Interface]]:
        """Return (device index, address with its prefix) of every IPv4 address."""
        found = []
        for _, body in self._dump(RTM_GETADDR, _ADDRESS.pack(socket.AF_INET, 0, 0, 0, 0)):
            _, prefix, _, _, index = _ADDRESS.unpack_from(body)
            parts = dict(attributes(body[_ADDRESS.size :]))
            raw = parts.get(IFA_LOCAL) or parts.get(IFA_ADDRESS)
            if raw:
                found.append((index, IPv4Interface((raw, prefix))))
        return found

    def default_routes(self) -> list[DefaultRoute]:
        """Return the IPv4 default routes of the main table, the one in use (lowest metric) first."""
        found = []
        for _, body in self._dump(RTM_GETROUTE, _ROUTE.pack(socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0)):
            _, dst_len, _, _, table, _, _, kind, _ = _ROUTE.unpack_from(body)
            parts = dict(attributes(body[_ROUTE.size :]))
            table = struct.unpack("=I", parts[RTA_TABLE])[0] if RTA_TABLE in parts else table
            if dst_len or table != RT_TABLE_MAIN or kind != RTN_UNICAST:
                continue
            metric = struct.unpack("=I", parts[RTA_PRIORITY])[0] if RTA_PRIORITY in parts else 0
            if RTA_OIF in parts:
                hop = parts.get(RTA_GATEWAY)
                index = struct.unpack("=i", parts[RTA_OIF])[0]
            elif len(parts.get(RTA_MULTIPATH, b"")) >= 8:  # struct rtnexthop: the first path will do
                length, _, _, index = struct.unpack_from("=HBBi", parts[RTA_MULTIPATH])
                hop = dict(attributes(parts[RTA_MULTIPATH][8:length])).get(RTA_GATEWAY)
            else:
                continue
            found.append(DefaultRoute(index, IPv4Address(hop) if hop else None, metric))
        return sorted(found, key=lambda route: route.metric)

    def set_link(self, index: int, *, mtu: int | None = None, mac: bytes | None = None, up: bool = False) -> None:
        """Change MTU (bytes) and MAC address (6 bytes), bring the device up."""
        parts = attribute(IFLA_MTU, u32(mtu)) if mtu else b""
        parts += attribute(IFLA_ADDRESS, mac) if mac else b""
        flags = IFF_UP if up else 0
        self._ask(RTM_NEWLINK, 0, _LINK.pack(0, 0, index, flags, flags) + parts)

    def delete_link(self, index: int) -> None:
        """Remove the device."""
        self._ask(RTM_DELLINK, 0, _LINK.pack(0, 0, index, 0, 0))

    def set_ipv4_conf(self, index: int, values: dict[int, int]) -> None:
        """Set per-device IPv4 settings (IPV4_DEVCONF_* of linux/ip.h) without /proc/sys.

        The device's MTU must be 68 or more, or it has no IPv4 settings at all (EAFNOSUPPORT).
        """
        conf = nested(IFLA_INET_CONF, *(attribute(key, u32(value)) for key, value in values.items()))
        spec = nested(IFLA_AF_SPEC, nested(socket.AF_INET, conf))
        self._ask(RTM_SETLINK, 0, _LINK.pack(0, 0, index, 0, 0) + spec)

    def no_ipv6_address(self, index: int) -> None:
        """Keep the kernel from giving the device a link-local IPv6 address; no error where there is no IPv6."""
        mode = attribute(IFLA_INET6_ADDR_GEN_MODE, bytes([IN6_ADDR_GEN_MODE_NONE]))
        spec = nested(IFLA_AF_SPEC, nested(socket.AF_INET6, mode))
        try:
            self._ask(RTM_SETLINK, 0, _LINK.pack(0, 0, index, 0, 0) + spec)
        except OSError as error:
            if error.errno not in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP):
                raise

    def add_address(self, index: int, address: IPv4Interface) -> None:
        """Add an address; one that is there already is fine."""
        self._ask(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, _address(index, address))

    def delete_address(self, index: int, address: IPv4Interface) -> None:
        """Remove an address."""
        self._ask(RTM_DELADDR, 0, _address(index, address))

    def _ask(self, kind: int, flags: int, body: bytes) -> None:
        for _ in self._exchange(kind, NLM_F_REQUEST | NLM_F_ACK | flags, body):
            pass

    def _dump(self, kind: int, body: bytes) -> list[tuple[int, bytes]]:
        return list(self._exchange(kind, NLM_F_REQUEST | NLM_F_DUMP, body))

    def _exchange(self, kind: int, flags: int, body: bytes) -> Iterator[tuple[int, bytes]]:
        self._sequence += 1
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, self._sequence, 0) + body)
        while True:
            data = self._socket.recv(1 << 18)
            at = 0
            while at + _HEADER.size <= len(data):
                length, answer, _, sequence, _ = _HEADER.unpack_from(data, at)
                payload = data[at + _HEADER.size : at + length]
                at += (max(length, _HEADER.size) + 3) & ~3
                if sequence != self._sequence:
                    continue
                if answer == NLMSG_ERROR:
                    code = -struct.unpack_from("=i", payload)[0]
                    if code:
                        raise OSError(code, os.strerror(code))
                    return
                if answer == NLMSG_DONE:
                    return
                yield answer, payload


def _address(index: int, address: IPv4Interface) -> bytes:
    head = _ADDRESS.pack(socket.AF_INET, address.network.prefixlen, 0, 0, index)
    return head + attribute(IFA_LOCAL, address.ip.packed) + attribute(IFA_ADDRESS, address.ip.packed)


def _parse_link(body: bytes) -> Link:
    _, _, index, flags, _ = _LINK.unpack_from(body)
    parts = dict(attributes(body[_LINK.size :]))
    info = dict(attributes(parts.get(IFLA_LINKINFO, b"")))
    kind = info.get(IFLA_INFO_KIND, b"").rstrip(b"\0").decode()
    tun = dict(attributes(info.get(IFLA_INFO_DATA, b""))) if kind == "tun" else {}
    return Link(
        index=index,
        name=parts[IFLA_IFNAME].rstrip(b"\0").decode(),
        mtu=struct.unpack("=I", parts[IFLA_MTU])[0],
        up=bool(flags & IFF_UP),
        kind=kind,
        tun_owner=struct.unpack("=I", tun[IFLA_TUN_OWNER])[0] if IFLA_TUN_OWNER in tun else None,
        tun_tap=tun.get(IFLA_TUN_TYPE) == b"\x02",  # IFF_TAP
        tun_vnet_hdr=tun.get(IFLA_TUN_VNET_HDR) == b"\x01",
        tun_multi_queue=tun.get(IFLA_TUN_MULTI_QUEUE) == b"\x01",
    )
