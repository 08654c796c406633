"""The real Firecracker runs a session's VM inside an emulated machine with nested SVM (design.md D8).

One emulated machine (L1: our own base and kit, two processors of `-cpu max`) does all steps in a row by `inside.py`;
each test here judges one of them. Drives L1 over SSH through QEMU's user network.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dozlab.firecracker_vm.inputs import join_archives
from dozlab.firecracker_vm.install import install_test_copy
from dozlab.firecracker_vm.vmm.firecracker import find_binary
from dozlab.images import kit as kits
from dozlab.images.cmdline import cmdline
from dozlab.images.store import Store
from dozlab.lib import paths
from tests.support import free_port

pytestmark = [pytest.mark.firecracker, pytest.mark.timeout(4800)]

REPO = Path(__file__).resolve().parents[2]
BOOT_DEADLINE = 240.0
STEPS_DEADLINE = 1800.0
L1_ADDRESS, L1_GATEWAY = "10.9.0.2", "10.9.0.1"


def _base() -> Path:
    entry = Store(paths.cache() / "store").by_name("dozlab-vm")
    assert entry is not None, "build the base first: dozlab image build dozlab-vm"
    return paths.cache() / "store" / "sha256" / entry.digest / "image.ext4"


def _identity(folder: Path, base: Path, kit: Path) -> None:
    """Let init-rootfs make a session's disk, keys and identity."""
    environ = {
        **os.environ, "SESSION_ID": "nested", "IMAGE_PATH": str(base), "IMAGE_SIZE": "2G",
        "VM_DATA": str(folder / "vm"), "SHARED_DIR": str(folder / "shared"), "KERNELS_DIR": str(folder),
        "KIT_DIR": str(kit), "DNS_SERVERS": "10.9.0.3",
    }  # fmt: skip
    for name in ("vm", "shared"):
        (folder / name).mkdir(parents=True)
    subprocess.run([sys.executable, "-m", "dozlab.init_rootfs"], env=environ, check=True, timeout=120)


