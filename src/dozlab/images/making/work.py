"""The folder that an image is made in: removed on every path, and by the next one where its process was killed.

Who makes an image holds flock(2) on the folder. Sources: flock(2), unshare(1), user_namespaces(7).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from dozlab.lib.errors import DozlabError
from dozlab.lib.proc import run

_PREFIX = "dozlab-work."
_FRESH = 60.0  # seconds in which a new folder is not yet held


def as_root() -> list[str]:
    """Return the words before a command that must see uid 0 and the subuids: none as root."""
    if os.geteuid() == 0:
        return []
    return ["unshare", "--user", "--map-auto", "--map-root-user", "--"]


@contextlib.contextmanager
def work_folder(cache: Path, what: str) -> Iterator[Path]:
    """Yield a new folder that is removed on every path, files of our subuids included; a killed one's goes, too.

    :param what: is done in it, `build` or `import`: for messages
    :raises DozlabError: when it cannot be made, and for what the disk refuses meanwhile
    """
    base = cache / "build"
    # As an ordinary user: where our subuids may enter, which a home folder often forbids.
    place = base if os.geteuid() == 0 else Path("/var/tmp")  # noqa: S108
    try:
        place.mkdir(parents=True, exist_ok=True)
        _sweep(place)
        work = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
        work.chmod(0o711)
    except OSError as error:
        raise DozlabError(f"cannot write to {place}: {error.strerror}") from error
    try:
        with _held(work):
            yield work
    except OSError as error:
        raise DozlabError(f"cannot {what}: {error.strerror}: {error.filename or work}") from error
    finally:
        _remove(work)


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold flock(2) on a folder.

    :raises BlockingIOError: when somebody else does
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(fd)


def _sweep(place: Path) -> None:
    """Remove our folders that nobody holds any more: their process was killed."""
    for folder in place.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            told = folder.lstat()
            if told.st_uid == os.geteuid() and time.time() - told.st_mtime > _FRESH:
                with _held(folder):
                    _remove(folder)


def _remove(folder: Path) -> None:
    run([*as_root(), "rm", "-rf", "--one-file-system", folder], timeout=300, check=False)
