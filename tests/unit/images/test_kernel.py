"""Kernel: unpacking a bzImage, the command line, the metapackage."""

from __future__ import annotations

import gzip
import struct

import pytest
import zstandard

from dozlab.images import kit, vmlinux
from dozlab.images.cmdline import cmdline, probe_cmdline
from dozlab.lib.errors import DozlabError

ELF = b"\x7fELF" + bytes(range(256)) * 40


def bzimage(payload: bytes, setup: int = 3, version: int = 0x20F) -> bytes:
    image = bytearray((setup + 1) * 512)
    image[0x1F1] = setup
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x206, version)
    struct.pack_into("<II", image, 0x248, 100, len(payload) + 4)
    return bytes(image) + bytes(100) + payload + struct.pack("<I", len(ELF)) + b"trailing"


@pytest.mark.parametrize("payload", [zstandard.compress(ELF), gzip.compress(ELF)])
def test_the_elf_kernel_comes_out_whole(payload: bytes) -> None:
    assert vmlinux.extract(bzimage(payload)) == ELF


def test_an_elf_kernel_is_left_as_it_is() -> None:
    assert vmlinux.extract(ELF) is ELF


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (b"not a kernel", "neither"),
        (bzimage(zstandard.compress(ELF), version=0x204), "too old"),
        (bzimage(zstandard.compress(ELF))[:2200], "cut off"),
        (bzimage(b"\x28\xb5\x2f\xfd" + bytes(64)), "damaged|not an ELF"),
        (bzimage(b"LZ4? no " * 8), "unknown way"),
        (bzimage(zstandard.compress(b"text" * 99)), "not an ELF"),
    ],
)
def test_what_is_no_kernel_is_refused_in_one_line(image: bytes, words: str) -> None:
    with pytest.raises(DozlabError, match=words) as caught:
        vmlinux.extract(image)
    assert "\n" not in str(caught.value)


def test_the_line_holds_what_the_kit_reads() -> None:
    line = cmdline(vmm="qemu", accel="tcg", vm_ip="172.16.0.2", gateway_ip="172.16.0.1", mtu=1400, extra=["quiet=no"])
    words = line.split()
    for word in (
        "console=ttyS0",
        "panic=-1",
        "apparmor=0",
        "dozlab.ip=172.16.0.2/24",
        "dozlab.gw=172.16.0.1",
        "dozlab.mtu=1400",
    ):
        assert word in words
    assert words[-1] == "quiet=no" and "dozlab.off=reboot" not in words


def test_faults_of_the_processor_are_paid_for_unless_it_is_emulated() -> None:
    for vmm in ("qemu", "firecracker"):
        assert "mitigations=off" not in cmdline(vmm=vmm, accel="kvm", vm_ip="10.0.0.2", gateway_ip="10.0.0.1")
    assert "mitigations=off" in cmdline(vmm="qemu", accel="tcg", vm_ip="10.0.0.2", gateway_ip="10.0.0.1")


def test_firecracker_is_told_to_end_by_a_reset_and_modules_are_allowed() -> None:
    for line in (
        cmdline(vmm="firecracker", accel="kvm", vm_ip="10.0.0.2", gateway_ip="10.0.0.1"),
        probe_cmdline(vmm="firecracker"),
    ):
        assert "reboot=k" in line.split() and "dozlab.off=reboot" in line.split() and "nomodule" not in line


@pytest.mark.parametrize("word", ["", "a b", "a\nb", "a\x00"])
def test_words_that_would_split_or_hide_are_refused(word: str) -> None:
    with pytest.raises(ValueError, match="not a word"):
        cmdline(vmm="qemu", accel="tcg", vm_ip="10.0.0.2", gateway_ip="10.0.0.1", extra=[word])


def test_the_metapackage_names_its_kernel() -> None:
    depends = "linux-image-6.12.117+deb13-cloud-amd64 (= 6.12.117-1)"
    assert kit.kernel_package(depends) == "linux-image-6.12.117+deb13-cloud-amd64"
    with pytest.raises(DozlabError, match="no kernel"):
        kit.kernel_package("libc6")
