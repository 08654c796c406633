"""Entry point of init-rootfs: base image, session disk, identity, rootfs.json; then it ends."""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from dozlab.init_rootfs import disk, fetch, identity
from dozlab.init_rootfs.settings import Settings, from_env
from dozlab.lib import files, log
from dozlab.lib.errors import DozlabError
from dozlab.lib.timeline import Timeline

logger = logging.getLogger(__name__)

NETWORK = "network.json"
"""What network-setup has written by then."""
HELP = """Make a session's disks and identity: the base image (fetched once per node, checked, unpacked),
the session disk, keys.
Environment: SESSION_ID, IMAGE_DOWNLOAD_URL (http, https, oci, file or a path; plain, .zst, .gz or .xz; several
addresses of one image, separated by spaces, are tried in turn), IMAGE_AUTH_FILE (credentials: netrc lines, a bearer
token or docker's config.json), IMAGE_CA_FILE (certificates believed beside the system's), IMAGE_SHA256 (of the unpacked
image), IMAGE_SIZE (4G: the session disk), IMAGE_PATH (a base to use as it is), KERNELS_DIR (/srv/vm/kernels),
KERNELS_SIZE_LIMIT (most an unpacked base may have), VM_DATA (/vm-data), SHARED_DIR (/shared), SSH_AUTHORIZED_KEYS,
VM_HOSTNAME, GATEWAY_IP, VM_IP, DNS_SERVERS, SESSION_UID (owner of what it makes), PREPARE_DIR (folder for the disk and
the identity of a second machine, which belongs to nobody and is saved for all: firecracker-vm --prepare). Of the usual
variables SSL_CERT_FILE, HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY count.
Exit status: 0 done, 1 failed, 2 bad environment, 128 + n ended by signal n."""


class Stopped(BaseException):
    """A signal asked us to end. No Exception, so that nothing takes it for a failure of its own on the way out."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _stop(number: int, frame: object) -> None:
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)  # one is enough: cleaning up is not to be cut short
    raise Stopped(number)


def prepare(settings: Settings, timeline: Timeline) -> str:
    """Make everything; return what was done, for people.

    :raises DozlabError: one line that says what to do
    """

    def report(line: str) -> None:
        logger.info("image: %s", line)
        timeline.add("rootfs", "start", line)

    base = fetch.base(settings, report)
    try:
        session = _lay(settings, base)
        if settings.prepare_dir:
            _make_snapshots_folder(settings)
            if session.what == "made":  # a disk that is kept boots: there is nothing to prepare for it
                _lay_spare(settings, settings.prepare_dir, base)
    finally:
        base.release()
    return f"base {base.digest[:12]} {base.how}, {session.line()}"


def _lay(settings: Settings, base: fetch.Base) -> disk.Disk:
    """Make disk, identity and rootfs.json; return the disk."""
    session = disk.prepare(settings, base.digest)
    identity.write(settings)
    rootfs = {
        "base": _relative(base.path, settings.kernels_dir),
        "digest": base.digest,
        "disk": str(session.path.relative_to(settings.vm_data)),
    }
    files.write_json(settings.shared_dir / "rootfs.json", rootfs)
    return session


def _lay_spare(settings: Settings, folder: Path, base: fetch.Base) -> None:
    """Make the same for the machine that is saved for all: with keys of its own, and no learner's.

    Without it nothing is saved; the session starts all the same.
    """
    spare = replace(
        settings, vm_data=folder, shared_dir=folder / "shared", hostname="prepared", session_id="prepared",
        authorized_keys=(),
    )  # fmt: skip
    try:
        spare.shared_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
        shutil.copyfile(settings.shared_dir / NETWORK, spare.shared_dir / NETWORK)
        _lay(spare, base)
    except (DozlabError, OSError) as error:
        for part in ("disk", "shared"):
            shutil.rmtree(folder / part, ignore_errors=True)
        logger.warning("no snapshot can be prepared: %s", error)


def _make_snapshots_folder(settings: Settings) -> None:
    """Make the folder as ours: the kubelet, which mounts it alone for who prepares, would make it root's."""
    folder = settings.kernels_dir / "snapshots"
    try:
        folder.mkdir(mode=0o755, exist_ok=True)
    except OSError as error:
        raise DozlabError(f"cannot make {folder}: {error.strerror}") from error


def _relative(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def main(argv: list[str] | None = None, environ: Mapping[str, str] | None = None) -> int:
    """Run the component and return its exit status."""
    parser = argparse.ArgumentParser("init-rootfs", description=HELP, formatter_class=argparse.RawTextHelpFormatter)
    parser.parse_args(argv)
    log.set_up("init-rootfs")
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # it logs whole URLs, tokens included
    started = time.monotonic()
    before = {each: signal.signal(each, _stop) for each in (signal.SIGTERM, signal.SIGINT)}
    timeline: Timeline | None = None
    try:
        settings = from_env(environ)
        os.umask(0o022)
        try:
            timeline = Timeline(settings.shared_dir)
            timeline.add("rootfs", "start")
        except OSError as error:
            timeline = None
            raise DozlabError(f"cannot write to {settings.shared_dir}: {error.strerror}") from error
        done = prepare(settings, timeline)
        timeline.add("rootfs", "done", done)
        logger.info("%s, in %.2f s", done, time.monotonic() - started)
    except DozlabError as error:
        print(f"init-rootfs: {error}", file=sys.stderr)  # noqa: T201  (the one line for people)
        if timeline:
            timeline.add("rootfs", "failed", str(error))
        return error.exit_code
    except Stopped as stopped:
        if timeline:
            timeline.add("rootfs", "failed", f"stopped by {signal.Signals(stopped.number).name}")
        return 128 + stopped.number
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    return 0


if __name__ == "__main__":
    sys.exit(main())