def _product_disk(folder: Path, base: Path, kit: Path) -> Path:
    """Make the disk that carries the product into L1."""
    root = folder / "product"
    root.mkdir()
    _identity(root, base, kit)
    rootfs = root / "shared" / "rootfs.json"
    rootfs.write_text(json.dumps({**json.loads(rootfs.read_text()), "base": "/dev/vda"}))  # L1's own base is L2's too
    shutil.copytree(REPO / "src", root / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(kit, root / "kit")
    (root / "bin").mkdir()
    shutil.copy(find_binary() or install_test_copy(paths.cache() / "bin"), root / "bin" / "firecracker")
    shutil.copy(Path(__file__).with_name("inside.py"), root)
    disk = folder / "product.ext4"
    command = ["mke2fs", "-q", "-t", "ext4", "-d", str(root), str(disk), "12G"]
    subprocess.run(command, check=True, timeout=120, stdout=subprocess.DEVNULL)  # stdout is for the benchmark's JSON
    return disk


class Outer:
    """L1: a QEMU process, its console in a file, SSH by a forwarded port."""

    def __init__(self, folder: Path, base: Path, kit: Path, memory: int) -> None:
        self.folder = folder
        product = _product_disk(folder, base, kit)
        self._keys = folder / "l1"
        self._keys.mkdir()
        _identity(self._keys, base, kit)
        disk = next((self._keys / "vm").rglob("session.ext4"))
        initrd = folder / "initrd.img"
        initrd.write_bytes(
            join_archives((kit / "initramfs.img").read_bytes(), (self._keys / "shared/identity.cpio").read_bytes())
        )
        self.port = free_port()
        masks = [f"systemd.mask={unit}" for unit in ("docker.service", "docker.socket", "containerd.service")]
        words = cmdline(vmm="qemu", accel="tcg", vm_ip=L1_ADDRESS, gateway_ip=L1_GATEWAY, extra=masks)
        forward = f"tcp:127.0.0.1:{self.port}-{L1_ADDRESS}:22"
        argv = [
            "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", f"{memory}M",
            "-kernel", str(kit / "vmlinuz"), "-initrd", str(initrd), "-append", words,
            "-serial", f"file:{folder / 'console'}",
            "-netdev", f"user,id=n,net=10.9.0.0/24,host={L1_GATEWAY},restrict=on,hostfwd={forward}",
            "-device", "virtio-net-pci,netdev=n,romfile=",
        ]  # fmt: skip
        for number, (path, only) in enumerate(
            [(base, "on"), (kit / "kit.ext4", "on"), (disk, "off"), (product, "off")]
        ):
            argv += ["-drive", f"if=none,id=d{number},format=raw,file={path},readonly={only},cache=unsafe"]
            argv += ["-device", f"virtio-blk-pci,drive=d{number}"]
        with (folder / "qemu.err").open("wb") as err:
            self.process = subprocess.Popen(argv, stderr=err)

    def ssh(self, *words: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
        shared = self._keys / "shared"
        argv = [
            "ssh", "-F", "/dev/null", "-i", str(shared / "id_ed25519"), "-p", str(self.port), "-o", "BatchMode=yes",
            "-o", f"UserKnownHostsFile={shared / 'known_hosts'}", "-o", "HostKeyAlias=172.16.0.2",
            "-o", "ConnectTimeout=20",
            "root@127.0.0.1", *words,
        ]  # fmt: skip
        return subprocess.run(argv, capture_output=True, text=True, timeout=timeout, check=False)

    def wait(self) -> None:
        deadline = time.monotonic() + BOOT_DEADLINE
        said = ""
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                done = self.ssh("true")
            except subprocess.TimeoutExpired:
                continue
            if done.returncode == 0:
                return
            said = done.stderr
            time.sleep(1)
        raise AssertionError(f"no SSH into L1: {said}\n{self.evidence()}")

    def evidence(self) -> str:
        return "".join(
            f"--- {name}\n{(self.folder / name).read_text(errors='replace')[-3000:]}\n"
            for name in ("console", "qemu.err")
        )

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def run_steps(folder: Path, clones: int = 3) -> dict[str, dict[str, Any]]:
    """Run `inside.py` in a new L1 and return what each step saw.

    :param clones: sessions that run side by side from the one snapshot
    :raises OuterDied: when L1's own kernel broke (QEMU's emulated SVM, under load): not our fault
    """
    more = clones - 3
    outer = Outer(folder, _base(), kits.ensure(), 3072 + 384 * more)
    began = time.monotonic()
    try:
        outer.wait()
        sys.stderr.write(f"L1 answers after {time.monotonic() - began:.0f} s\n")
        command = f"mkdir -p /run/p && mount /dev/vdd /run/p && python3 /run/p/inside.py /run/p {clones}"
        done = outer.ssh(command, timeout=STEPS_DEADLINE + 60 * more)
        sys.stderr.write(done.stdout)
        if done.returncode == 255 and any(word in outer.evidence() for word in ("Kernel panic", "BUG:", "Oops:")):
            raise OuterDied(outer.evidence())
        assert done.returncode == 0, f"inside.py: {done.stderr[-2000:]}\n{done.stdout[-4000:]}\n{outer.evidence()}"
        return {item["step"]: item for item in map(json.loads, done.stdout.splitlines())}
    finally:
        outer.close()
        shutil.rmtree(folder, ignore_errors=True)


class OuterDied(Exception):
    """The emulated machine itself crashed."""


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Return what each step saw; a second L1 is tried, said aloud, when the first one's own kernel broke."""
    try:
        return run_steps(tmp_path_factory.mktemp("nested"))
    except OuterDied as died:
        sys.stderr.write(f"L1's own kernel broke; trying a second one\n{died}\n")
    return run_steps(tmp_path_factory.mktemp("nested-again"))


Steps = dict[str, dict[str, Any]]


def test_the_probe_believes_kvm_and_a_missing_tap_is_our_line(steps: Steps) -> None:
    seen = steps["missing tap"]
    assert "a probe guest ran under firecracker" in seen["err"]
    assert seen["code"] == 1
    assert seen["err"].endswith("tap device tap0 does not exist in this network namespace; run network-setup first\n")


def test_network_setup(steps: Steps) -> None:
    assert steps["network-setup"]["code"] == 0, steps["network-setup"]["err"]


def test_a_wrong_kernel_is_refused_in_firecracker_s_own_words(steps: Steps) -> None:
    seen = steps["wrong kernel"]
    assert seen["code"] == 1
    last = seen["err"].splitlines()[-1]
    assert last.startswith("firecracker-vm: firecracker refused PUT /actions:")
    assert "Invalid Elf magic number" in last


def test_cold_boot_to_ssh(steps: Steps) -> None:
    seen = steps["ssh"]
    assert (seen["vmm"], seen["accel"], seen["state"], seen["boots"]) == ("firecracker", "kvm", "running", 1)
    assert seen["ssh"] is True


def test_firecracker_runs_as_an_ordinary_user_without_capabilities(steps: Steps) -> None:
    seen = steps["ssh"]
    assert (seen["uid"], seen["caps"]) == (1000, "0000000000000000")


def test_docker_answers(steps: Steps) -> None:
    assert steps["docker"]["docker"] is True


def test_a_machine_is_saved_whole(steps: Steps) -> None:
    seen = steps["saved"]
    assert seen["code"] == 0, seen["err"]
    assert "dozlab: stage=kernel" in seen["console"]
    assert "dozlab: stage=init" in seen["console"]
    assert set(seen["files"]) == {"state", "memory", "disk.ext4", "token", "snapshot.json"}
    assert seen["files"]["memory"] < 700 << 20  # of 768 MiB: holes where nothing ever was


def test_a_session_begins_with_the_saved_machine(steps: Steps) -> None:
    seen = steps["restored"]
    assert seen["ssh"] and seen["docker"], seen
    assert (seen["vmm"], seen["boots"], seen["uid"]) == ("firecracker", 1, 1000)
    assert "restored: disk" in seen["log"], seen["log"]


def test_the_restored_machine_is_the_session_s_own(steps: Steps) -> None:
    name, clock, boot = steps["guest"]["told"].split()
    assert name == "nested"
    assert steps["guest"]["asked"] - 10 < float(clock) < steps["guest"]["now"] + 10
    assert len(boot) == 36


def test_sessions_of_one_snapshot_share_its_memory(steps: Steps) -> None:
    """Firecracker maps the snapshot's memory: each further session takes what its guest has written since."""
    seen = steps["clones"]
    assert seen["ready"] == [True] * 3, seen
    alone, together = seen["alone"], seen["all"]
    further = (sum(each["Pss"] for each in together) - alone["Pss"]) / 2
    assert 0 < further < alone["Pss"], seen
    assert all(each["Private_Dirty"] < each["Rss"] for each in together), seen


def test_a_checkpoint_and_the_way_back_to_it(steps: Steps) -> None:
    """Memory included: the mark lay in a tmpfs. The clock is the host's, as far as a look through SSH can tell."""
    (made,) = steps["checkpoint"]["checkpoints"]
    assert made["name"] == "one"
    seen = steps["reset"]
    assert (seen["ssh"], seen["restored"], seen["how"]) == (True, True, "checkpoint"), seen
    mark, clock = seen["mark"].split()
    assert mark == "saved"
    assert seen["asked"] - 20 < float(clock) < seen["now"] + 20, seen


def test_pause_and_resume(steps: Steps) -> None:
    assert (steps["pause"]["paused"], steps["pause"]["resumed"]) == ("paused", "running")


def test_a_graceful_stop_shuts_the_guest_down(steps: Steps) -> None:
    seen = steps["stop"]
    assert seen["code"] == 0
    assert seen["left"] == 0
    assert "dozlab: shutdown=reboot" in seen["console"]
    assert "reboot: Restarting system" in seen["console"]
    assert "stopped: asked to stop" in seen["err"]


def test_a_killed_vmm_is_told_with_its_reason(steps: Steps) -> None:
    assert steps["init"]["state"] == "running"
    seen = steps["killed"]
    assert seen["code"] == 1
    assert "firecracker was ended from outside by SIGKILL" in seen["err"]
    assert '"event": "failed"' in seen["timeline"]
    assert seen["files"] == {"fc.sock": False, "vm.sock": False}
    assert seen["left"] == 0
