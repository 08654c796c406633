"""Settings and a running bridge for the tests of code-server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from dozlab.code_server.bridge import Bridge
from dozlab.code_server.settings import Settings
from dozlab.lib.units import MIB


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    for name in ("workspace", "home", "shared"):
        (tmp_path / name).mkdir()
    loopback = IPv4Address("127.0.0.1")
    return Settings(
        session_id="lab-1", password="correct horse", hashed_password="", port=8080, vm_ip=loopback,
        gateway_ip=loopback, home=tmp_path / "home", workspace=tmp_path / "workspace", workspace_size=32 * MIB,
        workspace_read_only=False, workspace_port=0, sandbox="bwrap", code_server=tmp_path / "code-server",
        node=tmp_path / "node", docker_cli=None, sftp_server=Path("/usr/lib/openssh/sftp-server"),
        shared=tmp_path / "shared",
    )  # fmt: skip


@pytest.fixture(params=["bwrap", "none"])
async def bridge(request: pytest.FixtureRequest, settings: Settings) -> AsyncIterator[Bridge]:
    """A listening bridge, once with bubblewrap and once with Landlock."""
    running = Bridge(replace(settings, sandbox=request.param))
    await running.start()
    yield running
    await running.close()


async def until(condition: Callable[[], bool], what: str, *, seconds: float = 30.0) -> None:
    """Poll until the condition holds.

    :raises AssertionError: naming what is missing
    """
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"still missing: {what}"
        await asyncio.sleep(0.02)
