"""What pauses a running machine by itself and lets it go on: a full disk of the host, nobody who uses it."""

from __future__ import annotations

import asyncio
import logging
import shutil
import time

from dozlab.firecracker_vm import idle
from dozlab.firecracker_vm.machine import Vmm
from dozlab.firecracker_vm.running import Running
from dozlab.lib.errors import DozlabError

log = logging.getLogger(__name__)

DISK_ROOM = 64 << 20
"""Bytes that must be free on the host before a guest that was paused for lack of them goes on."""


async def disk(machine: Running, vmm: Vmm) -> None:
    """A full disk of the host pauses the guest, who loses nothing; it goes on by itself once there is room."""
    while True:
        await vmm.wait_disk_full()
        folder = machine.settings.vm_data
        before = machine.life.state
        machine.life.state, machine.life.reason = "paused", f"the host's disk below {folder} is full; free some space"
        machine.stand("disk")
        log.error("paused: %s", machine.life.reason)
        while shutil.disk_usage(folder).free < DISK_ROOM:  # noqa: ASYNC110  (no event tells of free space)
            await asyncio.sleep(1.0)
        await vmm.resume()
        machine.life.state, machine.life.reason = before, ""
        machine.stand("")
        log.info("there is room on the host's disk again: the guest goes on")
        machine.set_clock()


async def people(machine: Running) -> None:
    """Pause a machine that nobody uses, and let it go on as soon as somebody comes (IDLE_PAUSE)."""
    settings = machine.settings
    ports = {*settings.user_ports, settings.relay_port}
    while True:
        await asyncio.sleep(idle.EVERY)
        here = machine.idle.see(now := time.monotonic(), idle.look(ports))
        try:
            if here and machine.life.state == "paused" and machine.paused == "idle":
                async with machine.undisturbed():
                    await machine.resume()
                log.info("somebody is here: the guest goes on")
            elif machine.ssh and machine.life.state == "running" and machine.idle.seconds(now) >= settings.idle_pause:
                async with machine.undisturbed():
                    await machine.pause("idle")
                log.info("nobody was here for %.0f s: the guest is paused", settings.idle_pause)
        except DozlabError as error:
            log.info("idle: %s", error)
