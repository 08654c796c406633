"""What a guest says of its Docker: the kit's own script, and what is told on the host of it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dozlab.firecracker_vm.adoption import Guest
from dozlab.firecracker_vm.markers import Marker
from dozlab.firecracker_vm.prepared import Prepared
from dozlab.firecracker_vm.probe import Decision
from dozlab.firecracker_vm.settings import Settings
from dozlab.firecracker_vm.supervise import DOCKER_FAILED, Supervisor
from dozlab.images import initramfs
from dozlab.lib.errors import DozlabError
from dozlab.lib.timeline import Timeline

SCRIPT = initramfs.kitfiles() / "disk/usr/lib/dozlab/docker-ready"
DECISION = Decision("qemu", "tcg", "/bin/true", "a test")
SYSTEMCTL = """#!/bin/sh
# Says the next line of `states` each time.
read -r state < states
tail -n +2 states > rest
mv rest states
echo "$state"
[ "$state" = active ] || exit 3
"""


@pytest.mark.parametrize(
    ("states", "said"),
    [
        (["active"], "\ndozlab: docker=ready\n"),
        (["failed"], "\ndozlab: docker=failed\n"),
        (["activating", "active"], "\ndozlab: docker=ready\n"),
        (["activating", "activating", "failed"], "\ndozlab: docker=failed\n"),
        (["inactive"], ""),
    ],
)
def test_docker_is_ready_or_has_given_up(tmp_path: Path, states: list[str], said: str) -> None:
    for name, text in {"systemctl": SYSTEMCTL, "sleep": "#!/bin/sh\n"}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o700)
    (tmp_path / "states").write_text("".join(f"{state}\n" for state in states))
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run(["sh", str(SCRIPT), "console"], cwd=tmp_path, env=environment, check=True, timeout=60)
    assert (tmp_path / "console").read_text() == said
    assert (tmp_path / "states").read_text() == ""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.from_env({"SESSION_ID": "lab", "SHARED_DIR": str(tmp_path), "VM_DATA": str(tmp_path)})


def test_a_docker_that_has_given_up_is_told_at_once(settings: Settings) -> None:
    """`dozlab up` waits for Docker no longer then."""
    supervisor = Supervisor(settings, DECISION)
    supervisor._begin()
    for marker in (Marker("stage", "kernel"), Marker("stage", "init"), Marker("docker", "failed")):
        supervisor._on_marker(marker)
    told = [(each.event, each.detail) for each in Timeline(settings.shared).read() if each.stage == "dockerd"]
    assert told == [("start", ""), ("failed", DOCKER_FAILED)]


async def test_a_machine_whose_docker_has_given_up_is_not_saved(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Vmm:
        ended = False

        async def end(self) -> None:
            self.ended = True

    supervisor, vmm = Supervisor(settings, DECISION), Vmm()
    monkeypatch.setattr(Prepared, "save", None)
    supervisor._begin()
    supervisor.machine.ssh = True
    supervisor._on_marker(Marker("docker", "failed"))
    await supervisor._watch_prepare(vmm, None)  # type: ignore[arg-type]
    assert (vmm.ended, supervisor._prepared.why) == (True, DOCKER_FAILED)


async def test_after_a_return_to_a_checkpoint_the_clock_is_looked_at(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an adoption before it has said of the clock is stale then, even where the return fails."""

    async def refuse(*_: Any, **__: Any) -> None:
        raise DozlabError("no")

    monkeypatch.setattr(Guest, "refresh", refuse)
    monkeypatch.setattr("dozlab.firecracker_vm.adoption.read_identity", lambda _: {})
    prepared = Prepared(settings, DECISION)
    prepared.clock_right = True
    with pytest.raises(DozlabError):
        await prepared._refresh(prepared.guest)
    assert not prepared.clock_right
