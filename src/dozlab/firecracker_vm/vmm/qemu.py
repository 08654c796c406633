"""QEMU back end: a q35 machine, under KVM or emulation, run over QMP. The argv builder is pure.

q35 and not microvm: under emulation microvm hangs in two boots of three (design.md D6). QMP goes over a socket pair,
so there is no socket file anybody else could find. Reference: qemu(1), docs/interop/qmp-spec.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dozlab.firecracker_vm.machine import Accel, Exit, Spec, Vmm, VmmRefused
from dozlab.firecracker_vm.vmm.process import VmmProcess
from dozlab.firecracker_vm.vmm.qmp import Qmp
from dozlab.lib.errors import DozlabError

BINARY = "qemu-system-x86_64"
PACKAGE = "qemu-system-x86"
_START_DEADLINE = 20.0
_LOAD_DEADLINE = 120.0
_SAVE_DEADLINE = 300.0
_UNLIMITED = 1 << 40
"""Bytes a second: QEMU's own limit of 128 MiB is for networks."""
TRANSLATIONS = 512
"""MiB for translated code (QEMU's `tb-size`): its default of 1 GiB may be more than the guest's own memory."""


@dataclass(frozen=True)
class QemuOptions:
    """What differs between machines: the program, how it runs the processor, a name for `ps`."""

    binary: str
    accel: Accel
    name: str


def build_argv(options: QemuOptions, spec: Spec, qmp_fd: int, state_fd: int | None = None) -> list[str]:
    """Return the command line. The VM starts paused (`-S`): QMP lets it run once everything answered.

    :param state_fd: a saved state to begin with (`-incoming`); everything else must be as it was for the saved machine
    """
    accel = "kvm" if options.accel == "kvm" else f"tcg,thread=multi,tb-size={TRANSLATIONS}"
    argv = [
        options.binary,
        "-name", f"guest={options.name}",
        "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-S",
        "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        "-machine", "q35,usb=off,vmport=off,sata=off,dump-guest-core=off",
        "-global", "ICH9-LPC.disable_s3=1", "-global", "ICH9-LPC.disable_s4=1",
        "-accel", accel,
        "-cpu", "host" if options.accel == "kvm" else "max",
        "-smp", str(spec.cpus),
        "-m", f"{spec.memory}M",
        "-kernel", str(spec.kernel), "-initrd", str(spec.initrd), "-append", spec.cmdline,
        "-chardev", f"socket,id=qmp,fd={qmp_fd},server=off", "-mon", "chardev=qmp,mode=control",
        "-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
        "-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng",
    ]  # fmt: skip
    for drive in spec.drives:
        how = "readonly=on" if drive.read_only else "cache=writeback,discard=unmap"
        argv += ["-drive", f"if=none,id={drive.name},format=raw,file={_escape(str(drive.path))},{how}"]
        argv += ["-device", f"virtio-blk-pci,drive={drive.name}"]
    if spec.tap:
        argv += ["-netdev", f"tap,id=net0,ifname={spec.tap},script=no,downscript=no,vhost=off"]
        argv += ["-device", f"virtio-net-pci,netdev=net0,mac={spec.mac},romfile="]
    if state_fd is not None:
        argv += ["-incoming", f"fd:{state_fd}"]
    return argv


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _escape(value: str) -> str:
    """QEMU's option lists end a value at a comma; a doubled one is meant literally (qemu(1), -drive)."""
    return value.replace(",", ",,")


