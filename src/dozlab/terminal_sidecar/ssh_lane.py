"""The quick way through SSH: a channel's bytes, opened and sealed in the call that brings them. Twin of `wire.quick`.

asyncssh makes a cipher for every packet, copies what it has received twice a packet, and passes each through a dozen
calls; that is most of what a key costs. What is usual is therefore done here: whole packets of channel data (RFC 4254,
section 5.2), sealed with AES-GCM (RFC 5647). All else is left to asyncssh, which also finds the errors: it gets the
packet as it came, and opens it again. Its counters, keys and windows stay its own; they are read and moved on here.

That takes attributes of asyncssh that are private. With another version than the one they were read in, there is no
lane, and everything goes asyncssh's way.
"""

from __future__ import annotations

import asyncio
import logging
import os
import struct
import time
from typing import Any

import asyncssh
from asyncssh.encryption import Encryption, GCMEncryption
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dozlab.terminal_sidecar.wire.sealed import Ahead

log = logging.getLogger(__name__)

KNOWN = "2.24.0"
"""The version of asyncssh whose private attributes are used here."""
MOST_PACKET = 256 << 10
"""Bytes of a packet at most, as in OpenSSH; asyncssh asks for no more than 32 KiB of data in one."""
_EXTRA = "dozlab_lane"
_MSG_IGNORE, _MSG_CHANNEL_DATA = 2, 94
_LENGTH, _TAG, _BLOCK = 4, 16, 16  # bytes
_HEAD = struct.Struct(">BBII")
"""What stands before the data in an open packet: bytes of padding, type, channel, bytes of data."""
_LEAST = _LENGTH + _HEAD.size + _TAG
_LEAST_PADDING, _MOST_PADDING = 4, 19  # bytes: RFC 4253, section 6; none is more than a block more than needed
_RANDOM = 1024
_HEARD_EVERY = 1.0  # seconds


def lay(connection: asyncssh.SSHClientConnection) -> Lane | None:
    """Put a lane before a connection that has logged in; None where it cannot be, and asyncssh does everything."""
    _without_ignore(connection)
    if asyncssh.__version__ != KNOWN:
        log.warning("asyncssh %s is not the one known here (%s): keys take the long way", asyncssh.__version__, KNOWN)
        return None
    transport = connection._transport
    if transport is None:
        return None
    lane = Lane(connection)
    connection.set_extra_info(**{_EXTRA: lane})
    transport.set_protocol(lane)
    return lane


def of(channel: asyncssh.SSHClientChannel[bytes]) -> Lane | None:
    """Return the lane of a channel's connection, where it has one."""
    lane: Lane | None = channel.get_extra_info(_EXTRA)
    return lane


def _without_ignore(connection: asyncssh.SSHClientConnection) -> None:
    """Send no IGNORE packet before each packet from now on.

    asyncssh does so against an attack on CBC (RFC 4251, section 9.3.1), which we do not offer. It costs a system call
    here, and sshd a packet more, for every key that is pressed.
    """
    send = connection.send_packet

    def send_packet(kind: int, *fields: bytes, handler: Any = None) -> None:
        if kind != _MSG_IGNORE:
            send(kind, *fields, handler=handler)

    setattr(connection, "send_packet", send_packet)  # noqa: B010  (mypy knows it as a method)


