"""Is the guest ready: sshd sends its banner, Docker answers /_ping. Short connections, slower when nothing comes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

_CONNECT = 3.0
"""Seconds one try may take; an emulated guest under load needs more than one."""


async def ssh_answers(host: str, port: int) -> bool:
    """Tell whether an SSH banner comes (RFC 4253 section 4.2; other lines may precede it)."""
    with contextlib.suppress(OSError, TimeoutError, ValueError):
        async with asyncio.timeout(_CONNECT):
            reader, writer = await asyncio.open_connection(host, port, limit=4096)
            try:
                for _ in range(20):
                    line = await reader.readline()
                    if line.startswith(b"SSH-2.0-"):
                        return True
                    if not line:
                        return False
            finally:
                writer.close()
    return False


async def docker_answers(host: str, port: int) -> bool:
    """Tell whether Docker's API says OK to GET /_ping."""
    with contextlib.suppress(OSError, TimeoutError, ValueError):
        async with asyncio.timeout(_CONNECT):
            reader, writer = await asyncio.open_connection(host, port, limit=4096)
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
    check: Callable[[], Awaitable[bool]], *, pause: float, patience: float, late: Callable[[], None]
) -> None:
    """Return when `check` first says yes.

    :param pause: seconds between tries; doubled up to 15 once `patience` seconds have passed
    :param late: called once when `patience` has passed
    """
    loop = asyncio.get_running_loop()
    start, told = loop.time(), False
    while not await check():
        if loop.time() - start > patience:
            if not told:
                told = True
                late()
            pause = min(pause * 2, 15.0)
        await asyncio.sleep(pause)
