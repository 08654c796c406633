"""A process without OpenSSL still runs what long-lived components need."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import sys
from dozlab.lib import lean
getattr(lean, sys.argv[2])()
import asyncio, hashlib, importlib, re
importlib.import_module(sys.argv[1])
maps = open("/proc/self/maps").read()
for library in ("libssl", "libcrypto", "liblzma", "libbz2"):
    assert library not in maps, library
assert hashlib.sha256(b"").hexdigest().startswith("e3b0c442")
async def echo():
    child = await asyncio.create_subprocess_exec("true")
    assert await child.wait() == 0
asyncio.run(echo())
"""


@pytest.mark.parametrize(
    ("module", "how"),
    [
        ("dozlab.session.supervisor", "without_openssl"),
        ("dozlab.firecracker_vm.__main__", "without_openssl"),
        ("dozlab.code_server.__main__", "without_openssl"),
        ("dozlab.terminal_sidecar.server", "with_ssl_in_name_only"),
    ],
)
def test_long_lived_processes_do_without_openssl(module: str, how: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE, module, how], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
