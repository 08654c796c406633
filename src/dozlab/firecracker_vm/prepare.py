"""Makes the snapshot that a node's sessions begin from: boots the image once, for nobody, and saves it (`--prepare`).

In a Pod this is a container of its own, which ends before the session's machine begins: the only one that writes
SNAPSHOTS_DIR, and no learner has ever been in it. Of the node it can write nothing else, so that is where attempts are
made, too. Whatever fails here, the session boots all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from dozlab.firecracker_vm import inputs
from dozlab.firecracker_vm.inputs import Inputs
from dozlab.firecracker_vm.machine import Spec
from dozlab.firecracker_vm.prepared import Prepared
from dozlab.firecracker_vm.probe import Decision, decide
from dozlab.firecracker_vm.settings import Settings
from dozlab.firecracker_vm.snapshot import SessionDisk
from dozlab.firecracker_vm.supervise import Supervisor
from dozlab.images.snapshots import DESCRIPTION, Needs, Snapshots, Unfit, key
from dozlab.lib import tasks
from dozlab.lib.errors import DozlabError
from dozlab.lib.files import Busy, locked, read_json, write_json
from dozlab.lib.units import MIB, format_seconds, format_size

log = logging.getLogger(__name__)

RETRY_AFTER = 3600.0
"""Seconds until an image that could not be prepared is tried again: each attempt keeps a learner waiting."""
ROOM = 512 * MIB
"""Free space that an attempt needs beside the guest's memory: its disk, twice."""
_ATTEMPT, _FAILED, _LOCK = ".prepare-", ".failed.", ".prepare.lock"
"""Names in SNAPSHOTS_DIR; what begins with a point is no snapshot."""


async def run(settings: Settings) -> int:
    """Make the snapshot, unless there is one, and return 0: without one the session boots."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    making = tasks.start(make(settings), name="prepare", guard=False)
    stopping = tasks.start(stop.wait(), name="stop", guard=False)
    try:
        await asyncio.wait({making, stopping}, return_when=asyncio.FIRST_COMPLETED)
        log.info("%s", making.result() if making.done() else "asked to stop: no snapshot is made")
    except (DozlabError, OSError) as error:
        log.warning("the session boots: %s", error)
    finally:
        await tasks.stop([making, stopping], timeout=15.0)
    return 0


async def make(settings: Settings) -> str:
    """Return in one line what there is now.

    :raises DozlabError: in one line, why there is no snapshot
    :raises OSError: when the store cannot be written
    """
    if not settings.snapshots:
        raise DozlabError("SNAPSHOTS_DIR is not set")
    if not (settings.shared / "rootfs.json").exists():
        return "nothing to prepare: the session boots from a disk of its own, or init-rootfs says why there is none"
    store = Snapshots(settings.snapshots)
    decision = await decide(settings)
    found = inputs.collect(settings, decision.vmm)
    wanted = _needs(settings, decision, found)
    if _has(store, wanted):
        return "a snapshot for this session is there"
    store.folder.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(store.folder / _LOCK, wait=False))
        except Busy:
            return "another session of this node is making a snapshot: this one boots"
        if _has(store, wanted):
            return "a snapshot for this session is there"
        _sweep(store.folder)
        _check(settings, found, store.folder)
        failed = store.folder / f"{_FAILED}{key(wanted)}"
        if told := read_json(failed):
            raise DozlabError(f"the last attempt failed: {told.get('why')}")
        try:
            return await _boot(settings, decision, found, store)
        except DozlabError as error:
            write_json(failed, {"why": str(error)})
            raise


def _needs(settings: Settings, decision: Decision, found: Inputs) -> Needs:
    spec = Spec(found.kernel, found.initrd, "", found.drives, settings.cpus, settings.memory, settings.tap, "")
    return Prepared(settings, decision).prepared_needs(spec)


def _has(store: Snapshots, wanted: Needs) -> bool:
    try:
        store.find(wanted)
    except Unfit:
        return False
    return True


def _check(settings: Settings, found: Inputs, store: Path) -> None:
    """Check that an attempt can succeed.

    :raises DozlabError: when it cannot
    """
    if not SessionDisk(found.drives[-1].path).fresh:
        raise DozlabError("an attempt of this Pod was killed, and its disk is of no use any more")
    free, wanted = shutil.disk_usage(store).free, settings.memory * MIB + ROOM
    if free < wanted:
        raise DozlabError(f"{store} has {format_size(free)} free, and {format_size(wanted)} are needed")


async def _boot(settings: Settings, decision: Decision, found: Inputs, store: Snapshots) -> str:
    begun = time.monotonic()
    log.info("%s (%s) boots the image once, to save it: %s", decision.vmm, decision.accel, decision.reason)
    with _folder(store.folder) as out:
        saving = replace(settings, snapshot_out=out, workspace_port=0, relay_port=0, idle_pause=0)
        supervisor = Supervisor(saving, decision)
        try:
            async with asyncio.timeout(settings.prepare_timeout):
                await supervisor.run()
        except TimeoutError as error:
            limit = format_seconds(settings.prepare_timeout)
            raise DozlabError(f"the image was not ready after {limit} (snapshot.prepareTimeout)") from error
        finally:
            found.drives[-1].path.unlink(missing_ok=True)  # it was blank before: nobody's
        if not (out / DESCRIPTION).exists():
            raise DozlabError(supervisor.life.reason)
        for path in out.iterdir():
            path.chmod(0o644)  # for every session of the node, whatever its user
        made = store.add(out)
        gone = store.limit(settings.snapshots_limit)
    words = f"prepared: {format_size(made.size)} in {format_seconds(time.monotonic() - begun)}"
    return words + (f"; {len(gone)} older had to go (snapshot.sizeLimit)" if gone else "")


@contextlib.contextmanager
def _folder(store: Path) -> Iterator[Path]:
    """Yield a new folder beside the snapshots; it is gone afterwards, unless it has become one."""
    folder = Path(tempfile.mkdtemp(prefix=_ATTEMPT, dir=store))
    try:
        folder.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(store: Path) -> None:
    """Remove what a killed attempt has left, and failures long ago; nobody else is at it."""
    for folder in store.glob(f"{_ATTEMPT}*"):
        shutil.rmtree(folder, ignore_errors=True)
    for path in store.glob(f"{_FAILED}*"):
        if time.time() - path.stat().st_mtime > RETRY_AFTER:
            path.unlink(missing_ok=True)
