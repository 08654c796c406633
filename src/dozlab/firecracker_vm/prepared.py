"""Saved machines at work: prepared ones (find, restore, adopt, make) and a session's checkpoints (save, go back)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from dozlab.firecracker_vm import adoption, inputs
from dozlab.firecracker_vm.adoption import Guest
from dozlab.firecracker_vm.checkpoints import Checkpoints
from dozlab.firecracker_vm.machine import Spec, Vmm
from dozlab.firecracker_vm.probe import Decision
from dozlab.firecracker_vm.settings import Settings
from dozlab.firecracker_vm.snapshot import SessionDisk, needs
from dozlab.images import snapshots
from dozlab.images.snapshots import Needs, Snapshot, Snapshots, Unfit, Unprepared
from dozlab.lib import tasks
from dozlab.lib.errors import DozlabError
from dozlab.lib.files import allocated, copy_sparse, write_atomic

log = logging.getLogger(__name__)

ADOPT = 45.0
"""Seconds a restored guest may take to answer; then the session boots instead."""
ANSWER = {"kvm": 5.0, "tcg": 15.0}
"""Seconds a running guest may take to answer."""
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
        self.booted = ""
        """Why this boot does not begin with the snapshot that was prepared of its image; empty where there is none."""
        self._made = False
        self.has_docker = True
        """False once an adopted guest has said that it has none."""
        self.clock_right = False
        """True when the newest restore's adoption alone has set the clock well enough."""
        self._disk: SessionDisk | None = None
        self.checkpoints = Checkpoints(settings.vm_data / "disk/checkpoints", settings.checkpoints_limit)

    def archive(self) -> bytes:
        """Return what makes a guest that is booted now know our key."""
        self.guest = Guest(str(self.settings.vm_ip), self._token)
        return adoption.token_archive(self._token)

    def fault(self) -> str:
        """Return why no snapshot was made, empty where none was asked for."""
        return "" if self._made or not self.settings.snapshot_out else f"no snapshot was made: {self.why}"

    @property
    def disk(self) -> SessionDisk:
        """Return the session disk; there is one from the first `begin` on."""
        assert self._disk
        return self._disk

    def begin(self, spec: Spec) -> None:
        """Look at the session disk before a boot: mend what a killed one left, keep a copy while it is blank."""
        self.booted = ""
        self._disk = SessionDisk(spec.drives[-1].path)
        self.disk.recover()
        self.checkpoints.recover()
        if not self.settings.snapshot_out:
            with contextlib.suppress(OSError):  # then there is no reset to the clean image, which says so
                self.disk.keep_clean()

    def find(self, spec: Spec) -> Snapshot | None:
        """Return the snapshot this session can begin with; the reason why there is none is logged."""
        if not self.settings.snapshots or self.settings.snapshot_out or not self.disk.fresh:
            return None
        try:
            return Snapshots(self.settings.snapshots).find(self.prepared_needs(spec))
        except Unfit as error:
            self.booted = "" if isinstance(error, Unprepared) else str(error)
            log.info("booting: %s", error)
            return None

    def prepared_needs(self, spec: Spec) -> Needs:
        """Return what a prepared snapshot for this machine needs: it was booted without a workspace."""
        words = inputs.words(self.settings, self.decision.vmm, self.decision.accel, workspace_port=0)
        return self._needs(replace(spec, cmdline=words))

    def _needs(self, spec: Spec) -> Needs:
        settings = self.settings
        base = str(inputs.read_object(settings.shared / "rootfs.json", "run init-rootfs first").get("digest", ""))
        return needs(self.decision, spec, base=base, kit=settings.kit, told_kernel=settings.kernel is not None)

    async def restore(self, vmm: Vmm, spec: Spec, console: int, snapshot: Snapshot, going: Callable[[], None]) -> None:
        """Make the snapshot's machine this session's: disk, memory, identity. The network is open to it alone.

        :param going: called when the guest runs, and is not the session's yet
        :raises DozlabError: when any of it fails; call `undo`, once the VMM has ended
        :raises OSError: the same
        """
        begun = time.monotonic()
        self.disk.lay(snapshot)
        laid = time.monotonic()
        await vmm.restore(spec, console, snapshot.state)
        await vmm.resume()
        loaded = time.monotonic()
        going()
        await self._while_it_runs(vmm, self._adopt, snapshot.token)
        self.disk.confirm()
        tasks.start(asyncio.to_thread(self.disk.sync), name="sync-disk")  # a busy disk takes 0.1 s for it
        spent = (laid - begun, loaded - laid, time.monotonic() - loaded)
        log.info("restored: disk %.2f s, memory %.2f s, adoption %.2f s", *spent)

    async def go_back(
        self, vmm: Vmm, spec: Spec, console: int, checkpoint: Snapshot, going: Callable[[], None]
    ) -> None:
        """Let a checkpoint's machine go on; its disk is in place already. The session's identity was in it.

        :param going: as for `restore`
        :raises DozlabError: when any of it fails; the disk can be booted from, once the VMM has ended
        """
        if (wanted := self._needs(spec)) != checkpoint.needs:
            raise Unfit(snapshots.difference(wanted, [checkpoint.needs], what="checkpoint's memory"))
        await vmm.restore(spec, console, checkpoint.state)
        await vmm.resume()
        going()
        await self._while_it_runs(vmm, self._refresh, checkpoint.token)

    async def _while_it_runs(self, vmm: Vmm, talk: Callable[[Guest], Awaitable[None]], token: str) -> None:
        """Talk to a restored guest, who is ours from then on.

        :raises DozlabError: when the machine ends meanwhile, or what `talk` raises
        """
        guest = Guest(str(self.settings.vm_ip), token)
        ended = tasks.start(vmm.wait(), name="vmm-ended")
        told = tasks.start(talk(guest), name="talk", guard=False)  # type: ignore[arg-type]
        try:
            await asyncio.wait({ended, told}, return_when=asyncio.FIRST_COMPLETED)
            if not told.done():
                raise DozlabError("the restored machine ended at once")
            told.result()
            self.guest = guest
        finally:
            await tasks.stop([ended, told])

    async def _refresh(self, guest: Guest) -> None:
        self.clock_right = False
        await guest.refresh(adoption.read_identity(self.settings.shared), timeout=ADOPT)

    async def _adopt(self, guest: Guest) -> None:
        settings = self.settings
        env = ""
        if settings.workspace_port:
            env = f"DOZLAB_GATEWAY={settings.gateway_ip}\nDOZLAB_WORKSPACE_PORT={settings.workspace_port}\n"
        self.has_docker, self.clock_right = await guest.adopt(
            adoption.read_identity(settings.shared), env, timeout=ADOPT
        )

    async def set_clock(self, delay: float = 0.0) -> None:
        """Set the guest's clock, which stood still; a guest that cannot be told is none of our faults."""
        await asyncio.sleep(delay)
        try:
            off = await self.guest.set_clock(timeout=ADOPT)
            log.info("the guest's clock is right (%.0f ms)", off * 1000)
        except DozlabError as error:
            log.info("the guest's clock stays behind: %s", error)

    def undo(self) -> None:
        """Put the blank session disk back."""
        self.disk.recover()

    async def settle(self) -> str:
        """Let a guest that is ready come to rest; return why it does not, empty when it has."""
        log.info("the guest is ready: it comes to rest and is saved")
        try:
            await self.guest.prepare(timeout=SETTLE[self.decision.accel])
        except DozlabError as error:
            return str(error)
        return ""

    async def save(self, vmm: Vmm, spec: Spec) -> None:
        """Save a guest that has come to rest into SNAPSHOT_OUT.

        :raises DozlabError: when the VMM cannot save it
        :raises OSError: when the folder is full
        """
        out = self.settings.snapshot_out
        assert out
        await vmm.pause()
        await vmm.save(out / snapshots.STATE)
        await asyncio.to_thread(_finish, out, spec.drives[-1].path, self._token, self.prepared_needs(spec))
        self._made = True

    async def save_checkpoint(self, vmm: Vmm, spec: Spec, name: str) -> Snapshot:
        """Save the session's machine, which stands still meanwhile, under a name; it runs again afterwards.

        :raises DozlabError: in one line, why there is none; one of the same name is as it was
        """
        wanted = self._needs(spec)
        try:
            await self.guest.call("clock", timeout=ANSWER[self.decision.accel])
        except DozlabError as error:
            raise DozlabError(
                f"the machine cannot be saved, since it could not be told of its return: {error}"
            ) from error
        try:
            disk = allocated(spec.drives[-1].path)  # twice: a reset makes one more copy of it
            made = self.checkpoints.begin(name, (spec.memory << 20) + 2 * disk)
            try:
                await vmm.pause()
                try:
                    await vmm.save(made / snapshots.STATE)
                    await asyncio.to_thread(_finish, made, spec.drives[-1].path, self.guest.token, wanted)
                finally:
                    await vmm.resume()
                # Not in a thread: one that is not waited for would go on beside `abandon`.
                return self.checkpoints.finish(name)
            finally:
                self.checkpoints.abandon(name)
        except OSError as error:
            raise DozlabError(f"the checkpoint cannot be written: {error.strerror}") from error


def _finish(out: Path, disk: Path, token: str, wanted: Needs) -> None:
    copy_sparse(disk, out / snapshots.DISK)
    write_atomic(out / snapshots.TOKEN, f"{token}\n", mode=0o600)
    snapshots.describe(out, wanted)
