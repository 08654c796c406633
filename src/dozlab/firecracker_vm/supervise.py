"""Runs one session's VM over all its boots: does what `machine.Lifecycle` decides. Knows no VMM's language.

Everything started here is ended here, on every path: VMM, console reader, relay, control socket, watchers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from pathlib import Path
from typing import Any

from dozlab.firecracker_vm import guest, inputs, network, pauses
from dozlab.firecracker_vm.console import Console, Sink
from dozlab.firecracker_vm.machine import Next, Spec, Vmm
from dozlab.firecracker_vm.markers import Marker
from dozlab.firecracker_vm.probe import Decision
from dozlab.firecracker_vm.running import Running
from dozlab.firecracker_vm.settings import Settings
from dozlab.firecracker_vm.verbs import Verbs
from dozlab.firecracker_vm.vmm.firecracker import Firecracker
from dozlab.firecracker_vm.vmm.qemu import Qemu, QemuOptions
from dozlab.images.snapshots import Snapshot
from dozlab.lib import tasks
from dozlab.lib.control import ControlServer
from dozlab.lib.errors import DozlabError
from dozlab.lib.timeline import Stage, Timeline

log = logging.getLogger(__name__)

PATIENCE = {"kvm": 15.0, "tcg": 90.0}
"""Seconds without a byte on the console before init that mean a boot stands still."""
INIT_FACTOR = 4
"""Init must come within this many times the patience, whatever is printed."""
LAST_WORD = {"kvm": 3.0, "tcg": 10.0}
"""Seconds a VMM may live on after its guest's last word. Firecracker hangs after `Power down`: it has no ACPI S5."""
READY = {"kvm": 60.0, "tcg": 300.0}
"""Seconds after init until a missing sshd is called a failure (said in the timeline; the VM runs on)."""
PREPARED = 600.0
"""Seconds until a guest that is to be saved must be whole: nobody waits for it in front of a screen."""
DOCKER_MARKER = {"kvm": 10.0, "tcg": 60.0}
"""Seconds to wait, once Docker's API answers, for the guest's own word that its images are loaded."""
POLL = {"kvm": 0.1, "tcg": 0.5}
SOON = 0.02
"""Seconds between looks at a guest that goes on from a saved state: its services run already, or all but."""
SERVICES: tuple[Stage, ...] = ("sshd", "dockerd")
"""What starts once init runs."""
NO_DOCKER = "the image has no Docker"
DOCKER_FAILED = "Docker did not start in the guest; see why there: journalctl -u docker"
LACKS: dict[str, Stage] = {"the image has no sshd": "sshd", NO_DOCKER: "dockerd"}
"""What the kit's initramfs finds missing in an image: known at once, not after a long wait."""
SECOND_LOOK = 15.0
"""Seconds after a restore until the guest's clock is looked at again: the first look may be at a very busy time."""


