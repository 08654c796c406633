"""The supervisor: PID 1 of a session's namespaces. Starts the components, watches them, ends them in order.

When it dies the kernel ends everything it started; when its uplink (pasta) dies it stops the session.
"""

from __future__ import annotations

if __name__ == "__main__":  # before asyncio is imported
    from dozlab.lib import lean

    lean.without_openssl()

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from dozlab.lib import control, files, log, proc, tasks
from dozlab.lib.errors import DozlabError
from dozlab.lib.timeline import Timeline
from dozlab.session import podview, privileges, python
from dozlab.session.backoff import Backoff
from dozlab.session.certificate import Copies
from dozlab.session.layout import POD, Layout
from dozlab.session.plan import Plan

logger = logging.getLogger(__name__)

MODULES = {
    "network-setup": "dozlab.network_setup",
    "firecracker-vm": "dozlab.firecracker_vm",
    "terminal-sidecar": "dozlab.terminal_sidecar",
    "code-server": "dozlab.code_server",
}
STOP_GRACE = {"code-server": 5.0, "terminal-sidecar": 5.0, "firecracker-vm": 60.0}
"""Seconds from SIGTERM to SIGKILL; the VM's holds a guest's orderly shutdown under emulation."""
LOG_LIMIT = 8 << 20
"""Bytes of one component's log before it starts anew (its last MiB is kept beside it)."""


class Supervisor:
    """One session from the network on."""

    def __init__(self, layout: Layout, plan: Plan) -> None:
        self.layout = layout
        self.plan = plan
        self.timeline = Timeline(layout.shared)
        self.state = "starting"
        self.children: dict[str, proc.Child] = {}
        self.restarts: dict[str, int] = {}
        self._stop = asyncio.Event()
        self._graceful = True
        self._control = control.ControlServer(layout.control, {"status": self._status, "stop": self._stop_verb})

    async def run(self) -> int:
        """Run the session to its end and write down how it ended."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        await self._control.start()
        background = [tasks.start(self._trim_logs(), name="trim logs"), tasks.start(self._reap(), name="reap")]
        copies = Copies(self.plan.certificate, self.layout.shared, self.plan.uid)
        background.append(tasks.start(copies.watch(), name="certificate"))
        how, reason = "failed", ""
        try:
            vm = await self._start("firecracker-vm")  # it waits for the network by itself
            await self._network()
            how, reason = await self._components(vm)
        except DozlabError as error:
            reason = str(error)
        finally:
            self.state = "stopping"
            await self._stop_all()
            await tasks.stop(background)
            (logger.error if how == "failed" else logger.info)("session %s: %s", how, reason)
            files.write_json(self.layout.end, {"state": how, "reason": reason, "t": round(time.time(), 3)})
            await self._control.close()
        return 0 if how == "stopped" else 1

    def _on_signal(self) -> None:
        self._stop.set()

    async def _stop_verb(self, request: dict[str, Any]) -> dict[str, Any]:
        self._graceful = bool(request.get("graceful", True))
        self.state = "stopping"
        self._stop.set()
        return {}

    async def _status(self, _request: dict[str, Any]) -> dict[str, Any]:
        vm: dict[str, Any] = {}
        if "firecracker-vm" in self.children and self.children["firecracker-vm"].running:
            with contextlib.suppress(DozlabError):
                vm = await control.call(POD / "shared/vm.sock", "status", timeout=2)
        return {
            "state": self._shown_state(vm),
            "reason": vm.get("reason", "") if vm.get("state") == "paused" else "",
            "components": {
                name: {"pid": child.pid, "running": child.running, "restarts": self.restarts.get(name, 0)}
                for name, child in self.children.items()
            },
            "vm": {key: value for key, value in vm.items() if key not in ("v", "ok")},
        }

    def _shown_state(self, vm: dict[str, Any]) -> str:
        if self.state == "starting" and vm.get("ssh"):
            self.state = "running"
        return "paused" if vm.get("state") == "paused" else self.state

    # Starting

    async def _start(self, name: str) -> proc.Child:
        command = [str(python.interpreter()), "-m", MODULES[name]]
        keep = privileges.kept(name, user_namespace=self.plan.uid is None)
        words = privileges.argv(proc.need("setpriv", "util-linux"), command, uid=self.plan.uid, keep=keep)
        with self.layout.log(name).open("ab") as out:
            child = await proc.Child.start(
                words, name=name, env=self.plan.environments[name], cwd=Path("/"), stdout=out, stderr=out
            )
        self.children[name] = child
        return child

    async def _network(self) -> None:
        child = await self._start("network-setup")
        try:
            async with asyncio.timeout(30):
                code = await child.wait()
        except TimeoutError as error:
            await child.stop()
            raise DozlabError("network-setup did not end within 30 s") from error
        del self.children["network-setup"]
        if code != 0:
            raise DozlabError(f"network-setup: {log.last_line(self.layout.log('network-setup'))}")

    async def _components(self, vm: proc.Child) -> tuple[str, str]:
        """Run the other two until the VM ends or we are told to stop; return how it ended and why."""
        beside = [name for name in ("terminal-sidecar", "code-server") if name in self.plan.environments]
        watchers = [tasks.start(self._keep(name), name=f"keep {name}") for name in beside]
        ended = tasks.start(vm.wait(), name="wait for firecracker-vm")
        told = tasks.start(self._stop.wait(), name="wait for stop")
        try:
            await asyncio.wait({ended, told}, return_when=asyncio.FIRST_COMPLETED)
            if told.done():
                return "stopped", "stopped from outside"
            code = ended.result()
            if code == 0:
                return "stopped", "the guest powered off"
            if code < 0:
                return "failed", f"firecracker-vm was ended by signal {-code}"
            return "failed", log.last_line(self.layout.log("firecracker-vm"))
        finally:
            await tasks.stop([*watchers, ended, told])

    async def _keep(self, name: str) -> None:
        """Run a component for ever: one that ends is started again, ever more slowly."""
        backoff = Backoff()
        while True:
            started = asyncio.get_running_loop().time()
            child = await self._start(name)
            code = await child.wait()
            self.restarts[name] = self.restarts.get(name, 0) + 1
            delay = backoff.next(lived=asyncio.get_running_loop().time() - started)
            logger.warning("%s ended with status %d; starting it again in %.0f s", name, code, delay)
            await asyncio.sleep(delay)

    # Ending

    async def _stop_all(self) -> None:
        """End terminal and editor first, so that nobody types into a machine that is going down, then the VM."""
        outer = [child for name, child in self.children.items() if name != "firecracker-vm"]
        await asyncio.gather(*(child.stop(grace=STOP_GRACE.get(child.name, 5.0)) for child in outer))
        vm = self.children.get("firecracker-vm")
        if vm:
            if self._graceful:
                await vm.stop(grace=STOP_GRACE["firecracker-vm"])
            elif vm.running:
                # The disk goes with the session: nothing to save.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(vm.pid, signal.SIGKILL)
                await vm.wait()

    async def _reap(self) -> None:
        while True:
            await asyncio.sleep(5)
            _reap_orphans({child.pid for child in self.children.values()})

    async def _trim_logs(self) -> None:
        while True:
            await asyncio.sleep(20)
            for path in self.layout.logs.glob("*.log"):
                if path.stat().st_size > LOG_LIMIT:
                    _start_anew(path)


def _start_anew(path: Path) -> None:
    """Keep a log's last MiB beside it and empty it; its writers append (O_APPEND), so they go on at the start."""
    with path.open("rb+") as file:
        file.seek(-(1 << 20), os.SEEK_END)
        files.write_atomic(path.with_suffix(".log.1"), file.read())
        file.truncate(0)


