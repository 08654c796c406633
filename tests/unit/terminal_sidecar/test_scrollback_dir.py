"""What a shell has printed, kept in a file in place of memory (SCROLLBACK_DIR)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from dozlab.lib.files import scratch
from dozlab.terminal_sidecar import protocol as p

from .conftest import Guest, Sidecar, terminal
from .test_people_live import ask

SIZE = 64 << 10


def test_a_file_without_a_name_is_memory(tmp_path: Path) -> None:
    with scratch(tmp_path, SIZE) as memory:
        memory[-4:] = b"last"
        assert (len(memory), memory[:4], memory[-4:]) == (SIZE, bytes(4), b"last")
        assert list(tmp_path.iterdir()) == []


def test_room_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    """And not by a signal when the page is written to."""
    with pytest.raises(OSError, match=r"No space left|File too large"):
        scratch(tmp_path, 1 << 60)
    assert list(tmp_path.iterdir()) == []


def mapped(sidecar: Sidecar, folder: Path) -> int:
    """Return how many scrollbacks of that folder the process has."""
    return Path(f"/proc/{sidecar.process.pid}/maps").read_text().count(f"{folder}/.scratch.")


@contextlib.contextmanager
def keeping(tmp_path: Path, guest: Guest, page: Path, folder: Path) -> Iterator[tuple[Sidecar, str]]:
    """Yield a sidecar that keeps 64 KiB of each shell in that folder, and an owner's cookie."""
    sidecar = Sidecar(tmp_path, guest.port, page, SCROLLBACK=str(SIZE), SCROLLBACK_DIR=str(folder))
    try:
        yield sidecar, sidecar.login()[1]
    finally:
        assert sidecar.stop() == 0


async def test_a_reload_brings_what_the_file_holds(tmp_path: Path, guest: Guest, page: Path) -> None:
    folder = tmp_path / "scrollback"
    folder.mkdir()
    with keeping(tmp_path, guest, page, folder) as (sidecar, cookie):
        async with terminal(sidecar, cookie) as first:
            await first.type("seq 40000; echo do''ne\n")
            await first.until(b"done\r\n")
            async with terminal(sidecar, cookie) as second:
                await second.until(b"done\r\n")
                assert b"\r\n39000\r\n39001\r\n" in second.text and b"\r\n20000\r\n" not in second.text
            async with terminal(sidecar, cookie, p.Hello("t-1")) as other:
                await other.until(b"guest$ ")
                assert (mapped(sidecar, folder), list(folder.iterdir())) == (2, [])
            assert ask(sidecar, "DELETE", "/shells/t-1", cookie)[0] == 204
            async with asyncio.timeout(60):
                while mapped(sidecar, folder) != 1:  # its room is free again
                    await asyncio.sleep(0.05)


async def test_without_room_it_is_kept_in_memory(tmp_path: Path, guest: Guest, page: Path) -> None:
    with keeping(tmp_path, guest, page, tmp_path / "missing") as (sidecar, cookie):
        async with terminal(sidecar, cookie) as first:
            await first.type("echo st''ill\n")
            await first.until(b"still\r\n")
            async with terminal(sidecar, cookie) as second:
                await second.until(b"still\r\n")
        assert f"scrollback is kept in memory, 1 MiB at the most: {tmp_path}/missing: No such file" in sidecar.log()
