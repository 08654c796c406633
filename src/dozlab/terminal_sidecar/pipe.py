"""Bytes to and from a program in the guest, over one SSH channel; and the two reasons why there is none."""

from __future__ import annotations

import contextlib

import asyncssh

PIPE_WINDOW = 256 << 10
"""SSH receive window of a pipe, bytes: all that a guest can make us hold for one that nobody reads."""


class Still(Exception):
    """The guest stands still: it would not answer."""


class Away(Exception):
    """The guest does not answer, or refuses; the text says what."""


class Pipe:
    """Bytes to and from something in the guest, with back-pressure both ways."""

    def __init__(self, reader: asyncssh.SSHReader[bytes], writer: asyncssh.SSHWriter[bytes]) -> None:
        self._reader, self._writer = reader, writer

    async def read(self, most: int) -> bytes:
        """Return what has come, b"" at the end.

        :raises Away: when the connection is lost
        """
        try:
            return await self._reader.read(most)
        except (asyncssh.Error, OSError) as error:
            raise Away("the connection to the machine is lost") from error

    async def write(self, data: bytes) -> None:
        """Send; waits while the guest takes nothing more.

        :raises Away: when the other end is gone
        """
        try:
            self._writer.write(data)
            await self._writer.drain()
        except (asyncssh.Error, OSError) as error:
            raise Away("the connection to the machine is lost") from error

    def end(self) -> None:
        """Say that nothing more will be sent."""
        with contextlib.suppress(OSError):
            self._writer.write_eof()

    def close(self) -> None:
        """Close both ways at once."""
        with contextlib.suppress(OSError):
            self._writer.channel.abort()

    async def status(self) -> int | None:
        """Return a command's exit status, once it has ended; None when it was killed or lost."""
        channel = self._writer.channel
        await channel.wait_closed()
        return channel.get_exit_status() if isinstance(channel, asyncssh.SSHClientChannel) else None
