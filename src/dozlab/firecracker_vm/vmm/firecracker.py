"""Firecracker back end: one process, configured over its API socket, no capabilities needed.

The serial console is the process's stdout in every version; its own log goes to stderr, so that the two never mix.
A tap that does not exist is the caller's fault to find (`network.check_tap`): Firecracker would make one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dozlab.firecracker_vm.machine import Exit, Spec, Vmm, VmmRefused
from dozlab.firecracker_vm.vmm.fc_api import FirecrackerApi
from dozlab.firecracker_vm.vmm.process import VmmProcess
from dozlab.images.snapshots import MEMORY
from dozlab.lib import paths
from dozlab.lib.errors import DozlabError
from dozlab.lib.proc import need, run

_START_DEADLINE = 10.0
_LOAD_DEADLINE = 60.0
_SAVE_DEADLINE = 300.0
_POLL = 0.02
MAX_CPUS = 32


def find_binary(environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return FIRECRACKER_BIN, or `firecracker` on PATH, or our own copy in the cache; None without any.

    :raises DozlabError: when FIRECRACKER_BIN names no program
    """
    if told := environ.get("FIRECRACKER_BIN", ""):
        if not os.access(told, os.X_OK):
            raise DozlabError(f"FIRECRACKER_BIN={told} is not a program")
        return Path(told)
    if found := shutil.which("firecracker", path=environ.get("PATH")):
        return Path(found)
    own = paths.cache() / "bin" / "firecracker"
    return own if os.access(own, os.X_OK) else None


class Firecracker(Vmm):
    """One Firecracker process; its API socket is `sock`, made anew."""

    name = "firecracker"
    accel = "kvm"

    def __init__(self, binary: Path, sock: Path, id: str) -> None:
        self._binary, self._socket, self._id = binary, sock, id
        self._process: VmmProcess | None = None
        self.api = FirecrackerApi(sock)

    @property
    def pid(self) -> int:
        """Return the process id, 0 before the start."""
        return self._process.child.pid if self._process else 0

    async def start(self, spec: Spec, console: int) -> None:
        """See `Vmm.start`."""
        await self.launch(console)
        try:
            async with asyncio.timeout(_START_DEADLINE):
                await self.configure(spec)
                await self.api.put("action", action_type="InstanceStart")
        except VmmRefused:
            await self.end()  # after a refused InstanceStart the process is of no use: never try twice on it
            raise
        except TimeoutError as error:
            await self.end()
            raise DozlabError(f"firecracker did not answer within {_START_DEADLINE:.0f} s") from error
        except OSError as error:
            raise await self._gone() from error

    async def restore(self, spec: Spec, console: int, state: Path) -> None:
        """See `Vmm.restore`: memory is mapped from its file, page by page as the guest touches it.

        Disks and tap are those whose names were saved (`snapshot.needs` holds the paths).
        """
        await self.launch(console)
        memory = {"backend_type": "File", "backend_path": str(state.with_name(MEMORY))}
        await self._ask("load", deadline=_LOAD_DEADLINE, snapshot_path=str(state), mem_backend=memory, resume_vm=False)

    async def save(self, state: Path) -> None:
        """See `Vmm.save`; the memory goes to a file beside it, holes dug where it is zero (fallocate(1))."""
        memory = state.with_name(MEMORY)
        try:
            await self._ask(
                "save",
                deadline=_SAVE_DEADLINE,
                snapshot_type="Full",
                snapshot_path=str(state),
                mem_file_path=str(memory),
            )
            await asyncio.to_thread(
                run, [need("fallocate", "util-linux"), "--dig-holes", memory], timeout=_SAVE_DEADLINE
            )
        except BaseException:
            for path in (state, memory):
                path.unlink(missing_ok=True)
            raise

    async def launch(self, console: int) -> None:
        """Start the process and wait until its API answers. A socket file that a dead process left is removed.

        :raises DozlabError: when it ends at once or does not answer
        """
        with contextlib.suppress(FileNotFoundError):
            self._socket.unlink()
        argv: list[str | Path] = [
            self._binary, "--api-sock", self._socket, "--id", self._id,
            "--log-path", "/proc/self/fd/2", "--level", "Warn", "--show-level",
        ]  # fmt: skip
        self._process = await VmmProcess.start(argv, name="firecracker", console=console)
        deadline = asyncio.get_running_loop().time() + _START_DEADLINE
        while True:
            try:
                await self.api.connect()
                return
            except OSError as error:
                if not self._process.running:
                    raise self._process.died(await self._process.wait()) from error
                if asyncio.get_running_loop().time() > deadline:
                    await self.end()
                    raise DozlabError(f"firecracker's API did not answer within {_START_DEADLINE:.0f} s") from error
            await asyncio.sleep(_POLL)

    async def configure(self, spec: Spec) -> None:
        """Set everything but the start itself.

        :raises VmmRefused: with the VMM's own words
        """
        api = self.api
        await api.put("machine-config", vcpu_count=spec.cpus, mem_size_mib=spec.memory)
        await api.put(
            "boot-source", kernel_image_path=str(spec.kernel), initrd_path=str(spec.initrd), boot_args=spec.cmdline
        )
        for drive in spec.drives:
            await api.put(
                "drive", drive.name, drive_id=drive.name, path_on_host=str(drive.path), is_root_device=False,
                is_read_only=drive.read_only, cache_type="Unsafe" if drive.read_only else "Writeback",
            )  # fmt: skip
        if spec.tap:
            await api.put("network", "eth0", iface_id="eth0", host_dev_name=spec.tap, guest_mac=spec.mac)
        await api.put("entropy")

    async def wait(self) -> Exit:
        """See `Vmm.wait`."""
        assert self._process
        code = await self._process.wait()
        self._clean()
        return Exit(code, "", self._process.ours, self._process.words)

    async def pause(self) -> None:
        """See `Vmm.pause`."""
        await self._ask("vm", state="Paused")

    async def resume(self) -> None:
        """See `Vmm.resume`."""
        await self._ask("vm", state="Resumed")

    async def press_ctrl_alt_del(self) -> None:
        """See `Vmm.press_ctrl_alt_del`."""
        await self._ask("action", action_type="SendCtrlAltDel")

    async def _ask(self, name: str, *, deadline: float = _START_DEADLINE, **fields: Any) -> None:
        try:
            async with asyncio.timeout(deadline):
                await self.api.put(name, **fields)
        except TimeoutError as error:
            raise DozlabError(f"firecracker did not answer within {deadline:.0f} s") from error
        except OSError as error:
            raise await self._gone() from error

    async def end(self) -> None:
        """See `Vmm.end`."""
        if self._process:
            await self._process.end()
        self._clean()

    async def _gone(self) -> DozlabError:
        """Return the error for an API that went away: the process has ended, or is about to."""
        assert self._process
        await self._process.end()
        self._clean()
        return self._process.died(await self._process.wait())

    def _clean(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._socket.unlink()
