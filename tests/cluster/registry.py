"""A registry on the node that wants TLS, with a certificate of its own, and a login: as Pods reach it."""

from __future__ import annotations

import base64
import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dozlab.lib.proc import need
from tests.certificates import write_pair
from tests.support import free_port, until

USER, WORD = "anna", "word"
HASHED = f"{USER}:$2b$05$abcdefghijklmnopqrstuuQDoL5Sa/TtfS/XN4AY/jgq.HBbO1BTu"
"""A line of htpasswd, for WORD."""


@dataclass(frozen=True)
class Registry:
    """Where it is, its certificate, and docker's config.json for it."""

    address: str
    ca: Path
    login: Path


@contextmanager
def registry(host: str, folder: Path) -> Iterator[Registry]:
    """Run it on an address of this machine."""
    cert, key = write_pair(folder, host)
    address = f"{host}:{free_port(host)}"
    (folder / "htpasswd").write_text(HASHED + "\n")
    config = {
        "version": 0.1,
        "log": {"accesslog": {"disabled": True}, "level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "registry")}},
        "auth": {"htpasswd": {"realm": "here", "path": str(folder / "htpasswd")}},
        "http": {"addr": address, "tls": {"certificate": cert, "key": key}},
    }
    (folder / "registry.yml").write_text(json.dumps(config))
    auth = base64.b64encode(f"{USER}:{WORD}".encode()).decode()
    (folder / "config.json").write_text(json.dumps({"auths": {address: {"auth": auth}}}))
    child = subprocess.Popen(
        [need("docker-registry", "docker-registry"), "serve", str(folder / "registry.yml")],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={"OTEL_TRACES_EXPORTER": "none"},
    )  # fmt: skip

    def answers() -> bool:
        assert child.poll() is None, "the registry has ended"
        with socket.socket() as probe:
            return probe.connect_ex((host, int(address.rpartition(":")[2]))) == 0

    try:
        until(answers, what="the registry's answer", seconds=90)
        yield Registry(address, Path(cert), folder / "config.json")
    finally:
        child.terminate()
        child.wait(60)
