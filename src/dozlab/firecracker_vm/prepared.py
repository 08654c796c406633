"""Prepared snapshots at work: find one that fits, restore and adopt it; or make one of a guest that has just booted."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from pathlib import Path

from dozlab.firecracker_vm import adoption, inputs
from dozlab.firecracker_vm.adoption import Guest
from dozlab.firecracker_vm.machine import Spec, Vmm
from dozlab.firecracker_vm.probe import Decision
from dozlab.firecracker_vm.settings import Settings
from dozlab.firecracker_vm.snapshot import SessionDisk, needs
from dozlab.images import snapshots
from dozlab.images.snapshots import Needs, Snapshot, Snapshots, Unfit
from dozlab.lib import tasks
from dozlab.lib.errors import DozlabError
from dozlab.lib.files import copy_sparse, write_atomic

log = logging.getLogger(__name__)

ADOPT = {"kvm": 30.0, "tcg": 45.0}
"""Seconds a restored guest may take to answer; then the session boots instead."""
SETTLE = {"kvm": 60.0, "tcg": 150.0}
"""Seconds a guest that is to be saved may take to come to rest."""


class Prepared:
    """The snapshots of one session's VM. `why` tells what kept one from being made."""

    def __init__(self, settings: Settings, decision: Decision) -> None:
        self.settings = settings
        self.decision = decision
        self._token = adoption.new_token()
        self.guest = Guest(str(settings.vm_ip), self._token)
        self.why = "the guest ended before it was saved"
        self._made = False
        self._disk: SessionDisk | None = None

    def archive(self) -> bytes:
        """Return what makes a guest that is booted now know our key."""
        self.guest = Guest(str(self.settings.vm_ip), self._token)
        return adoption.token_archive(self._token)

    def fault(self) -> str:
        """Return why no snapshot was made, empty where none was asked for."""
        return "" if self._made or not self.settings.snapshot_out else f"no snapshot was made: {self.why}"

    def find(self, spec: Spec) -> Snapshot | None:
        """Return the snapshot this session can begin with; the reason why there is none is logged."""
        disk = self._disk = SessionDisk(spec.drives[-1].path)
        disk.recover()
        if not self.settings.snapshots or self.settings.snapshot_out or not disk.fresh:
            return None
        try:
            return Snapshots(self.settings.snapshots).find(self._needs(spec))
        except Unfit as error:
            log.info("booting: %s", error)
            return None

    def _needs(self, spec: Spec) -> Needs:
        settings = self.settings
        words = inputs.words(settings, self.decision.vmm, self.decision.accel, workspace_port=0)
        base = str(inputs.read_object(settings.shared / "rootfs.json", "run init-rootfs first").get("digest", ""))
        spec = replace(spec, cmdline=words)
        return needs(self.decision, spec, base=base, kit=settings.kit, told_kernel=settings.kernel is not None)

    async def restore(self, vmm: Vmm, spec: Spec, console: int, snapshot: Snapshot) -> None:
        """Make the snapshot's machine this session's: disk, memory, identity, clock. The network is open to it alone.

        :raises DozlabError: when any of it fails; call `undo`, once the VMM has ended
        :raises OSError: the same
        """
        assert self._disk
        begun = time.monotonic()
        self._disk.lay(snapshot)
        laid = time.monotonic()
        await vmm.restore(spec, console, snapshot.state)
        await vmm.resume()
        loaded = time.monotonic()
        ended = tasks.start(vmm.wait(), name="vmm-ended")
        adopted = tasks.start(self._adopt(Guest(str(self.settings.vm_ip), snapshot.token)), name="adopt", guard=False)
        try:
            await asyncio.wait({ended, adopted}, return_when=asyncio.FIRST_COMPLETED)
            if not adopted.done():
                raise DozlabError("the restored machine ended at once")
            self.guest = adopted.result()
        finally:
            await tasks.stop([ended, adopted])
        self._disk.confirm()
        spent = (laid - begun, loaded - laid, time.monotonic() - loaded)
        log.info("restored: disk %.2f s, memory %.2f s, adoption %.2f s", *spent)

    async def _adopt(self, guest: Guest) -> Guest:
        settings, limit = self.settings, ADOPT[self.decision.accel]
        env = ""
        if settings.workspace_port:
            env = f"DOZLAB_GATEWAY={settings.gateway_ip}\nDOZLAB_WORKSPACE_PORT={settings.workspace_port}\n"
        await guest.adopt(adoption.read_identity(settings.shared), env, timeout=limit)
        off = await guest.set_clock(timeout=limit)
        log.info("the guest's clock differs by %.0f ms", off * 1000)
        return guest

    async def after_pause(self) -> None:
        """Set the guest's clock, which stood still; a guest that cannot be told is none of our faults."""
        try:
            off = await self.guest.set_clock(timeout=ADOPT[self.decision.accel])
            log.info("the guest's clock is right again (%.0f ms)", off * 1000)
        except DozlabError as error:
            log.info("the guest's clock stays behind: %s", error)

    def undo(self) -> None:
        """Put the blank session disk back."""
        assert self._disk
        self._disk.recover()

    async def save(self, vmm: Vmm, spec: Spec) -> None:
        """Save a guest that is ready into SNAPSHOT_OUT.

        :raises DozlabError: when the guest does not come to rest or the VMM cannot save it
        :raises OSError: when the folder is full
        """
        out = self.settings.snapshot_out
        assert out
        log.info("the guest is ready: it comes to rest and is saved")
        await self.guest.prepare(timeout=SETTLE[self.decision.accel])
        await vmm.pause()
        await vmm.save(out / snapshots.STATE)
        await asyncio.to_thread(_finish, out, spec.drives[-1].path, self._token, self._needs(spec))
        self._made = True


def _finish(out: Path, disk: Path, token: str, wanted: Needs) -> None:
    copy_sparse(disk, out / snapshots.DISK)
    write_atomic(out / snapshots.TOKEN, f"{token}\n", mode=0o600)
    snapshots.describe(out, wanted)
