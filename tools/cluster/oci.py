"""Writes OCI image archives of one layer, and the two images that the cluster needs. Knows nothing of containerd.

The format is the OCI image layout 1.0 in a tar: oci-layout, index.json, blobs/sha256/DIGEST.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.cluster import layout

from dozlab.lib.errors import DozlabError
from dozlab.lib.files import write_atomic

BUSYBOX = "localhost/dozlab-busybox:1"
DEVICE_PLUGIN = "localhost/generic-device-plugin:1"
HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Entry:
    """One file of a layer: content, or the target of a symbolic link, or neither: a folder."""

    data: bytes | None = None
    link: str = ""
    mode: int = 0o755


def layer(entries: Mapping[str, Entry]) -> bytes:
    """Return an uncompressed layer; the same entries give the same bytes.

    :param entries: path without leading slash -> what is there; folders on the way are made
    """
    whole = dict(entries)
    for path in entries:
        for parent in list(Path(path).parents)[:-1]:
            whole.setdefault(str(parent), Entry())
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(whole):
            entry, info = whole[path], tarfile.TarInfo(path)
            info.mode = entry.mode
            if entry.data is not None:
                info.size = len(entry.data)
                tar.addfile(info, io.BytesIO(entry.data))
            else:
                info.type = tarfile.SYMTYPE if entry.link else tarfile.DIRTYPE
                info.linkname = entry.link
                tar.addfile(info)
    return buffer.getvalue()


def folder_entries(folder: Path) -> dict[str, Entry]:
    """Return the entries of everything below `folder`, all owned by root."""
    entries = {}
    for path in sorted(folder.rglob("*")):
        name, mode = str(path.relative_to(folder)), path.lstat().st_mode & 0o7777
        if path.is_symlink():
            entries[name] = Entry(link=str(path.readlink()), mode=0o777)
        else:
            entries[name] = Entry(data=path.read_bytes() if path.is_file() else None, mode=mode)
    return entries


def archive(
    name: str,
    entries: Mapping[str, Entry],
    *,
    entrypoint: Sequence[str] = (),
    command: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    user: str = "",
    workdir: str = "",
) -> bytes:
    """Return an OCI archive of one layer.

    :param name: full name with a tag, as Pods write it; not `latest`, which would mean `imagePullPolicy: Always`
    """
    blobs: dict[str, bytes] = {}

    def blob(data: bytes, media: str) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        blobs[digest] = data
        return {"mediaType": f"application/vnd.oci.image.{media}", "digest": f"sha256:{digest}", "size": len(data)}

    content = layer(entries)
    config: dict[str, Any] = {
        "Entrypoint": list(entrypoint), "Cmd": list(command), "User": user, "WorkingDir": workdir,
        "Env": [f"{key}={value}" for key, value in (env or {}).items()],
    }  # fmt: skip
    image = {
        "architecture": "amd64", "os": "linux", "config": {key: value for key, value in config.items() if value},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(content).hexdigest()}"]},
    }  # fmt: skip
    manifest = {
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob(_json(image), "config.v1+json"), "layers": [blob(content, "layer.v1.tar")],
    }  # fmt: skip
    top = blob(_json(manifest), "manifest.v1+json")
    top["annotations"] = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}
    files = {f"blobs/sha256/{digest}": Entry(data, mode=0o644) for digest, data in blobs.items()}
    files["oci-layout"] = Entry(_json({"imageLayoutVersion": "1.0.0"}), mode=0o644)
    files["index.json"] = Entry(_json({"schemaVersion": 2, "manifests": [top]}), mode=0o644)
    return layer(files)


def busybox(file: Path) -> str:
    """Write an image with every applet of Debian's busybox-static and return its name.

    :raises DozlabError: when busybox-static is not installed
    """
    program = Path("/bin/busybox")
    if not program.exists():
        raise DozlabError("/bin/busybox is not there", hint="run: sudo apt-get install busybox-static")
    listed = subprocess.run([program, "--list"], capture_output=True, text=True, check=True).stdout.split()
    entries = {f"bin/{applet}": Entry(link="busybox") for applet in listed}
    entries["bin/busybox"] = Entry(program.read_bytes())
    entries["etc/passwd"] = Entry(b"root:x:0:0::/:/bin/sh\nlab:x:1000:1000::/tmp:/bin/sh\n", mode=0o644)
    entries["etc/group"] = Entry(b"root:x:0:\nlab:x:1000:\n", mode=0o644)
    # A static program may not load the modules that glibc asks for when this file is missing.
    entries["etc/nsswitch.conf"] = Entry(b"hosts: files dns\n", mode=0o644)
    entries |= {"tmp": Entry(mode=0o1777), "dev": Entry(), "proc": Entry(), "sys": Entry()}
    write_atomic(file, archive(BUSYBOX, entries, command=["/bin/sh"], env={"PATH": "/bin"}))
    return BUSYBOX


def device_plugin(file: Path, programs: Path) -> str:
    """Write an image of the device plugin, which takes the options of squat's; return its name."""
    program = (programs / "device-plugin").read_bytes()
    write_atomic(file, archive(DEVICE_PLUGIN, {"device-plugin": Entry(program)}, entrypoint=["/device-plugin"]))
    return DEVICE_PLUGIN


def pause(file: Path) -> str:
    """Compile pause.c, write the image that holds each Pod's namespaces open, and return its name.

    :raises DozlabError: when there is no C compiler
    """
    with tempfile.TemporaryDirectory(prefix=".pause-", dir=file.parent) as work:
        program = Path(work) / "pause"
        argv = ["gcc", "-Os", "-static", "-s", "-o", str(program), str(HERE / "pause.c")]
        try:
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            raise DozlabError("gcc is not installed", hint="run: sudo apt-get install build-essential") from error
        if done.returncode:
            raise DozlabError(f"compiling pause.c failed: {(done.stderr.strip() or '?').splitlines()[-1]}")
        data = archive(layout.PAUSE, {"pause": Entry(program.read_bytes())}, entrypoint=["/pause"], user="65535:65535")
    write_atomic(file, data)
    return layout.PAUSE


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
