"""`python serve.py ADDRESS NAME CERTIFICATE`: a name server and a TLS server of the tests' own, until stdin closes.

NAME has ADDRESS, no other name exists; port 443 answers any request with `hello`. Prints `up` when both listen.
CERTIFICATE holds certificate and key (PEM). DNS after RFC 1035, section 4.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
import struct
import sys
import threading

NXDOMAIN = 3
A = 1
HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello\n"


def reply(query: bytes, name: str, address: str) -> bytes:
    """Return the answer to one query. Pure."""
    end = query.index(b"\0", 12) + 5
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode("ascii", "replace"))
        at += 1 + query[at]
    (kind,) = struct.unpack_from("!H", query, at + 1)
    known = ".".join(labels).lower() == name
    answers = b""
    if known and kind == A:
        answers = struct.pack("!HHHIH", 0xC00C, A, 1, 5, 4) + ipaddress.IPv4Address(address).packed
    head = query[:2] + struct.pack("!HHHHH", 0x8580 | (0 if known else NXDOMAIN), 1, bool(answers), 0, 0)
    return head + query[12:end] + answers


def resolve(sock: socket.socket, name: str, address: str) -> None:
    """Answer queries for ever."""
    while True:
        query, peer = sock.recvfrom(2048)
        sock.sendto(reply(query, name, address), peer)


async def hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one HTTP request."""
    try:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HELLO)
        await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def main(address: str, name: str, certificate: str) -> None:
    """Serve."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((address, 53))
    threading.Thread(target=resolve, args=(sock, name, address), daemon=True).start()
    await asyncio.start_server(hello, address, 443, ssl=context)
    sys.stdout.write("up\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
