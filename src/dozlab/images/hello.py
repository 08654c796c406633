"""The container image `hello-world` that comes with the base: a docker-archive made byte by byte. Pure.

A static x86-64 program of a few hundred bytes prints a message and ends, so that `docker run hello-world` proves
Docker with no registry and no network. Sources: elf(5); Docker Image Specification v1.2, "combined image JSON +
filesystem changeset format" (what `docker load` reads).
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import tarfile

NAME = "hello-world:latest"
MESSAGE = """
Hello from Docker in your Dozlab machine!

This message means that Docker works here:
 1. the docker command reached the Docker daemon of this machine,
 2. the daemon made a container from the image "hello-world", which came with the machine,
 3. the container ran the program that printed these lines, and ended.

Next, look at what just happened:
 $ docker ps --all
 $ docker image ls

"""
_BASE = 0x400000
_CREATED = "2025-08-09T00:00:00Z"


def program(message: str = MESSAGE) -> bytes:
    """Return a static ELF64 executable for Linux x86-64 that writes `message` to stdout and exits with status 0."""
    text = message.encode()
    header = 64 + 56
    code_size = 34
    code = b"".join(
        (
            b"\xb8\x01\x00\x00\x00",  # mov eax, 1 (write)
            b"\xbf\x01\x00\x00\x00",  # mov edi, 1 (stdout)
            b"\xbe" + struct.pack("<I", _BASE + header + code_size),  # mov esi, message
            b"\xba" + struct.pack("<I", len(text)),  # mov edx, length
            b"\x0f\x05",  # syscall
            b"\xb8\x3c\x00\x00\x00",  # mov eax, 60 (exit)
            b"\xbf\x00\x00\x00\x00",  # mov edi, 0
            b"\x0f\x05",  # syscall
        )
    )
    assert len(code) == code_size
    size = header + code_size + len(text)
    ident = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    elf = struct.pack("<16sHHIQQQIHHHHHH", ident, 2, 62, 1, _BASE + header, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)
    return elf + load + code + text


def archive(name: str = NAME, message: str = MESSAGE) -> bytes:
    """Return a docker-archive (tar) with one image of one layer; the same bytes for the same arguments."""
    layer = _tar({"hello": (program(message), 0o755)})
    diff_id = f"sha256:{hashlib.sha256(layer).hexdigest()}"
    config = json.dumps(
        {
            "architecture": "amd64",
            "config": {"Cmd": ["/hello"], "WorkingDir": "/"},
            "created": _CREATED,
            "history": [{"created": _CREATED, "created_by": "dozlab"}],
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        },
        sort_keys=True,
    ).encode()
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = json.dumps([{"Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"]}]).encode()
    return _tar({config_name: (config, 0o644), "layer.tar": (layer, 0o644), "manifest.json": (manifest, 0o644)})


def _tar(files: dict[str, tuple[bytes, int]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, (data, mode) in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), mode
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()
