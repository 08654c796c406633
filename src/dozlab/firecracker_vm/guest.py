"""Is the guest ready: sshd sends its banner, Docker answers /_ping. One try at a time, slower when nothing comes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

_T = TypeVar("_T")
_CONNECT = 3.0
"""Seconds a connection may take: the guest's kernel makes it, without its programs."""
_SELDOM = 0.5
"""Seconds between tries, at the most, while there is patience."""
_ANSWER = 30.0
"""Seconds until the first words: to hang up on a slow guest and ask again makes it slower yet."""


@dataclass
class Greeting:
    """A connection to an sshd that has sent its banner; `said` is all it has sent so far."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    said: bytes


async def ssh_greets(host: str, port: int) -> Greeting | None:
    """Return the connection once an SSH banner comes (RFC 4253 section 4.2; other lines may precede it); None when
    none does. The caller closes it.
    """
    with contextlib.suppress(OSError, TimeoutError, ValueError):
        async with asyncio.timeout(_CONNECT) as limit:
            reader, writer = await asyncio.open_connection(host, port, limit=4096)
            limit.reschedule(asyncio.get_running_loop().time() + _ANSWER)
            found, said = None, b""
            try:
                for _ in range(20):
                    line = await reader.readline()
                    said += line
                    if line.startswith(b"SSH-2.0-"):
                        found = Greeting(reader, writer, said)
                    if found or not line:
                        break
            finally:
                if not found:
                    writer.close()
            return found
    return None


async def docker_answers(host: str, port: int) -> bool:
    """Tell whether Docker's API says OK to GET /_ping."""
    with contextlib.suppress(OSError, TimeoutError, ValueError):
        async with asyncio.timeout(_CONNECT) as limit:
            reader, writer = await asyncio.open_connection(host, port, limit=4096)
            limit.reschedule(asyncio.get_running_loop().time() + _ANSWER)
            try:
                writer.write(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")
                answer = await reader.read(4096)
                while b"\r\n\r\n" not in answer and len(answer) < 4096 and (more := await reader.read(4096)):
                    answer += more
                return answer.split(b" ")[1:2] == [b"200"]
            finally:
                writer.close()
    return False


async def wait_until(
    check: Callable[[], Awaitable[_T | None]], *, pause: float, patience: float, late: Callable[[], None]
) -> _T:
    """Return the first answer of `check` that is not empty.

    :param pause: seconds between the first tries; a tenth of the time so far where that is longer, up to _SELDOM.
        Doubled up to 15 once `patience` seconds have passed
    :param late: called once when `patience` has passed
    """
    loop = asyncio.get_running_loop()
    start, told = loop.time(), False
    while not (answer := await check()):
        if loop.time() - start > patience:
            if not told:
                told = True
                late()
            pause = min(pause * 2, 15.0)
        # Who has waited long can wait a little longer: each try is work for a guest that may be one of many.
        await asyncio.sleep(max(pause, min((loop.time() - start) / 10, _SELDOM)))
    return answer
