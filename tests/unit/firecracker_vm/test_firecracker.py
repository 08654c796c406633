"""The Firecracker back end: bodies by version, and the real API server up to InstanceStart."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dozlab.firecracker_vm.machine import Drive, Spec, VmmRefused
from dozlab.firecracker_vm.vmm.fc_api import RESOURCES, FirecrackerApi, build_body, parse_version
from dozlab.firecracker_vm.vmm.firecracker import Firecracker, find_binary
from dozlab.lib.errors import DozlabError

kvm = pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="needs /dev/kvm: be root or in group kvm")


def test_versions() -> None:
    assert parse_version("1.12.1") == (1, 12, 1)
    assert parse_version("v1.17.0-dev") == (1, 17, 0)
    with pytest.raises(ValueError, match="not a Firecracker version"):
        parse_version("latest")


def test_bodies_hold_what_the_version_knows() -> None:
    network = RESOURCES["network"]
    fields = {"iface_id": "eth0", "host_dev_name": "tap0", "guest_mac": None}
    assert build_body(network, (1, 12, 1), fields) == {"iface_id": "eth0", "host_dev_name": "tap0"}
    assert build_body(network, (1, 16, 0), {**fields, "mtu": 1400})["mtu"] == 1400
    with pytest.raises(DozlabError, match=r"1\.12\.1 does not know mtu .* 1\.16\.0 or newer"):
        build_body(network, (1, 12, 1), {**fields, "mtu": 1400})
    with pytest.raises(KeyError):
        build_body(network, (1, 16, 0), {"bogus": 1})


def test_the_binary_is_found_where_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert find_binary({"PATH": ""}) is None
    own = tmp_path / "dozlab/bin/firecracker"
    own.parent.mkdir(parents=True)
    own.touch(0o755)
    assert find_binary({"PATH": ""}) == own
    assert find_binary({"PATH": "", "FIRECRACKER_BIN": "/bin/true"}) == Path("/bin/true")
    with pytest.raises(DozlabError, match="is not a program"):
        find_binary({"FIRECRACKER_BIN": "/nonexistent"})


@contextlib.asynccontextmanager
async def launched(binary: Path, folder: Path) -> AsyncIterator[Firecracker]:
    vmm = Firecracker(binary, folder / "fc.sock", "unit")
    (folder / "fc.sock").touch()  # what a killed process leaves behind
    read, write = os.pipe()
    try:
        await vmm.launch(write)
        yield vmm
    finally:
        await vmm.end()
        os.close(read)
        os.close(write)
        assert not (folder / "fc.sock").exists()


@pytest.fixture
def spec(tmp_path: Path) -> Spec:
    drives = []
    for name in ("vda", "vdb", "vdc"):
        path = tmp_path / f"{name}.ext4"
        path.write_bytes(b"\0" * 65536)
        drives.append(Drive(name, path, name != "vdc"))
    kernel, initrd = tmp_path / "kernel", tmp_path / "initrd"
    kernel.write_bytes(b"no kernel at all" * 100)
    initrd.write_bytes(b"\0" * 512)
    return Spec(kernel, initrd, "console=ttyS0", tuple(drives), 1, 64)


@kvm
async def test_the_real_server_takes_our_configuration(firecracker: Path, tmp_path: Path, spec: Spec) -> None:
    async with launched(firecracker, tmp_path) as vmm:
        assert vmm.api.version >= (1, 8, 0)
        await vmm.configure(spec)
        config = await vmm.api._request("GET", "/vm/config", None)
        assert [(d["drive_id"], d["is_read_only"], d["is_root_device"]) for d in config["drives"]] == [
            ("vda", True, False), ("vdb", True, False), ("vdc", False, False),
        ]  # fmt: skip
        assert config["drives"][2]["cache_type"] == "Writeback"
        assert config["machine-config"]["mem_size_mib"] == 64
        assert config["boot-source"]["boot_args"] == "console=ttyS0"
        assert config["entropy"] is not None
        assert await vmm.api.state() == "Not started"


@kvm
async def test_a_wrong_kernel_is_refused_in_firecracker_s_words_and_the_process_ends(
    firecracker: Path, tmp_path: Path, spec: Spec
) -> None:
    vmm = Firecracker(firecracker, tmp_path / "fc.sock", "unit")
    read, write = os.pipe()
    try:
        with pytest.raises(VmmRefused, match=r"refused PUT /actions: .*[Ee]lf"):
            await vmm.start(spec, write)
        async with asyncio.timeout(30):
            await vmm.wait()
    finally:
        await vmm.end()
        os.close(read)
        os.close(write)
    assert not (tmp_path / "fc.sock").exists()


@kvm
async def test_refusals_carry_the_server_s_words(firecracker: Path, tmp_path: Path, spec: Spec) -> None:
    async with launched(firecracker, tmp_path) as vmm:
        with pytest.raises(VmmRefused, match="unknown field `bogus`"):
            await vmm.api._request("PUT", "/machine-config", {"vcpu_count": 1, "mem_size_mib": 64, "bogus": 1})
        with pytest.raises(VmmRefused, match="Invalid request method and/or path"):
            await vmm.api._request("GET", "/nowhere", None)
        with pytest.raises(VmmRefused):
            await vmm.pause()
        with pytest.raises(VmmRefused, match="number of vCPUs"):
            await vmm.api.put("machine-config", vcpu_count=33, mem_size_mib=64)


async def test_a_program_that_ends_at_once_is_named(tmp_path: Path) -> None:
    vmm = Firecracker(Path("/bin/false"), tmp_path / "fc.sock", "unit")
    read, write = os.pipe()
    try:
        with pytest.raises(DozlabError, match="firecracker ended with status 1"):
            await vmm.launch(write)
    finally:
        await vmm.end()
        os.close(read)
        os.close(write)


async def _answer_with(raw: bytes, path: Path) -> asyncio.Server:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(raw)
        writer.close()

    return await asyncio.start_unix_server(serve, str(path))


@pytest.mark.parametrize(
    "raw", [b"", b"HTTP/1.1 200 OK\r\n", b"SSH-2.0\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}"]
)
async def test_answers_that_are_cut_or_not_http(raw: bytes, tmp_path: Path) -> None:
    server = await _answer_with(raw, tmp_path / "s")
    async with server:
        with pytest.raises(ConnectionError):
            await FirecrackerApi(tmp_path / "s").connect()


@pytest.mark.parametrize("body", [b"{}", b'{"firecracker_version": "latest"}', b"[]"])
async def test_a_server_without_a_version_is_one_line(body: bytes, tmp_path: Path) -> None:
    raw = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    async with await _answer_with(raw, tmp_path / "s"):
        with pytest.raises(DozlabError, match="tells no version: not a Firecracker version"):
            await FirecrackerApi(tmp_path / "s").connect()


async def test_a_version_without_acpi_is_refused(tmp_path: Path) -> None:
    body = b'{"firecracker_version": "1.7.0"}'
    raw = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    async with await _answer_with(raw, tmp_path / "s"):
        with pytest.raises(DozlabError, match=r"1\.7\.0 is too old"):
            await FirecrackerApi(tmp_path / "s").connect()


@kvm
async def test_a_machine_that_never_ran_is_not_saved(firecracker: Path, tmp_path: Path, spec: Spec) -> None:
    async with launched(firecracker, tmp_path) as vmm:
        await vmm.configure(spec)
        (tmp_path / "out").mkdir()
        with pytest.raises(VmmRefused, match="PUT /snapshot/create"):
            await vmm.save(tmp_path / "out/state")
        assert list((tmp_path / "out").iterdir()) == []


@kvm
async def test_a_state_that_is_none_is_refused_in_one_line(firecracker: Path, tmp_path: Path, spec: Spec) -> None:
    (tmp_path / "state").write_bytes(b"no state" * 1000)
    (tmp_path / "memory").write_bytes(bytes(1 << 20))
    vmm = Firecracker(firecracker, tmp_path / "fc.sock", "unit")
    read, write = os.pipe()
    try:
        with pytest.raises(DozlabError) as caught:
            await vmm.restore(spec, write, tmp_path / "state")
        assert "\n" not in str(caught.value)
    finally:
        await vmm.end()
        os.close(read)
        os.close(write)
