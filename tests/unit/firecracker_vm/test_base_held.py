"""While a machine runs, nobody removes its base from the store, even where nothing else tells that it is in use."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from dozlab.firecracker_vm import inputs, network
from dozlab.firecracker_vm.machine import Exit
from dozlab.firecracker_vm.probe import Decision
from dozlab.firecracker_vm.settings import Settings
from dozlab.firecracker_vm.supervise import Supervisor
from dozlab.images import gc
from dozlab.images.snapshots import Snapshot
from dozlab.images.store import Store
from dozlab.lib.errors import DozlabError
from tests.unit.init_rootfs.conftest import READ_ONLY, mounted

BZIMAGE = b"\0" * 0x202 + b"HdrS" + b"\0" * 1024


class Node:
    """One store with one image, and the settings of a session that has it."""

    def __init__(self, folder: Path) -> None:
        for name in ("vm", "shared", "kit"):
            (folder / name).mkdir()
        (folder / "source").write_bytes(b"base")
        self.store = Store(folder / "kernels")
        self.digest = self.store.add_file(folder / "source").digest
        base = f"sha256/{self.digest}/image.ext4"
        for name, data in {
            "vm/session.ext4": bytes(4096), "shared/identity.cpio": b"i", "kit/initramfs.img": b"1",
            "kit/kit.ext4": b"k", "kit/vmlinuz": BZIMAGE,
            "shared/rootfs.json": json.dumps({"base": base, "digest": self.digest, "disk": "session.ext4"}).encode(),
        }.items():  # fmt: skip
            (folder / name).write_bytes(data)
        self.settings = Settings.from_env(
            {
                "SESSION_ID": "unit", "KERNELS_DIR": f"{folder}/kernels", "VM_DATA": f"{folder}/vm",
                "SHARED_DIR": f"{folder}/shared", "KIT_DIR": f"{folder}/kit", "SSH_RELAY_PORT": "0",
            }
        )  # fmt: skip

    def user(self) -> str:
        """Try to remove the base, for somebody who knows of no session; return who has it."""
        return self.store.remove(self.digest, lambda digest: "")


class Vmm:
    """A machine that ends as soon as it runs; `seen`: what somebody with an axe was told meanwhile."""

    def __init__(self, node: Node, end: Exit) -> None:
        self.node, self.end_of_it, self.seen = node, end, list[str]()

    async def start(self, spec: object, console: int) -> None:
        self.seen.append(self.node.user())

    async def wait(self) -> Exit:
        self.seen.append(self.node.user())
        return self.end_of_it

    async def end(self) -> None:
        pass


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    async def set_up(*_: object) -> None:
        pass

    monkeypatch.setattr(network, "wait_set_up", set_up)
    monkeypatch.setattr(network, "check_tap", lambda tap: None)
    monkeypatch.setattr(network, "guest_mac", lambda shared: "06:00:ac:10:00:02")
    monkeypatch.setattr(network, "mtu", lambda tap: 1500)
    return Node(tmp_path)


@pytest.mark.parametrize("how", ["boot", "snapshot"])
async def test_held_over_all_its_boots_and_let_go_at_its_end(
    how: str, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor = Supervisor(node.settings, Decision("qemu", "tcg", "/bin/true", "a test"))
    machines = [Vmm(node, Exit(0, "guest-reset")), Vmm(node, Exit(0, "guest-shutdown"))]
    coming = iter(machines)
    monkeypatch.setattr(supervisor, "_make", lambda: next(coming))
    if how == "snapshot":
        snapshot = Snapshot(node.settings.shared, {}, 0.0, 0)
        monkeypatch.setattr(supervisor._prepared, "find", lambda spec: snapshot)

        async def restore(vmm: Vmm, spec: object, console: int, *_: Any, **__: Any) -> bool:
            await vmm.start(spec, console)
            return True

        monkeypatch.setattr(supervisor, "_restore", restore)
    assert await supervisor.run() == 0
    assert [vmm.seen for vmm in machines] == [["a session that has it open"] * 2] * 2
    assert node.store.get(node.digest)
    assert node.user() == ""


def test_gc_with_no_state_files_leaves_it(node: Node) -> None:
    fd = inputs.hold_base(inputs.collect(node.settings, "qemu"))
    try:
        then = node.store.used(node.digest) - 1e6
        (node.store.root / "sha256" / node.digest / "used").touch()
        os.utime(node.store.root / "sha256" / node.digest / "used", (then, then))
        assert gc.collect(node.store, in_use=lambda digest: "", older_than=1, named=True).gone == ()
    finally:
        os.close(fd)
    assert len(gc.collect(node.store, in_use=lambda digest: "", older_than=1, named=True).gone) == 1


def test_a_base_that_has_just_gone_is_one_line(node: Node) -> None:
    files = inputs.collect(node.settings, "qemu")
    assert node.user() == ""
    with pytest.raises(DozlabError, match=r"base image .* is missing; run init-rootfs first"):
        inputs.hold_base(files)


def test_in_a_read_only_mount_of_the_store(node: Node) -> None:
    """As firecracker-vm sees it, in a Pod and on one machine: the lock is the file's, whatever the mount."""
    with mounted(node.store.root, READ_ONLY) as seen:
        fd = Store(seen).hold(node.digest)
        assert fd is not None
        assert node.user() == "a session that has it open"
        os.close(fd)
