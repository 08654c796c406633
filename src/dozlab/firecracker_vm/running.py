"""The session's machine as it is now: what its verbs and its watchers share, and what of it is told in vm.json."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

from dozlab.firecracker_vm import checkpoints
from dozlab.firecracker_vm.idle import Idle
from dozlab.firecracker_vm.machine import Lifecycle, Spec, Vmm
from dozlab.firecracker_vm.prepared import Prepared
from dozlab.firecracker_vm.probe import Decision
from dozlab.firecracker_vm.relay import Relay
from dozlab.firecracker_vm.settings import Settings
from dozlab.images.snapshots import Snapshot
from dozlab.lib import tasks
from dozlab.lib.errors import DozlabError
from dozlab.lib.files import write_json


class Running:
    """One machine over all its boots. `supervise.py` boots it, `verbs.py` does what is asked of it."""

    def __init__(self, settings: Settings, decision: Decision) -> None:
        self.settings = settings
        self.decision = decision
        self.life = Lifecycle(decision.vmm)
        self.prepared = Prepared(settings, decision)
        self.vmm: Vmm | None = None
        self.spec: Spec | None = None
        self.ssh = self.docker = self.restored = False
        self.up = False
        """The VMM has begun to run the guest: from then on its end is looked at."""
        self.paused = ""
        """Why it stands still: asked, idle, disk or saving; empty when it does not."""
        self.how, self.name = "boot", ""
        """What the newest boot began with: boot, snapshot, checkpoint (and its name) or clean."""
        self.back: Snapshot | None = None
        """The checkpoint that the next boot goes on from."""
        self.idle = Idle(time.monotonic())
        self.relay = Relay(str(settings.vm_ip), settings.vm_ssh_port)
        self._clock: asyncio.Task[None] | None = None
        self._alone = asyncio.Lock()
        self._told: dict[str, Any] = {}

    def status(self) -> dict[str, Any]:
        """Return what the verb `status` answers (ARCHITECTURE.md, control sockets)."""
        return {
            "state": self.life.state, "vmm": self.decision.vmm, "accel": self.decision.accel,
            "reason": self.life.reason or self.decision.reason, "ssh": self.ssh, "docker": self.docker,
            "boots": self.life.boots, "how": self.how, "name": self.name, "paused": self.paused,
            "restored": self.restored, "checkpoints": checkpoints.shown(self.prepared.checkpoints.ls()),
        }  # fmt: skip

    def tell(self) -> None:
        """Keep vm.json up to date: what the terminal says of the machine (ARCHITECTURE.md, files in SHARED_DIR)."""
        told = {
            "state": "paused" if self.paused else self.life.state, "reason": self.life.reason, "paused": self.paused,
            "boots": self.life.boots, "how": self.how, "name": self.name,
        }  # fmt: skip
        if told != self._told:
            with contextlib.suppress(OSError):  # a full or vanished folder must not end the VM
                write_json(self.settings.shared / "vm.json", told)
                self._told = told

    @contextlib.asynccontextmanager
    async def undisturbed(self) -> AsyncIterator[None]:
        """Let one verb at a time change the machine.

        :raises DozlabError: when another one is under way
        """
        if self._alone.locked():
            raise DozlabError("not now: another change of this machine is under way")
        async with self._alone:
            yield

    def stand(self, why: str) -> None:
        """Note why the guest stands still, empty when it does not: nobody is sent to it meanwhile."""
        self.paused = why
        self.relay.hold(bool(why))
        self.tell()

    async def settled(self) -> None:
        """Wait until no verb is under way."""
        async with self._alone:
            pass

    async def pause(self, why: str) -> None:
        """Stop the vCPUs.

        :raises DozlabError: when it does not run
        """
        self.life.pause()
        assert self.vmm
        await self.vmm.pause()
        self.life.state = "paused"
        self.stand(why)

    async def resume(self) -> None:
        """Let the vCPUs run on.

        :raises DozlabError: when it is not paused
        """
        self.life.resume()
        assert self.vmm
        await self.vmm.resume()
        self.life.state = "running"
        self.idle.reset(time.monotonic())
        self.stand("")
        self.set_clock()

    def set_clock(self, *, delay: float = 0.0) -> None:
        """Begin to set the clock of a guest that stood still, after `delay` seconds."""
        if self._clock:
            self._clock.cancel()
        if self.life.reached_init:
            self._clock = tasks.start(self.prepared.set_clock(delay), name="clock")

    async def close(self) -> None:
        """End what was begun here."""
        await tasks.stop([self._clock] if self._clock else [])