class Supervisor:
    """One session's VM: `await run()` returns the exit status of the component."""

    def __init__(self, settings: Settings, decision: Decision) -> None:
        self.settings = settings
        self.decision = decision
        self.machine = Running(settings, decision)
        self.life = self.machine.life
        self.timeline = Timeline(settings.shared)
        self.console = Console(Sink(settings.console_log), self._on_marker)
        self._stop = asyncio.Event()
        self._last_word = asyncio.Event()
        self._going = asyncio.Event()
        """The guest runs, so that Docker may be looked for; a restored one is not the session's yet."""
        self._init = asyncio.Event()
        self._clock_right = asyncio.Event()
        self._docker_ready = asyncio.Event()
        self._stage: Stage = "vmm"
        self._prepared = self.machine.prepared
        self._lacks: set[Stage] = set()
        self._docker_failed = False
        self._base = -1
        """Held from the first boot to our end, so that nobody removes the base from the store meanwhile."""
        verbs = Verbs(self.machine, self.console, self.request_stop)
        self._control = ControlServer(settings.shared / "vm.sock", verbs.table())

    def request_stop(self) -> None:
        """Begin a graceful stop; a second call ends the VM at once."""
        if self._stop.is_set() and self.machine.vmm:
            log.warning("asked to stop a second time: ending the VM now")
            tasks.start(self.machine.vmm.end(), name="end-now")
            return
        self._stop.set()
        self.life.ask_stop()
        self.machine.stand("")

    # -- the run

    async def run(self) -> int:
        """Boot, watch, boot again where that is right; return 0 when stopped, 1 when failed."""
        watcher = tasks.start(pauses.people(self.machine), name="watch-people") if self.settings.idle_pause else None
        try:
            await self._control.start()
            self.machine.relay.start("0.0.0.0", self.settings.relay_port)  # noqa: S104  (a Service reaches it)
            while True:
                what = await self._boot()
                self.machine.tell()
                if what is Next.RESET:
                    self._prepared.disk.swap()
                    continue
                if what is Next.STOPPED:
                    if fault := self._prepared.fault():
                        return self._failed(fault)
                    log.info("stopped: %s", self.life.reason)
                    return 0
                if what is Next.FAILED:
                    return self._failed(self.life.reason)
                log.warning("%s: booting again", self.life.reason)
        except DozlabError as error:
            self._failed(str(error), logged=False)
            raise
        finally:
            await tasks.stop([watcher] if watcher else [])
            await self.machine.close()
            await self.machine.relay.close()
            await self._control.close()
            self.console.close()
            if self._base >= 0:
                os.close(self._base)

    def _failed(self, reason: str, *, logged: bool = True) -> int:
        self.life.state, self.life.reason = "failed", reason
        self.machine.tell()
        self._say(self._stage, "failed", reason)
        if logged:
            log.error("the VM failed: %s", reason)
        return 1

    async def _boot(self) -> Next:
        if self._stop.is_set():
            self.life.state, self.life.reason = "stopped", "asked to stop"
            return Next.STOPPED
        settings, accel = self.settings, self.decision.accel
        await network.wait_set_up(settings.shared, settings.tap, settings.network_wait)
        network.check_tap(settings.tap)
        files = inputs.collect(settings, self.decision.vmm, extra=self._prepared.archive())
        if self._base < 0:
            self._base = inputs.hold_base(files)
        port = 0 if settings.snapshot_out else settings.workspace_port
        words = inputs.words(settings, self.decision.vmm, accel, workspace_port=port)
        mac = network.guest_mac(settings.shared)
        spec = Spec(
            files.kernel, files.initrd, words, files.drives, settings.cpus, settings.memory, settings.tap, mac
        )  # fmt: skip
        self.machine.spec = spec
        self._prepared.begin(spec)
        back, self.machine.back = self.machine.back, None
        if self.life.boots and not self.life.reset_asked:
            self.machine.how, self.machine.name = "boot", ""
        first = not self.life.boots or self.machine.how == "clean"
        snapshot = back or (self._prepared.find(spec) if first else None)
        self._begin()
        vmm = self.machine.vmm = self._make()
        read, write = os.pipe()
        reader = tasks.start(self.console.read(read), name="console")
        watchers: list[asyncio.Task[Any]] = []
        services = self._look_for_services()
        try:
            try:
                if snapshot and not await self._restore(vmm, spec, write, snapshot, back=back is not None):
                    snapshot = None
                    await tasks.stop(services)
                    self._going.clear()
                    services = self._look_for_services()
                    vmm = self.machine.vmm = self._make()
                if not snapshot:
                    await vmm.start(spec, write)
            finally:
                os.close(write)
            how = ", restored" if snapshot else f"; booted: {why}" if (why := self._prepared.booted) else ""
            self._say("vmm", "done", f"{self.decision.vmm} ({accel}){how}")
            if snapshot and not back and self.machine.how == "boot":
                self.machine.how = "snapshot"
            self._say("kernel", "start")
            self.machine.restored = snapshot is not None
            if snapshot:
                self._on_marker(Marker("stage", "kernel"))
                self._on_marker(Marker("stage", "init"))
                if not self._prepared.has_docker:
                    self._on_marker(Marker("note", NO_DOCKER))
                self._docker_ready.set()
                watchers.append(tasks.start(self._set_clock(), name="set-clock"))
            else:
                self._clock_right.set()
            watchers += [
                tasks.start(self._watch_boot(vmm), name="watch-boot"),
                tasks.start(self._watch_last_word(vmm), name="watch-last-word"),
                tasks.start(self._watch_stop(vmm), name="watch-stop"),
                tasks.start(pauses.disk(self.machine, vmm), name="watch-disk"),
            ]
            self.machine.up = True
            if settings.snapshot_out:
                watchers.append(tasks.start(self._watch_prepare(vmm, spec), name="watch-prepare"))
            end = await vmm.wait()
            await asyncio.wait({reader}, timeout=2.0)  # the last lines are still in the pipe
        finally:
            await tasks.stop([*watchers, *services, reader])
            await vmm.end()
            self.machine.vmm = None
            self.machine.up = self.machine.ssh = self.machine.docker = False
            await self.machine.relay.shut()
        log.info("%s ended: status %d %s", self.decision.vmm, end.code, end.told)
        return self.life.ended(end, time.monotonic(), self.console.summary())

    async def _restore(self, vmm: Vmm, spec: Spec, console: int, snapshot: Snapshot, *, back: bool) -> bool:
        """Tell whether the session's machine runs now, from a saved one; where not, all is ready for a boot.

        :param back: it is one of the session's own checkpoints
        """
        begin = self._prepared.go_back if back else self._prepared.restore
        try:
            # A guest of one vCPU has enough to do with its adoption.
            going = self._going.set if spec.cpus > 1 else lambda: None
            await begin(vmm, spec, console, snapshot, going)
        except (DozlabError, OSError) as error:
            log.warning("not restored, so it boots: %s", error)
            self._prepared.booted = str(error)
            await vmm.end()
            self._prepared.undo()
            self.console.new_boot()
            return False
        return True

    def _begin(self) -> None:
        self.life.begin(time.monotonic())
        self.console.new_boot()
        for event in (self._going, self._init, self._clock_right, self._docker_ready):
            event.clear()
        self._last_word.clear()
        self._docker_failed = False
        self._stage = "vmm"
        self.machine.stand("")
        self._say("vmm", "start", f"boot {self.life.boots}, {self.decision.reason}")

    def _make(self) -> Vmm:
        if self.decision.vmm == "firecracker":
            return Firecracker(Path(self.decision.binary), self.settings.shared / "fc.sock", self.settings.session)
        return Qemu(QemuOptions(self.decision.binary, self.decision.accel, self.settings.session))

    # -- what is seen

    def _on_marker(self, marker: Marker) -> None:
        self.life.mark(marker)
        if marker == Marker("stage", "kernel"):
            self._say("kernel", "done")
            self._say("init", "start")
        elif marker == Marker("stage", "init"):
            self._say("init", "done")
            for stage in SERVICES:
                if stage not in self._lacks:  # its failure has been told
                    self._say(stage, "start")
            self._init.set()
            self._going.set()
        elif marker == Marker("docker", "ready"):
            self._docker_ready.set()
        elif marker == Marker("docker", "failed"):
            self._docker_failed = True
            self._say("dockerd", "failed", DOCKER_FAILED)
            log.warning("%s", DOCKER_FAILED)
        elif marker.kind == "note" and marker.value in LACKS:
            self._lacks.add(LACKS[marker.value])
            self._say(LACKS[marker.value], "failed", marker.value)
            log.warning("%s", marker.value)
        if self.life.over:
            self._last_word.set()
        self.machine.tell()

    def _say(self, stage: Stage, event: str, detail: str = "") -> None:
        if event == "start" and stage != "dockerd":
            self._stage = stage
        with contextlib.suppress(OSError):  # a full or vanished folder must not end the VM
            self.timeline.add(stage, event, detail)  # type: ignore[arg-type]

    async def _watch_boot(self, vmm: Vmm) -> None:
        """End a boot that stands still before init."""
        patience = self.settings.boot_patience or PATIENCE[self.decision.accel]
        start = time.monotonic()
        while not self._init.is_set():
            now = time.monotonic()
            if now - self.console.last_byte > patience:
                self.life.stall(f"the guest's console stood still for {patience:.0f} s before init")
            elif now - start > patience * INIT_FACTOR:
                self.life.stall(f"the guest did not reach init within {patience * INIT_FACTOR:.0f} s")
            else:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1.0):
                        await self._init.wait()
                continue
            await vmm.end()
            return

    async def _watch_last_word(self, vmm: Vmm) -> None:
        """End a VMM whose guest is over but which lives on."""
        await self._last_word.wait()
        limit = LAST_WORD[self.decision.accel]
        while (left := self.console.last_byte + limit - time.monotonic()) > 0:  # noqa: ASYNC110  (a quiet time, not an event)
            await asyncio.sleep(left)
        log.info("the guest is over and %s lives on: ending it", self.decision.vmm)
        await vmm.end()

    async def _watch_stop(self, vmm: Vmm) -> None:
        """Graceful stop: Ctrl-Alt-Del, and wait until the guest resets, else end the VMM. Before init nobody is there.

        Not again while the guest may be on its way down: systemd-shutdown lets the kernel reset at the next one, before
        file systems are unmounted.
        """
        await self._stop.wait()
        if self.life.reached_init:
            with contextlib.suppress(TimeoutError, DozlabError):
                async with asyncio.timeout(self.settings.stop_grace):
                    await self.machine.settled()  # a checkpoint that is being written is not spoilt
                    await vmm.resume()
                    answered = self.machine.ssh
                    await vmm.press_ctrl_alt_del()
                    while not self.machine.ssh:  # noqa: ASYNC110  (another task's poll)
                        await asyncio.sleep(POLL[self.decision.accel])
                    if not answered:  # it went on with its start: its keyboard was not there yet
                        await vmm.press_ctrl_alt_del()
                    await asyncio.Event().wait()  # until the guest resets, or the time is over
            log.warning("the guest did not shut down within %.0f s: ending the VM", self.settings.stop_grace)
        await vmm.end()

    async def _watch_prepare(self, vmm: Vmm, spec: Spec) -> None:
        """Save the machine once it is whole, then end it. One that does not come to rest is booted once more."""
        try:
            async with asyncio.timeout(PREPARED):
                while not (self.machine.ssh and (self.machine.docker or "dockerd" in self._lacks)):
                    if "sshd" in self._lacks:
                        raise DozlabError("the image has no sshd")
                    if self._docker_failed:
                        raise DozlabError(DOCKER_FAILED)
                    await asyncio.sleep(0.2)
            if why := await self._prepared.settle():
                self.life.stall(f"no snapshot was made: {why}")
                await vmm.end()
                return
            await self._prepared.save(vmm, spec)
        except TimeoutError:
            self._prepared.why = f"the guest was not ready within {PREPARED:.0f} s"
        except (DozlabError, OSError) as error:
            self._prepared.why = str(error)
        self.life.ask_stop()
        await vmm.end()

    def _look_for_services(self) -> list[asyncio.Task[None]]:
        return [
            tasks.start(self._watch_ssh(), name="watch-ssh"),
            tasks.start(self._watch_docker(), name="watch-docker"),
        ]

    async def _set_clock(self) -> None:
        """Set the clock of a restored guest; until then nobody is let in."""
        if not self._prepared.clock_right:
            await self._prepared.set_clock()
        self._clock_right.set()
        self.machine.set_clock(delay=SECOND_LOOK)

    async def _whole(self) -> None:
        """Wait until the guest is the session's and knows the time."""
        await self._init.wait()
        await self._clock_right.wait()

    async def _watch_ssh(self) -> None:
        await self._init.wait()  # a restored sshd waits for adoption, too
        host, port, accel = str(self.settings.vm_ip), self.settings.vm_ssh_port, self.decision.accel

        def late() -> None:
            self._say("sshd", "failed", f"sshd does not answer on {host}:{port} after {READY[accel]:.0f} s")
            log.warning("the guest runs, but sshd does not answer on %s:%d", host, port)

        greeting = await guest.wait_until(
            lambda: guest.ssh_greets(host, port),
            pause=SOON if self.machine.restored else POLL[accel],
            patience=READY[accel],
            late=late,
        )
        with contextlib.ExitStack() as unused:
            unused.callback(greeting.writer.close)
            await self._whole()
            if not self.settings.snapshot_out:  # no connection may be open in a machine that is saved
                unused.pop_all()
            await self.machine.relay.open(None if self.settings.snapshot_out else greeting)
        self.machine.ssh, self.life.served = True, not self.settings.snapshot_out
        self._say("sshd", "done")
        self._stage = "vmm"
        log.info("ready: sshd answers on %s:%d", host, port)

    async def _watch_docker(self) -> None:
        await self._going.wait()
        host, port, accel = str(self.settings.vm_ip), self.settings.docker_port, self.decision.accel

        def late() -> None:
            self._say("dockerd", "failed", f"Docker does not answer on {host}:{port} (not every image has it)")
            log.info("Docker does not answer on %s:%d; asking less often from now on", host, port)

        pause = SOON if self.machine.restored or not self._init.is_set() else max(1.0, POLL[accel])
        await guest.wait_until(lambda: guest.docker_answers(host, port), pause=pause, patience=READY[accel], late=late)
        await self._whole()
        # dockerd answers before the images that came with the machine are loaded; the kit says when they are.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DOCKER_MARKER[accel]):
                await self._docker_ready.wait()
        self.machine.docker = True
        self._say("dockerd", "done")
        log.info("Docker answers on %s:%d", host, port)
