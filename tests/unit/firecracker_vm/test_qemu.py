"""The QEMU back end against a real QEMU: no guest kernel runs, the machine is q35 itself."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from dozlab.firecracker_vm.machine import Drive, Spec, VmmRefused
from dozlab.firecracker_vm.vmm.qemu import Qemu, QemuOptions, build_argv
from dozlab.lib.errors import DozlabError

QEMU = shutil.which("qemu-system-x86_64") or "qemu-system-x86_64 is not installed"


@pytest.fixture
def spec(tmp_path: Path) -> Spec:
    """Return a spec whose kernel is a boot sector that halts: QEMU loads it and nothing prints."""
    kernel, initrd = tmp_path / "kernel", tmp_path / "initrd"
    head = bytearray(1024 + 512)
    head[0x1F1] = 1  # setup sectors
    head[0x202:0x206] = b"HdrS"
    head[0x206:0x208] = (0x020A).to_bytes(2, "little")
    head[0x211] = 1  # loaded high
    head[0x236:0x23A] = b"\x00\x00\x00\x00"
    head[0x22C:0x230] = (0x7FFFFFFF).to_bytes(4, "little")
    head[1024:] = b"\xf4\xeb\xfd" * 170 + b"\x00\x00"  # hlt; jmp
    kernel.write_bytes(bytes(head))
    initrd.write_bytes(b"\0" * 512)
    drives = []
    for name in ("vda", "vdb", "vdc"):
        path = tmp_path / f"{name},1.ext4"  # a comma, which QEMU's option lists need doubled
        path.write_bytes(b"\0" * 65536)
        drives.append(Drive(name, path, name != "vdc"))
    return Spec(kernel, initrd, "console=ttyS0", tuple(drives), 1, 64)


def options(binary: str = QEMU) -> QemuOptions:
    return QemuOptions(binary, "tcg", "unit")


def test_the_command_line(tmp_path: Path) -> None:
    drives = (Drive("vda", Path("/b,ase"), True), Drive("vdc", Path("/disk"), False))
    spec = Spec(Path("/k"), Path("/i"), "console=ttyS0 panic=-1", drives, 3, 512, "tap7", "06:00:ac:10:00:02")
    argv = build_argv(QemuOptions("/q", "kvm", "lab"), spec, 9)
    text = " ".join(argv)
    assert argv[0] == "/q"
    assert "-no-reboot" in argv
    assert "-nodefaults" in argv
    assert "-S" in argv
    assert argv[argv.index("-cpu") + 1] == "host"
    assert argv[argv.index("-accel") + 1] == "kvm"
    assert argv[argv.index("-append") + 1] == "console=ttyS0 panic=-1"
    assert "file=/b,,ase,readonly=on" in text
    assert "file=/disk,cache=writeback,discard=unmap" in text
    assert text.index("drive=vda") < text.index("drive=vdc")
    assert "tap,id=net0,ifname=tap7,script=no,downscript=no,vhost=off" in argv
    assert "spawn=deny" in text
    assert "-netdev" not in build_argv(QemuOptions("/q", "tcg", "lab"), Spec(Path("/k"), Path("/i"), "", (), 1, 64), 9)


async def test_start_pause_resume_key_and_quit(spec: Spec) -> None:
    vmm = Qemu(options())
    read, write = os.pipe()
    try:
        await vmm.start(spec, write)
        qmp = vmm._qmp
        assert qmp
        assert (await qmp.execute("query-status"))["status"] == "running"
        await vmm.pause()
        assert (await qmp.execute("query-status"))["status"] == "paused"
        await vmm.resume()
        await vmm.press_ctrl_alt_del()
        with pytest.raises(VmmRefused, match="no-such-verb"):
            await qmp.execute("no-such-verb")
        blocks = {item["device"]: item["inserted"]["ro"] for item in await qmp.execute("query-block")}
        assert blocks == {"vda": True, "vdb": True, "vdc": False}
        await vmm.end()
        end = await vmm.wait()
        assert end.ours
        assert end.code == 0
        assert end.told == "host-qmp-quit"
        await vmm.end()
        with pytest.raises(DozlabError, match="too late"):
            await vmm.pause()
    finally:
        await vmm.end()
        os.close(read)
        os.close(write)


async def test_a_qemu_that_is_killed_is_seen(spec: Spec) -> None:
    vmm = Qemu(options())
    read, write = os.pipe()
    try:
        await vmm.start(spec, write)
        os.kill(vmm.pid, 9)
        async with asyncio.timeout(30):
            end = await vmm.wait()
        assert (end.code, end.ours) == (-9, False)
    finally:
        await vmm.end()
        os.close(read)
        os.close(write)


async def test_qemu_s_own_words_when_it_refuses(spec: Spec) -> None:
    spec.drives[2].path.unlink()
    vmm = Qemu(options())
    read, write = os.pipe()
    try:
        with pytest.raises(DozlabError, match=r"qemu ended with status 1 before the guest ran: .*No such file"):
            await vmm.start(spec, write)
    finally:
        await vmm.end()
        os.close(read)
        os.close(write)


async def test_a_program_that_is_no_qemu(spec: Spec) -> None:
    read, write = os.pipe()
    try:
        for binary, words in (("/nonexistent/qemu", "cannot start"), ("/bin/false", "ended with status 1")):
            vmm = Qemu(options(binary))
            with pytest.raises(DozlabError, match=words):
                await vmm.start(spec, write)
            await vmm.end()
    finally:
        os.close(read)
        os.close(write)


async def test_a_machine_is_saved_and_another_goes_on_from_there(spec: Spec, tmp_path: Path) -> None:
    state = tmp_path / "state"
    read, write = os.pipe()
    first, second = Qemu(options()), Qemu(options())
    try:
        await first.start(spec, write)
        await first.pause()
        await first.save(state)
        await first.end()
        assert state.stat().st_size > 1 << 16
        assert state.stat().st_mode & 0o777 == 0o600
        await second.restore(spec, write, state)
        await second.resume()
        assert Path(f"/proc/{second.pid}").exists()
    finally:
        await first.end()
        await second.end()
        os.close(read)
        os.close(write)


async def test_a_state_of_another_machine_is_refused(spec: Spec, tmp_path: Path) -> None:
    """QEMU itself finds what our key should have: it ends, in its own words."""
    (tmp_path / "state").write_bytes(b"no migration stream" * 100)
    read, write = os.pipe()
    vmm = Qemu(options())
    try:
        with pytest.raises(DozlabError, match="qemu ended with status 1"):
            await vmm.restore(spec, write, tmp_path / "state")
    finally:
        await vmm.end()
        os.close(read)
        os.close(write)
