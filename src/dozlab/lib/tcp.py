"""A TCP connection to a guest that may be paused."""

from __future__ import annotations

import socket
import struct

_LONGEST = (1 << 31) - 1
"""Milliseconds: 24 days, the most there is."""


def outlive_a_pause(sock: socket.socket) -> None:
    """Let what is under way when the guest stops end nothing (TCP_USER_TIMEOUT, tcp(7)); else that takes 15 minutes."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _LONGEST)


_RTT = struct.Struct("=68xI")
"""`tcpi_rtt` of struct tcp_info (linux/tcp.h): eight bytes of flags, then the sixteenth 32-bit word."""


def round_trip(sock: socket.socket) -> float | None:
    """Return the kernel's smoothed round trip to the peer in seconds (TCP_INFO, tcp(7)): it sends nothing to know it.

    :return: None when it has measured none, or the socket is closed
    """
    try:
        (microseconds,) = _RTT.unpack_from(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 128))
    except (OSError, struct.error):
        return None
    return float(microseconds) / 1e6 if microseconds else None