class Qemu(Vmm):
    """One QEMU process."""

    name = "qemu"

    def __init__(self, options: QemuOptions) -> None:
        self._options = options
        self.accel = options.accel
        self._process: VmmProcess | None = None
        self._qmp: Qmp | None = None

    @property
    def pid(self) -> int:
        """Return the process id, 0 before the start."""
        return self._process.child.pid if self._process else 0

    async def start(self, spec: Spec, console: int) -> None:
        """See `Vmm.start`."""
        await self._spawn(spec, console, None)
        await self._until("prelaunch", _START_DEADLINE)
        await self._execute("cont")

    async def restore(self, spec: Spec, console: int, state: Path) -> None:
        """See `Vmm.restore`. QEMU reads all of the memory before it answers."""
        with state.open("rb") as file:
            await self._spawn(spec, console, file.fileno())
        await self._until("paused", _LOAD_DEADLINE)

    async def _spawn(self, spec: Spec, console: int, state_fd: int | None) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            argv = build_argv(self._options, spec, theirs.fileno(), state_fd)
            fds = [theirs.fileno()] + ([] if state_fd is None else [state_fd])
            self._process = await VmmProcess.start(argv, name="qemu", console=console, fds=fds)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._qmp = await Qmp.attach(ours)

    async def _until(self, wanted: str, deadline: float) -> None:
        """Wait until the machine stands in a state.

        :raises VmmRefused: when it is in another, `inmigrate` apart
        :raises DozlabError: when QEMU ends or does not answer
        """
        assert self._process and self._qmp
        try:
            async with asyncio.timeout(deadline):
                await self._qmp.greet()
                while True:
                    answer = await self._qmp.execute("query-status")
                    status = answer.get("status") if isinstance(answer, dict) else answer
                    if status == wanted:
                        return
                    if status != "inmigrate":
                        raise VmmRefused(f"qemu is not ready to run: {answer}")
                    await asyncio.sleep(0.01)
        except (ConnectionError, TimeoutError) as error:
            if isinstance(error, TimeoutError):
                await self._process.end()
                raise DozlabError(f"qemu did not answer within {deadline:.0f} s") from error
            raise self._process.died(await self._process.wait()) from error

    async def save(self, state: Path) -> None:
        """See `Vmm.save`: a migration into a file (QEMU docs/devel/migration)."""
        assert self._qmp
        with open(state, "xb", opener=_private) as file:
            try:
                await self._execute("migrate-set-parameters", **{"max-bandwidth": _UNLIMITED})
                await self._execute("getfd", descriptor=file.fileno(), fdname="state")
                await self._execute("migrate", uri="fd:state")
                async with asyncio.timeout(_SAVE_DEADLINE):
                    while (status := (found := await self._query_migrate()).get("status")) != "completed":
                        if status in ("failed", "cancelled"):
                            raise VmmRefused(f"qemu could not save the machine: {found.get('error-desc', status)}")
                        await asyncio.sleep(0.05)
            except BaseException as error:
                state.unlink()
                if isinstance(error, TimeoutError):
                    raise DozlabError(f"the machine was not saved within {_SAVE_DEADLINE:.0f} s") from error
                raise

    async def _query_migrate(self) -> dict[str, Any]:
        assert self._qmp
        found = await self._qmp.execute("query-migrate")
        return found if isinstance(found, dict) else {}

    async def wait(self) -> Exit:
        """See `Vmm.wait`."""
        assert self._process
        code = await self._process.wait()
        told = ""
        if self._qmp:
            await self._qmp.close()
            told = self._qmp.shutdown_reason
        return Exit(code, told, self._process.ours, self._process.words)

    async def _execute(self, verb: str, *, descriptor: int | None = None, **arguments: object) -> None:
        if not self._qmp:
            raise DozlabError("qemu has not started")
        try:
            await self._qmp.execute(verb, descriptor=descriptor, **arguments)
        except ConnectionError as error:
            raise DozlabError(f"qemu has ended; {verb} is too late") from error

    async def pause(self) -> None:
        """See `Vmm.pause`."""
        await self._execute("stop")

    async def resume(self) -> None:
        """See `Vmm.resume`."""
        await self._execute("cont")

    async def wait_disk_full(self) -> None:
        """See `Vmm.wait_disk_full`."""
        assert self._qmp
        await self._qmp.stopped_by_disk.wait()
        self._qmp.stopped_by_disk.clear()

    async def press_ctrl_alt_del(self) -> None:
        """See `Vmm.press_ctrl_alt_del`."""
        keys = [{"type": "qcode", "data": key} for key in ("ctrl", "alt", "delete")]
        await self._execute("send-key", keys=keys)

    async def end(self) -> None:
        """See `Vmm.end`."""
        if not self._process:
            return
        if self._process.running and self._qmp:
            self._process.mark_ours()
            with contextlib.suppress(ConnectionError, VmmRefused, TimeoutError):
                async with asyncio.timeout(2.0):
                    await self._qmp.execute("quit")
                    await self._process.wait()
        await self._process.end()
        if self._qmp:
            await self._qmp.close()
