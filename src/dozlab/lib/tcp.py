"""A TCP connection to a guest that may be paused."""

from __future__ import annotations

import socket

_LONGEST = (1 << 31) - 1
"""Milliseconds: 24 days, the most there is."""


def outlive_a_pause(sock: socket.socket) -> None:
    """Let what is under way when the guest stops end nothing (TCP_USER_TIMEOUT, tcp(7)); else that takes 15 minutes."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _LONGEST)
