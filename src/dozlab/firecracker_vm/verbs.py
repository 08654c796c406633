"""The verbs of vm.sock: what the session's supervisor, the command line and `ask.py` may ask of the machine."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

from dozlab.firecracker_vm.checkpoints import check_name
from dozlab.firecracker_vm.console import Console
from dozlab.firecracker_vm.running import Running
from dozlab.lib.control import Verb
from dozlab.lib.errors import DozlabError

log = logging.getLogger(__name__)

CONSOLE_LINES = 2000

Request = dict[str, Any]


class Verbs:
    """Each verb takes a request and returns its answer; ARCHITECTURE.md, control sockets, has their fields."""

    def __init__(self, machine: Running, console: Console, request_stop: Callable[[], None]) -> None:
        self._machine = machine
        self._console = console
        self._request_stop = request_stop

    def table(self) -> dict[str, Verb]:
        """Return name -> verb."""
        return {
            "status": self.status, "pause": self.pause, "resume": self.resume, "stop": self.stop,
            "console": self.tail, "checkpoint": self.checkpoint, "reset": self.reset, "forget": self.forget,
        }  # fmt: skip

    @contextlib.asynccontextmanager
    async def _whole(self) -> AsyncIterator[None]:
        """Let one verb at a time change a machine whose VMM is there.

        :raises DozlabError: when another one is under way, or the VMM has just ended
        """
        machine = self._machine
        async with machine.undisturbed():
            if machine.life.reset_asked or (machine.life.state in ("running", "paused") and not machine.up):
                raise DozlabError("not now: the machine ends, or is being set back", hint="try again in a moment")
            yield

    async def status(self, _request: Request) -> Request:
        """Tell how it is."""
        return self._machine.status()

    async def pause(self, _request: Request) -> Request:
        """Stop the vCPUs."""
        async with self._whole():
            await self._machine.pause("asked")
        return self._machine.status()

    async def resume(self, _request: Request) -> Request:
        """Let them run on."""
        async with self._whole():
            if self._machine.paused == "disk":  # it would stand still again at once
                raise DozlabError(f"cannot resume: {self._machine.life.reason}", hint="it goes on by itself then")
            await self._machine.resume()
        return self._machine.status()

    async def checkpoint(self, request: Request) -> Request:
        """Save the running machine under a name; it stands still meanwhile."""
        name, machine = check_name(request.get("name")), self._machine
        async with self._whole():
            machine.life.may_save()
            assert machine.vmm and machine.spec
            log.info("saving checkpoint %s", name)
            machine.stand("saving")
            try:
                made = await machine.prepared.save_checkpoint(machine.vmm, machine.spec, name)
            finally:
                machine.stand("")
                machine.set_clock()
            log.info("checkpoint %s: %d bytes", name, made.size)
        return machine.status()

    async def reset(self, request: Request) -> Request:
        """Set the machine back to a checkpoint, or with no name to the clean image."""
        name, machine = request.get("name") or "", self._machine
        async with machine.undisturbed():
            machine.life.may_reset()
            back = machine.prepared.checkpoints.find(name) if name else None
            vmm = machine.vmm
            if not vmm or not machine.up:
                raise DozlabError("cannot set the machine back: it is starting")
            disk = machine.prepared.disk
            source = back.disk if back else disk.clean
            if not source.exists():
                raise DozlabError("no copy of the clean disk was kept: end the session and start it anew")
            try:
                await asyncio.to_thread(disk.stage, source)
            except OSError as error:
                raise DozlabError(f"the disk cannot be set back, so all is as it was: {error.strerror}") from error
            log.info("going back to %s", f"checkpoint {name}" if name else "the clean image")
            machine.back = back
            machine.how, machine.name = ("checkpoint", name) if back else ("clean", "")
            machine.life.ask_reset()
            await vmm.end()
        return machine.status()

    async def forget(self, request: Request) -> Request:
        """Remove a checkpoint."""
        async with self._machine.undisturbed():
            await asyncio.to_thread(self._machine.prepared.checkpoints.rm, check_name(request.get("name")))
        return self._machine.status()

    async def stop(self, _request: Request) -> Request:
        """Ask for a graceful stop; answers at once, the process ends when the VM has."""
        self._request_stop()
        return self._machine.status()

    async def tail(self, request: Request) -> Request:
        """Return the newest lines of the console."""
        lines = request.get("lines", 100)
        if not isinstance(lines, int) or isinstance(lines, bool) or lines < 1:
            raise DozlabError("console: lines must be a whole number from 1")
        return {"text": self._console.text(min(lines, CONSOLE_LINES))}
