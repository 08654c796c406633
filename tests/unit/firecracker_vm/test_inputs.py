"""Files, settings and the tap: every fault is one clear line."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dozlab.firecracker_vm import inputs, network
from dozlab.firecracker_vm.settings import Settings
from dozlab.lib.errors import BadUsage, DozlabError

ELF = b"\x7fELF" + b"\0" * 1024
BZIMAGE = b"\0" * 0x202 + b"HdrS" + b"\0" * 1024


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Return settings whose every file is in order."""
    for name in ("kernels", "vm", "shared", "kit"):
        (tmp_path / name).mkdir()
    for name, data in {
        "kernels/base.ext4": b"b", "vm/session.ext4": b"s", "shared/identity.cpio": b"identity",
        "kit/initramfs.img": b"12345", "kit/kit.ext4": b"k", "kit/vmlinux": ELF, "kit/vmlinuz": BZIMAGE,
        "shared/rootfs.json": json.dumps({"base": "base.ext4", "digest": "d", "disk": "session.ext4"}).encode(),
    }.items():  # fmt: skip
        (tmp_path / name).write_bytes(data)
    return Settings.from_env(
        {
            "SESSION_ID": "unit", "KERNELS_DIR": f"{tmp_path}/kernels", "VM_DATA": f"{tmp_path}/vm",
            "SHARED_DIR": f"{tmp_path}/shared", "KIT_DIR": f"{tmp_path}/kit",
        }
    )  # fmt: skip


def test_what_a_boot_needs(settings: Settings) -> None:
    found = inputs.collect(settings, "qemu")
    assert found.kernel == settings.kit / "vmlinuz"
    assert inputs.collect(settings, "firecracker").kernel == settings.kit / "vmlinux"
    assert [(drive.name, drive.path.name, drive.read_only) for drive in found.drives] == [
        ("vda", "base.ext4", True), ("vdb", "kit.ext4", True), ("vdc", "session.ext4", False),
    ]  # fmt: skip
    assert found.initrd.read_bytes() == b"12345\0\0\0identity"
    assert found.initrd.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("path", "data", "words"),
    [
        ("kit/vmlinuz", None, "kernel .*vmlinuz is missing"),
        ("kit/vmlinuz", b"", "kernel .* is empty"),
        ("kit/vmlinuz", b"MZ not a kernel" * 100, "is not an x86 kernel"),
        ("kit/kit.ext4", None, "kit disk .* is missing"),
        ("kit/initramfs.img", None, "boot initramfs .* is missing"),
        ("kernels/base.ext4", None, "base image .* is missing; run init-rootfs first"),
        ("vm/session.ext4", None, "session disk .* is missing"),
        ("shared/identity.cpio", None, "identity .* is missing"),
        ("shared/rootfs.json", None, r"rootfs\.json is missing; run init-rootfs first"),
        ("shared/rootfs.json", b"{", r"rootfs\.json is damaged"),
        ("shared/rootfs.json", b"[]", "not an object"),
        ("shared/rootfs.json", b"{}", "lacks 'base'"),
    ],
)
def test_faults(settings: Settings, path: str, data: bytes | None, words: str) -> None:
    file = settings.kit.parent / path
    file.unlink()
    if data is not None:
        file.write_bytes(data)
    with pytest.raises(DozlabError, match=words) as caught:
        inputs.collect(settings, "qemu")
    assert "\n" not in str(caught.value)


def test_a_kernel_of_one_s_own(settings: Settings, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_bytes(ELF)
    assert inputs.collect(dataclasses.replace(settings, kernel=own), "qemu").kernel == own
    own.unlink()
    with pytest.raises(DozlabError, match="KERNEL_PATH"):
        inputs.collect(dataclasses.replace(settings, kernel=own), "qemu")


@given(st.lists(st.binary(min_size=1, max_size=9), max_size=5))
def test_archives_start_at_multiples_of_four(archives: list[bytes]) -> None:
    joined, at = inputs.join_archives(*archives), 0
    for archive in archives:
        assert joined[at : at + len(archive)] == archive
        at += -(-len(archive) // 4) * 4
    assert len(joined) == at


def test_all_faults_of_the_environment_at_once() -> None:
    with pytest.raises(BadUsage) as caught:
        Settings.from_env({"CPU_COUNT": "none", "MEMORY": "1", "VM_IP": "here"})
    assert len(str(caught.value).splitlines()) == 4
    with pytest.raises(BadUsage, match=r"VMM='xen'.*\nTAP_DEVICE_NAME"):
        Settings.from_env({"SESSION_ID": "x", "VMM": "xen", "TAP_DEVICE_NAME": "a,b"})


def test_the_mac_is_network_setups(tmp_path: Path) -> None:
    with pytest.raises(DozlabError, match=r"network.json does not tell the guest's MAC address"):
        network.guest_mac(tmp_path)
    (tmp_path / "network.json").write_text('{"mac": "06:00:ac:10:00:02"}')
    assert network.guest_mac(tmp_path) == "06:00:ac:10:00:02"


def test_a_missing_tap_names_the_next_step() -> None:
    with pytest.raises(DozlabError, match=r"tap device nosuchtap0 does not exist .*; run network-setup first"):
        network.check_tap("nosuchtap0")


CHECK = "from dozlab.firecracker_vm.network import check_tap; from dozlab.lib.errors import DozlabError\n"


@pytest.mark.root
@pytest.mark.parametrize(
    ("setup", "words"),
    [
        (["tuntap add t0 mode tap", "link set t0 up"], "None"),
        (["tuntap add t0 mode tap"], "tap device t0 is down; run network-setup first"),
        (["tuntap add t0 mode tap multi_queue", "link set t0 up"], "not a plain tap device"),
        (["tuntap add t0 mode tun", "link set t0 up"], "not a plain tap device"),
        (["tuntap add t0 mode tap user 65534", "link set t0 up"], "None"),  # root may open anybody's
    ],
)
def test_taps(setup: list[str], words: str) -> None:
    steps = "".join(f"subprocess.run(['ip', *{line!r}.split()], check=True)\n" for line in setup)
    program = f"import subprocess\n{steps}{CHECK}try:\n  print(check_tap('t0'))\nexcept DozlabError as e:\n  print(e)\n"
    done = subprocess.run(
        ["unshare", "--net", "python3", "-c", program], capture_output=True, text=True, timeout=100,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(inputs.__file__).parents[2])},
    )  # fmt: skip
    assert words in done.stdout, done.stderr
