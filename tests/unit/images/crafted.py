"""Archives made entry by entry: layers, root file systems, OCI layouts and what `docker save` writes."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

Entry = tuple[tarfile.TarInfo, bytes]
AMD64 = {"os": "linux", "architecture": "amd64"}
OCI = "application/vnd.oci.image"


def entry(name: str, kind: bytes, data: bytes = b"", *, mode: int = 0o644, to: str = "", **more: Any) -> Entry:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.size, info.linkname = kind, mode, len(data), to
    info.uid, info.gid, info.mtime = os.getuid(), os.getgid(), 1_000_000_000
    for field, value in more.items():
        setattr(info, field, value)
    return info, data


def file(name: str, data: bytes | str = b"", **more: Any) -> Entry:
    return entry(name, tarfile.REGTYPE, data.encode() if isinstance(data, str) else data, **more)


def folder(name: str, *, mode: int = 0o755, **more: Any) -> Entry:
    return entry(name, tarfile.DIRTYPE, mode=mode, **more)


def link(name: str, to: str, **more: Any) -> Entry:
    return entry(name, tarfile.SYMTYPE, to=to, mode=0o777, **more)


def hard(name: str, to: str) -> Entry:
    return entry(name, tarfile.LNKTYPE, to=to)


def tar(*entries: Entry) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as made:
        for info, data in entries:
            made.addfile(info, io.BytesIO(data))
    return out.getvalue()


def machine(*, without: str = "") -> list[Entry]:
    """Return the entries of a system that has all a machine needs, but for those whose name has `without` in it."""
    status = (
        "Package: dash\nStatus: install ok installed\nDepends: a\nVersion: 0.5\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n"
    )
    entries = [
        folder("./usr/bin"), folder("./usr/sbin"), folder("./usr/lib/systemd"), folder("./etc"),
        link("./bin", "usr/bin"), link("./sbin", "usr/sbin"), link("./lib", "usr/lib"),
        file("./usr/bin/sh", b"\x7fELF" + bytes(14) + b"\x3e\0", mode=0o755),
        file("./usr/lib/systemd/systemd", "x", mode=0o755), link("./usr/sbin/init", "../lib/systemd/systemd"),
        file("./usr/lib/systemd/systemd-udevd", "x", mode=0o755), file("./usr/sbin/sshd", "x", mode=0o755),
        link("./etc/systemd/system/multi-user.target.wants/ssh.service", "/usr/lib/systemd/system/ssh.service"),
        file("./etc/os-release", 'ID=ubuntu\nID_LIKE="debian"\n'), file("./var/lib/dpkg/status", status),
        file("./etc/machine-id", "0123\n"), file("./etc/ssh/ssh_host_rsa_key", "secret"),
        file("./.dockerenv"), file("./etc/hosts"), file("./etc/resolv.conf"), file("./etc/hostname", "builder\n"),
        file("./usr/sbin/policy-rc.d", "#!/bin/sh\n# none\nexit 101\n", mode=0o755), file("./run/leftover", "x"),
    ]  # fmt: skip
    return [each for each in entries if not without or without not in each[0].name]


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Layout:
    """An OCI layout in memory: `files` by name; change them to make it a bad one."""

    def __init__(
        self, *layers: bytes, pack: Callable[[bytes], bytes] = bytes, suffix: str = "", env: list[str] | None = None,
        platform: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.files: dict[str, bytes] = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}'}
        self.platform = platform or AMD64
        self.packed = [self.put(pack(each)) | {"mediaType": f"{OCI}.layer.v1.tar{suffix}"} for each in layers]
        config = {**self.platform, "config": {"Env": env}, "rootfs": {"diff_ids": [digest(each) for each in layers]}}
        self.config = self.put(json.dumps(config).encode()) | {"mediaType": f"{OCI}.config.v1+json"}
        self.manifest = {"schemaVersion": 2, "config": self.config, "layers": self.packed}
        self.finish()

    def finish(self, **more: Any) -> None:
        """Write manifest and index anew; `more` goes into the manifest."""
        self.told = self.put(json.dumps({**self.manifest, **more}).encode())
        self.index(self.told | {"mediaType": f"{OCI}.manifest.v1+json", "platform": self.platform})

    def index(self, *descriptors: dict[str, Any]) -> None:
        self.files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": descriptors}).encode()

    def put(self, data: bytes) -> dict[str, Any]:
        self.files[f"blobs/{digest(data).replace(':', '/')}"] = data
        return {"digest": digest(data), "size": len(data)}

    def archive(self) -> bytes:
        return tar(*(file(name, data) for name, data in self.files.items()))

    def write(self, folder: Path) -> Path:
        for name, data in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        return folder


def docker_archive(*layers: bytes, env: list[str] | None = None) -> bytes:
    """Return what `docker save` wrote until version 24: a repeated layer is a link to the first one's file."""
    config = json.dumps(
        {**AMD64, "config": {"Env": env}, "rootfs": {"diff_ids": [digest(each) for each in layers]}}
    ).encode()
    entries, first = [file("c.json", config)], dict[bytes, str]()
    for number, layer in enumerate(layers):
        name = f"{number}/layer.tar"
        entries.append(link(name, f"../{first[layer]}") if layer in first else file(name, layer))
        first.setdefault(layer, name)
    told = [{"Config": "c.json", "RepoTags": ["a:1"], "Layers": [f"{n}/layer.tar" for n in range(len(layers))]}]
    return tar(*entries, file("manifest.json", json.dumps(told)))