def _reap_orphans(own: set[int]) -> None:
    """Reap zombies that are ours by inheritance (we are PID 1), and leave those we started to asyncio."""
    me = os.getpid()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in own:
            continue
        if proc.stat(int(entry.name))[:2] == ("Z", me):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(int(entry.name), os.WNOHANG)


def _mount_view(plan: Plan) -> None:
    # Only root can make device nodes; a user's own rights on them are checked before the start.
    devices = [path for path in (Path("/dev/net/tun"), Path("/dev/kvm")) if path.exists() and plan.uid is not None]
    podview.set_up(
        writable={name: Path(path) for name, path in plan.writable.items()},
        read_only={name: Path(path) for name, path in plan.read_only.items()},
        devices=devices,
    )


def main(argv: list[str] | None = None) -> int:
    """Run `python -m dozlab.session.supervisor ID LOCK_FD` as PID 1 of fresh namespaces."""
    words = sys.argv[1:] if argv is None else argv
    layout = Layout(words[0])
    log.set_up("supervisor")
    proc.die_with_parent(signal.SIGTERM)
    os.set_inheritable(int(words[1]), False)
    try:
        plan = Plan.load(layout.plan)
        _mount_view(plan)
        return asyncio.run(Supervisor(layout, plan).run())
    except DozlabError as error:
        logger.error("%s", error)
        files.write_json(layout.end, {"state": "failed", "reason": str(error), "t": round(time.time(), 3)})
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
