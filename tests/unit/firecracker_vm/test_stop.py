"""A graceful stop: how often Ctrl-Alt-Del is pressed. A second time may reset a guest that is just unmounting."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dozlab.firecracker_vm import supervise
from dozlab.firecracker_vm.markers import Marker
from dozlab.firecracker_vm.probe import Decision
from dozlab.firecracker_vm.settings import Settings
from dozlab.firecracker_vm.supervise import Supervisor
from dozlab.lib import tasks


class Vmm:
    """Counts what is done to it."""

    def __init__(self) -> None:
        self.pressed, self.ended = 0, asyncio.Event()

    async def resume(self) -> None:
        pass

    async def press_ctrl_alt_del(self) -> None:
        self.pressed += 1

    async def end(self) -> None:
        self.ended.set()


@pytest.fixture
def supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Supervisor:
    monkeypatch.setattr(supervise, "POLL", {"tcg": 0.01})
    settings = Settings.from_env({"SESSION_ID": "lab", "SHARED_DIR": str(tmp_path), "STOP_GRACE": "1"})
    made = Supervisor(settings, Decision("qemu", "tcg", "/bin/true", "a test"))
    made.life.begin(0.0)
    made.life.mark(Marker("stage", "init"))
    return made


async def stop(supervisor: Supervisor, vmm: Any) -> asyncio.Task[None]:
    """Begin a stop and return once the key was pressed."""
    watcher = tasks.start(supervisor._watch_stop(vmm), name="watch-stop")
    supervisor.request_stop()
    while not vmm.pressed:
        await asyncio.sleep(0)
    return watcher


async def test_once_where_the_guest_has_answered(supervisor: Supervisor) -> None:
    supervisor.machine.ssh = True
    vmm = Vmm()
    watcher = await stop(supervisor, vmm)
    await vmm.ended.wait()
    await watcher
    assert vmm.pressed == 1


async def test_again_where_it_went_on_with_its_start(supervisor: Supervisor) -> None:
    supervisor.settings = replace(supervisor.settings, stop_grace=60)
    vmm = Vmm()
    watcher = await stop(supervisor, vmm)
    supervisor.machine.ssh = True
    while vmm.pressed < 2:
        await asyncio.sleep(0.01)
    await tasks.stop([watcher])


async def test_once_where_it_never_answers(supervisor: Supervisor) -> None:
    vmm = Vmm()
    watcher = await stop(supervisor, vmm)
    await vmm.ended.wait()
    await watcher
    assert vmm.pressed == 1


async def test_before_init_nobody_is_asked(supervisor: Supervisor) -> None:
    supervisor.life.reached_init = False
    vmm = Vmm()
    watcher = tasks.start(supervisor._watch_stop(vmm), name="watch-stop")  # type: ignore[arg-type]
    supervisor.request_stop()
    await vmm.ended.wait()
    await watcher
    assert vmm.pressed == 0
