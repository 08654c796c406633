"""What listens on TCP, out of /proc/net/tcp and tcp6 (proc_net_tcp.txt of Linux). Pure; the text is a guest's."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

_LISTEN = "0A"
_MOST = 256
"""Ports told; more are not worth a list."""

Address = IPv4Address | IPv6Address


@dataclass(frozen=True)
class Listener:
    """One port and the addresses somebody listens on."""

    port: int
    addresses: tuple[Address, ...]

    def reached_by(self, vm_ip: str) -> bool:
        """Tell whether `Guest.dial` gets there: on every address, the guest's own, or a loopback one it tries."""
        return any(
            address.is_unspecified or str(address) in (vm_ip, "127.0.0.1", "::1", "::ffff:127.0.0.1")
            for address in self.addresses
        )

    @property
    def open(self) -> bool:
        """Tell whether other machines reach it too."""
        return any(not address.is_loopback for address in self.addresses)


def listeners(text: str) -> list[Listener]:
    """Return who listens, by port; lines that are none are passed over."""
    found: dict[int, list[Address]] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) < 4 or words[3] != _LISTEN:
            continue
        try:
            host, _, port = words[1].partition(":")
            address, number = _address(host), int(port, 16)
        except ValueError:
            continue
        if 0 < number < 65536 and (number in found or len(found) < _MOST):
            known = found.setdefault(number, [])
            if address not in known and len(known) < 8:
                known.append(address)
    return [Listener(port, tuple(found[port])) for port in sorted(found)]


def _address(text: str) -> Address:
    """Return an address as the kernel prints it: words of 32 bits in the machine's order, which is x86's.

    :raises ValueError: when it is none
    """
    raw = bytes.fromhex(text)
    if len(raw) not in (4, 16):
        raise ValueError(text)
    ordered = b"".join(raw[at : at + 4][::-1] for at in range(0, len(raw), 4))
    return IPv4Address(ordered) if len(raw) == 4 else IPv6Address(ordered)