class Lane(asyncio.Protocol):
    """Stands between the transport and asyncssh's connection."""

    def __init__(self, connection: asyncssh.SSHClientConnection) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._heard = 0.0
        self._partial = bytearray()  # of a packet that is not whole yet
        self._wanted = 0  # bytes of it, where its length is known
        self._opens: Encryption | None = None  # whose key `_open` has
        self._seals: Encryption | None = None
        self._open: AESGCM | None = None
        self._seal: AESGCM | None = None
        self._ahead: Ahead | None = None  # the next key's packet
        self._random, self._random_at = os.urandom(_RANDOM), 0  # for padding; each byte is used once
        self.received = self.sent = 0
        """Packets that took the quick way."""
        self._mine = False  # asyncssh waits for a packet to begin
        self._take_back()

    # --- what arrives

    def data_received(self, data: bytes) -> None:
        """Hand on channel data, and all else to asyncssh, packet by packet (the transport calls this)."""
        if self._partial:
            self._partial += data
            if len(self._partial) < self._wanted:
                self._hear()
                return
            data = bytes(self._partial)
            self._partial.clear()
            self._wanted = 0
        at, end = 0, len(data)
        try:
            while end - at >= _LENGTH and self._mine:
                after = at + _LENGTH + int.from_bytes(data[at : at + _LENGTH], "big") + _TAG
                if after - at > MOST_PACKET:
                    raise asyncssh.ProtocolError("a packet is too long")
                if after > end:
                    self._wanted = after - at
                    break
                if not self._take(data, at, after):
                    self._connection.data_received(data[at:after])
                    self._take_back()
                at = after
        except Exception:
            self._connection.internal_error()  # as asyncssh does
            return
        if at < end:
            if self._mine:
                self._partial += data[at:]
            else:
                self._connection.data_received(data[at:])
                self._take_back()
        self._hear()

    def _take(self, data: bytes, at: int, after: int) -> bool:
        """Deliver the packet that lies there; False when it is not a usual one, and nothing was done."""
        connection, opens = self._connection, self._open
        if after - at < _LEAST or opens is None:
            return False
        cipher = self._opens._cipher  # type: ignore[union-attr]
        body = at + _LENGTH
        try:
            plain = opens.decrypt(cipher._iv, data[body:after], data[at:body])
        except InvalidTag:
            return False
        padding, kind, number, size = _HEAD.unpack_from(plain)
        if kind != _MSG_CHANNEL_DATA or not padding or _HEAD.size + size + padding != len(plain):
            return False
        channel = connection._channels.get(number)
        if (
            channel is None
            or channel._recv_paused
            or channel._encoding
            or channel._recv_state != "open"
            or channel._send_state in ("close_pending", "closed")
            or not 0 < size <= channel._recv_window
        ):
            return False
        text = plain[_HEAD.size : -padding]
        try:  # what is waited for first
            if channel._recv_window - size < channel._init_recv_window / 2 or channel._session is None:
                channel._deliver_data(text, None)  # which lets the guest send more
            else:
                channel._recv_window -= size
                channel._session.data_received(text, None)
        finally:
            cipher._update_iv()
            connection._recv_seq = (connection._recv_seq + 1) & 0xFFFFFFFF
            self.received += 1
        return True

    def _take_back(self) -> None:
        """Take from asyncssh what it has of a packet that is not whole, unless it is amid something."""
        connection = self._connection
        encryption, handler = connection._recv_encryption, connection._recv_handler
        if encryption is not self._opens:
            self._opens, self._open = encryption, _aead(encryption)
        amid = handler not in (connection._recv_pkthdr, connection._recv_packet)
        self._mine = not (amid or self._open is None or connection._decompressor or connection._transport is None)
        if self._mine and (rest := connection._packet + connection._inpbuf):  # GCM: the length is not encrypted
            connection._packet = connection._inpbuf = b""
            connection._recv_handler = connection._recv_pkthdr
            self._partial += rest

    def _hear(self) -> None:
        """Put off asyncssh's keep-alive, which is for a guest that is not heard of; no timer for every key."""
        now = self._loop.time()
        if now - self._heard >= _HEARD_EVERY:
            self._heard = now
            self._connection._reset_keepalive_timer()

    def eof_received(self) -> None:
        """Pass it on (the transport calls this)."""
        self._connection.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass it on (the transport calls this)."""
        self._connection.connection_lost(exc)

    def pause_writing(self) -> None:
        """Pass it on (the transport calls this)."""
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on (the transport calls this)."""
        self._connection.resume_writing()

    # --- what is sent

    def write(self, channel: asyncssh.SSHClientChannel[bytes], data: bytes) -> bool:
        """Send data in one packet; False when that is not usual now, and nothing was done: `channel.write` it is."""
        connection, size = self._connection, len(data)
        encryption = connection._send_encryption
        if encryption is not self._seals:
            self._seals, self._seal = encryption, None if connection._compressor else _aead(encryption)
            self._ahead = None
        seal, transport, number = self._seal, connection._transport, channel._send_chan
        if (
            seal is None
            or transport is None
            or number is None
            or channel._send_state != "open"
            or channel._send_buf
            or not 0 < size <= channel._send_window
            or size > channel._send_pktsize
            or not connection._kex_complete  # as also when new keys are due: asyncssh begins with its next packet
            or connection._rekey_bytes_sent >= connection._rekey_bytes
            or (connection._rekey_seconds and time.monotonic() >= connection._rekey_time)
        ):
            return False
        cipher, ahead = encryption._cipher, self._ahead  # type: ignore[union-attr]
        packet = ahead.packet(cipher._iv, number, data[0]) if size == 1 and ahead is not None else None
        if packet is None:
            length, head, padding = _shape(number, size)
            packet = length + seal.encrypt(cipher._iv, head + data + self._padding(padding), length)
        transport.write(packet)
        cipher._update_iv()
        connection._send_seq = (connection._send_seq + 1) & 0xFFFFFFFF
        connection._rekey_bytes_sent += len(packet) - _LENGTH - _TAG
        channel._send_window -= size
        self.sent += 1
        if size == 1:
            length, head, padding = _shape(number, 1)
            if ahead is None:
                ahead = self._ahead = Ahead(seal, length, len(head), padding)
            ahead.seal(cipher._iv, number, head, self._padding(padding))
        return True

    def _padding(self, size: int) -> bytes:
        at = self._random_at
        self._random_at = at + size
        found = self._random[at : self._random_at]
        if self._random_at > _RANDOM - _MOST_PADDING:
            self._random, self._random_at = os.urandom(_RANDOM), 0
        return found


def _shape(channel: int, size: int) -> tuple[bytes, bytes, int]:
    """Return what stands before `size` bytes of data in a packet: its length, its head; and the bytes of padding."""
    padding = -(_HEAD.size + size) % _BLOCK
    if padding < _LEAST_PADDING:
        padding += _BLOCK
    length = (_HEAD.size + size + padding).to_bytes(_LENGTH, "big")
    return length, _HEAD.pack(padding, _MSG_CHANNEL_DATA, channel, size), padding


def _aead(encryption: Encryption | None) -> AESGCM | None:
    """Return asyncssh's cipher where it is AES-GCM."""
    return AESGCM(encryption._cipher._key) if isinstance(encryption, GCMEncryption) else None
