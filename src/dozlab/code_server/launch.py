"""Starts code-server, waits until it is healthy, and ends it: the editor without the bridge."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import time

from dozlab.code_server import sandbox, seed
from dozlab.code_server.docker_cli import PLUGINS
from dozlab.code_server.settings import Settings
from dozlab.lib.errors import DozlabError
from dozlab.lib.proc import Child, need
from dozlab.lib.units import format_seconds

HEALTHY_WITHIN = 120.0  # seconds; 0.6 s on a free core, much more on a machine that emulates a guest at the same time
GRACE = 5.0  # seconds between SIGTERM and SIGKILL

FLAGS = (
    "--auth", "password", "--disable-telemetry", "--disable-update-check", "--disable-workspace-trust",
    "--disable-getting-started-override", "--disable-proxy",
)  # fmt: skip
"""`--disable-proxy`: pages served elsewhere must never appear on the editor's own origin."""

log = logging.getLogger(__name__)


def hash_password(password: str, session_id: str) -> str:
    """Return the argon2id hash that code-server checks logins and cookies against.

    The salt comes from the session's id, so that a restarted editor still knows its cookies (which hold the hash).
    """
    from argon2.low_level import Type, hash_secret  # 20 ms that a HASHED_PASSWORD saves

    salt = hashlib.sha256(f"dozlab code-server {session_id}".encode()).digest()[:16]
    return hash_secret(
        password.encode(), salt, time_cost=2, memory_cost=19456, parallelism=1, hash_len=32, type=Type.ID
    ).decode()


def environment(settings: Settings, hashed: str) -> dict[str, str]:
    """Return the editor's whole environment: nothing of ours leaks into it. Pure."""
    boxed = settings.sandbox == "bwrap"
    home = sandbox.HOME if boxed else str(settings.home)
    path = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
    if settings.docker_cli and not boxed:
        path = f"{settings.docker_cli}/bin:{path}"
    return {
        "HOME": home,
        "USER": sandbox.USER,
        "LOGNAME": sandbox.USER,
        "SHELL": "/bin/bash",
        "LANG": "C.UTF-8",
        "PATH": f"{home}/.local/bin:{path}",
        "DOCKER_HOST": f"tcp://{settings.vm_ip}:2375",
        "HASHED_PASSWORD": hashed,  # code-server takes it out before it starts anything
    }


def command(settings: Settings) -> list[str]:
    """Return the program and its arguments, as paths inside the sandbox. Pure."""
    if settings.sandbox == "bwrap":
        node, entry = sandbox.NODE, f"{sandbox.CODE_SERVER}/{settings.entry.relative_to(settings.code_server)}"
        workspace = sandbox.WORKSPACE
    else:
        node, entry, workspace = str(settings.node), str(settings.entry), str(settings.workspace)
    return [node, entry, "--bind-addr", f"0.0.0.0:{settings.port}", "--cookie-suffix", settings.session_id,
            *FLAGS, workspace]  # fmt: skip


def with_data(box: sandbox.Sandbox) -> tuple[list[str], list[int]]:
    """Return the sandbox's argv with its data files in memory, and their descriptors: pass them on, then close them."""
    argv, fds = list(box.argv), []
    for path, text in box.data:
        fd = os.memfd_create(path, os.MFD_CLOEXEC)
        os.write(fd, text.encode())
        os.lseek(fd, 0, os.SEEK_SET)
        fds.append(fd)
        argv[argv.index(f"@{path}")] = str(fd)
    return argv, fds


class Editor:
    """code-server as a child of ours."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._child: Child | None = None

    async def start(self) -> float:
        """Start it and return the seconds until it answers /healthz.

        :raises DozlabError: a file is missing, it ends at once, or it is not healthy within HEALTHY_WITHIN
        """
        settings = self._settings
        for path in (settings.node, settings.entry):
            if not path.exists():
                raise DozlabError(f"code-server is not installed: {path} is missing", hint="run: make setup")
        hashed = settings.hashed_password or hash_password(settings.password, settings.session_id)
        boxed = settings.sandbox == "bwrap"
        seed.seed(settings.home, plugins="" if boxed or not settings.docker_cli else f"{settings.docker_cli}/{PLUGINS}")
        settings.workspace.mkdir(parents=True, exist_ok=True)
        argv, fds = command(settings), list[int]()
        if boxed:
            need("bwrap", "bubblewrap")
            argv, fds = with_data(sandbox.editor(settings, argv))
        started = time.monotonic()
        try:
            self._child = await Child.start(
                argv, name="code-server", env=environment(settings, hashed), pass_fds=fds,
                cwd=None if boxed else settings.workspace,
            )  # fmt: skip
        finally:
            for fd in fds:
                os.close(fd)
        await self._healthy()
        return time.monotonic() - started

    async def wait(self) -> None:
        """Wait for its end, which is always a fault.

        :raises DozlabError: with its status
        """
        assert self._child
        code = await self._child.wait()
        raise DozlabError(f"code-server has ended {_status(code)}", hint="its last words are above")

    async def stop(self) -> None:
        """End it with all it has started (bwrap's PID namespace goes with it)."""
        if self._child:
            await self._child.stop(grace=GRACE)

    async def _healthy(self) -> None:
        assert self._child
        try:
            async with asyncio.timeout(HEALTHY_WITHIN):
                while not await _answers(self._settings.port):
                    if not self._child.running:
                        await self.wait()
                    await asyncio.sleep(0.05)
        except TimeoutError as error:
            raise DozlabError(
                f"code-server does not answer /healthz on port {self._settings.port}"
                f" after {format_seconds(HEALTHY_WITHIN)}"
            ) from error


def _status(code: int) -> str:
    return f"by signal {-code}" if code < 0 else f"with status {code}"


async def _answers(port: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    try:
        writer.write(b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n")
        async with asyncio.timeout(5):
            return b" 200 " in await reader.readline()
    except (OSError, TimeoutError):
        return False
    finally:
        writer.close()
