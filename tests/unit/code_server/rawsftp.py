"""A tiny SFTP version 3 client that sends what it is told, on a plain TCP socket: the hostile guest of the tests.

Source: draft-ietf-secsh-filexfer-02; extensions as in OpenSSH's PROTOCOL.
"""

from __future__ import annotations

import socket
import struct

OK, EOF, NO_SUCH_FILE, PERMISSION_DENIED, FAILURE = 0, 1, 2, 3, 4
READ, WRITE, CREATE, TRUNCATE = 0x1, 0x2, 0x8, 0x10
_INIT, _OPEN, _CLOSE, _READ, _WRITE, _SETSTAT, _REMOVE, _MKDIR = 1, 3, 4, 5, 6, 9, 13, 14
_OPENDIR, _READDIR, _REALPATH, _RENAME, _READLINK, _SYMLINK, _EXTENDED = 11, 12, 16, 18, 19, 20, 200
_STATUS, _HANDLE, _DATA, _NAME = 101, 102, 103, 104


class SftpError(Exception):
    """The server's status code, not OK."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code} {text}")
        self.code = code


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack(">I", len(raw)) + raw


class RawSftp:
    """One connection. Every call is one request and its reply."""

    def __init__(self, host: str, port: int) -> None:
        self.socket = socket.create_connection((host, port), timeout=30)
        self._id = 0
        try:
            self._send(bytes([_INIT]) + struct.pack(">I", 3))
            self._receive()
        except BaseException:
            self.socket.close()
            raise

    def close(self) -> None:
        self.socket.close()

    def _send(self, body: bytes) -> None:
        self.socket.sendall(struct.pack(">I", len(body)) + body)

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = self.socket.recv(count - len(data))
            if not piece:
                raise ConnectionError("the server has closed the connection")
            data += piece
        return data

    def _receive(self) -> tuple[int, bytes]:
        (length,) = struct.unpack(">I", self._exactly(4))
        body = self._exactly(length)
        return body[0], body[5:]

    def ask(self, kind: int, payload: bytes) -> bytes:
        self._id += 1
        self._send(bytes([kind]) + struct.pack(">I", self._id) + payload)
        answer, body = self._receive()
        if answer == _STATUS:
            code, length = struct.unpack(">II", body[:8])
            if code != OK:
                raise SftpError(code, body[8 : 8 + length].decode())
        return body

    def open(self, path: str, flags: int) -> bytes:
        body = self.ask(_OPEN, text(path) + struct.pack(">II", flags, 0))
        return body[4 : 4 + struct.unpack(">I", body[:4])[0]]

    def close_handle(self, handle: bytes) -> None:
        self.ask(_CLOSE, text(handle))

    def read(self, path: str) -> bytes:
        handle = self.open(path, READ)
        try:
            body = self.ask(_READ, text(handle) + struct.pack(">QI", 0, 65536))
            return body[4:]
        finally:
            self.close_handle(handle)

    def write(self, path: str, data: bytes, *, offset: int = 0, flags: int = WRITE | CREATE) -> None:
        handle = self.open(path, flags)
        try:
            for start in range(0, len(data), 65536):
                self.ask(_WRITE, text(handle) + struct.pack(">Q", offset + start) + text(data[start : start + 65536]))
        finally:
            self.close_handle(handle)

    def truncate(self, path: str, size: int) -> None:
        self.ask(_SETSTAT, text(path) + struct.pack(">IQ", 1, size))

    def listdir(self, path: str) -> set[str]:
        body = self.ask(_OPENDIR, text(path))
        handle, names = body[4:], set()
        try:
            while True:
                body = self.ask(_READDIR, text(handle))
                (count,), at = struct.unpack(">I", body[:4]), 4
                for _ in range(count):
                    (size,) = struct.unpack_from(">I", body, at)
                    names.add(body[at + 4 : at + 4 + size].decode())
                    at += 4 + size
                    at += 4 + struct.unpack_from(">I", body, at)[0]
                    (present,) = struct.unpack_from(">I", body, at)
                    at += 4 + (8 if present & 1 else 0) + (8 if present & 2 else 0)
                    at += (4 if present & 4 else 0) + (8 if present & 8 else 0)
        except SftpError as error:
            if error.code != EOF:
                raise
        finally:
            self.close_handle(handle)
        return names

    def realpath(self, path: str) -> str:
        body = self.ask(_REALPATH, text(path))
        return body[8 : 8 + struct.unpack(">I", body[4:8])[0]].decode()

    def symlink(self, target: str, link: str) -> None:
        self.ask(_SYMLINK, text(target) + text(link))  # OpenSSH's order

    def rename(self, old: str, new: str) -> None:
        self.ask(_RENAME, text(old) + text(new))

    def hardlink(self, old: str, new: str) -> None:
        self.ask(_EXTENDED, text("hardlink@openssh.com") + text(old) + text(new))

    def mkdir(self, path: str) -> None:
        self.ask(_MKDIR, text(path) + struct.pack(">I", 0))

    def remove(self, path: str) -> None:
        self.ask(_REMOVE, text(path))
