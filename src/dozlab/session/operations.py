"""What one can do to a session from outside: up, down. Reports through callbacks; prints nothing itself."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import string
import time
from collections.abc import Callable, Iterator
from typing import Any

from dozlab import values as values_module
from dozlab.firecracker_vm.checkpoints import SAVE_LIMIT
from dozlab.lib import control, files, paths, proc
from dozlab.lib.errors import BadUsage, DozlabError
from dozlab.lib.timeline import Entry
from dozlab.session import certificate, environment, launch, planning, preflight, resources, state
from dozlab.session.layout import COMPONENTS, Layout, check_id
from dozlab.session.ports import NONE, choose

Progress = Callable[[str], None]
RESET_LIMIT = 420.0
"""Seconds from a reset until SSH must answer: a whole boot, emulated on a busy machine."""
STOP_LIMIT = 90.0
"""Seconds an orderly stop may take before the session's processes are ended by force."""


def start(
    session_id: str,
    raw: dict[str, Any],
    *,
    image: str,
    progress: Progress,
    make_plan: planning.PlanMaker = planning.make_plan,
    publish: bool = True,
) -> Layout:
    """Create or restart a session and return once its launcher runs.

    :param raw: values with the chart's names, laid over those of a stopped session of this id
    :param image: image name of the store, URL or file; empty takes `rootfs.imageUrl`, else the default image
    :param make_plan: for a start that differs from others in what is not a value, and is not kept
    :param publish: give it ports of this host
    :raises BadUsage: bad id or values; nothing was changed
    :raises DozlabError: it runs already, or the machine lacks something
    """
    layout = Layout(check_id(session_id))
    if state.alive(layout):
        raise DozlabError(f"session {session_id} is already running", hint=f"see it: dozlab status {session_id}")
    kept = files.read_json(layout.values) or {}
    asked = raw.get("rootfs")
    if image or (isinstance(asked, dict) and asked.get("imageUrl")):
        for name in ("sha256", "mirrors"):  # of the image that was used before
            kept.get("rootfs", {}).pop(name, None)
    raw = values_module.merge(values_module.merge(kept, raw), {"session": {"id": session_id}})
    values = values_module.parse(raw)
    certificate.check(values.terminal.tls)
    preflight.check(values)
    raw = _with_image(raw, values, image)
    values = values_module.parse(raw)
    found = resources.ensure(values, progress)
    with state.registry(), _lock(layout) as lock_fd, _whole() as mask:
        facts = _create(layout, raw, values, found, make_plan, publish=publish)
        _spawn(layout, facts, lock_fd, mask)
    return layout


@contextlib.contextmanager
def _whole() -> Iterator[set[int]]:
    """Let a Ctrl-C wait until a session is there and its launcher known, or neither; yields the mask of before."""
    mask = {*map(int, signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM}))}
    try:
        yield mask
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextlib.contextmanager
def _lock(layout: Layout) -> Any:
    try:
        with files.locked(layout.lock, wait=False) as fd:
            yield fd
    except files.Busy as error:
        raise DozlabError(
            f"session {layout.id} is being started or stopped by somebody else",
            hint=f"see it: dozlab status {layout.id}",
        ) from error


def _with_image(raw: dict[str, Any], values: values_module.Values, image: str) -> dict[str, Any]:
    from dozlab.session import image_choice

    url, sha256 = image_choice.choose(image or values.rootfs.image_url, values.rootfs.sha256, paths.cache() / "store")
    own = {"imageUrl": url, "sha256": sha256, **({"mirrors": []} if image else {})}
    raw = image_choice.with_defaults(raw, sha256, paths.cache() / "store")
    return values_module.merge(raw, {"rootfs": own})


def _create(
    layout: Layout,
    raw: dict[str, Any],
    values: values_module.Values,
    found: dict[str, str],
    make_plan: planning.PlanMaker,
    *,
    publish: bool,
) -> state.Facts:
    """Make the session's folders and write down what was chosen. A failure leaves nothing new behind."""
    old = state.Facts.load(layout.facts)
    proxy = environment.serves_ports(values)
    ports = choose(values.publish, state.promised_ports(), proxy=proxy) if publish else NONE
    uid = None if os.getuid() != 0 else old.uid if old else state.free_uid()
    fresh = not layout.state.exists()
    try:
        for folder in (layout.state, layout.vm_data, layout.coder, layout.logs):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (layout.run.parent, layout.run, layout.shared):
            folder.mkdir(mode=0o700, exist_ok=True)
        # A restart begins its story anew.
        told = (layout.shared / "timeline.jsonl", layout.shared / "network.json")
        for path in (layout.end, *told, *(layout.log(name) for name in COMPONENTS)):
            path.unlink(missing_ok=True)
        _keep_password(layout, values)
        shown = values_module.merge(raw, {})
        shown.get("codeServer", {}).pop("password", None)
        files.write_json(layout.values, shown, mode=0o600)
        facts = state.Facts(layout.id, ports, values.publish.address, uid, 0, state.now(), found)
        facts.save(layout.facts)
        make_plan(layout, facts, values).save(layout.plan)
    except BaseException:
        if fresh:
            state.remove(layout)
        raise
    return facts


def _keep_password(layout: Layout, values: values_module.Values) -> None:
    """Write the session's password (0600): the one given, the one of before a stop, or a new one of 77 bits."""
    given = values.code_server.password.get_secret_value()
    saved = layout.state / "password"
    if not given and saved.exists():
        given = saved.read_text()
    if not given:
        alphabet = string.ascii_lowercase + string.digits
        given = "-".join("".join(secrets.choice(alphabet) for _ in range(5)) for _ in range(3))
    files.write_atomic(saved, given, mode=0o600)
    files.write_atomic(layout.password, given, mode=0o600)


def _spawn(layout: Layout, facts: state.Facts, lock_fd: int, mask: set[int]) -> None:
    """Start the launcher, detached, holding the session's lock, with a signal mask of its own."""

    def begin() -> int:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return launch.main([layout.id, str(lock_fd)])

    pid = proc.fork(begin, output=layout.log("supervisor"), keep=(lock_fd,), detached=True)
    state.Facts(**{**facts.__dict__, "pid": pid}).save(layout.facts)


class Watch:
    """Follows a session's start: `new()` gives timeline entries not seen before."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.entries: list[Entry] = []

    def new(self) -> list[Entry]:
        """Return what has happened since the last call."""
        entries = state.timeline(self.layout).read()
        fresh, self.entries = entries[len(self.entries) :], entries
        return fresh

    def done(self, *stages: str) -> bool:
        """Tell whether all these stages are done."""
        finished = {entry.stage for entry in self.entries if entry.event == "done"}
        return finished.issuperset(stages)

    def failed(self, stage: str) -> str:
        """Return why a stage failed, empty when it did not (or has come right since)."""
        own = [entry for entry in self.entries if entry.stage == stage]
        return own[-1].detail if own and own[-1].event == "failed" else ""

    def check(self) -> None:
        """Raise when the session has ended.

        :raises DozlabError: with its reason
        """
        if not state.alive(self.layout):
            end = files.read_json(self.layout.end) or {}
            reason = end.get("reason") or state.died(self.layout)
            kind = BadUsage if end.get("code") == BadUsage.exit_code else DozlabError
            raise kind(f"session {self.layout.id} did not start: {reason}")


def stop(layout: Layout, *, graceful: bool, progress: Progress) -> None:
    """End a session's processes and wait until the last is gone. Quiet when it is not running.

    :param graceful: let the guest shut down in order, since its disk is kept
    :raises DozlabError: when something does not end even by force
    """
    if not state.alive(layout):
        return
    progress(f"stopping {layout.id}")
    with contextlib.suppress(DozlabError):
        asyncio.run(control.call(layout.control, "stop", graceful=graceful))
        if _gone(layout, STOP_LIMIT if graceful else 20.0):
            return
    facts = state.Facts.load(layout.facts)
    leader = facts.pid if facts else 0
    for number, limit in ((signal.SIGTERM, 15.0), (signal.SIGKILL, 10.0)):
        told: set[int] = set()
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            members = set(state.members(leader))  # a launcher that has just been started leads nobody yet
            for pid in (members if number == signal.SIGKILL else members & {leader}) - told:
                told.add(pid)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            if not state.alive(layout):
                return
            time.sleep(0.05)
    raise DozlabError(
        f"session {layout.id} does not end", hint=f"see which process holds {layout.lock}: fuser -v {layout.lock}"
    )


def _gone(layout: Layout, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not state.alive(layout):
            return True
        time.sleep(0.05)
    return False


def down(layout: Layout, *, keep: bool, progress: Progress) -> None:
    """Stop a session; unless `keep`, remove its disk, workspace and logs too."""
    stop(layout, graceful=keep, progress=progress)
    if keep:
        return
    with state.registry():
        if state.alive(layout):
            raise DozlabError(f"session {layout.id} was started again meanwhile")
        state.remove(layout)


def values_of(layout: Layout) -> values_module.Values:
    """Return the values a session was started with."""
    return values_module.parse(json.loads(layout.values.read_text()))


def address(session_id: str, urls: dict[str, str], service: str) -> str:
    """Return where a service of a session is reached.

    :param urls: of `state.urls`
    :raises DozlabError: when nothing of it is published
    """
    if service not in urls:
        raise DozlabError(f"session {session_id} is being saved: nobody gets in", hint="run: dozlab ls")
    return urls[service]


async def _vm(layout: Layout, verb: str, **arguments: Any) -> dict[str, Any]:
    if not state.alive(layout):
        raise DozlabError(f"session {layout.id} is not running", hint=f"start it: dozlab up {layout.id}")
    return await control.call(layout.shared / "vm.sock", verb, timeout=SAVE_LIMIT, **arguments)


def pause(layout: Layout) -> None:
    """Stop the machine's processors; memory, disk and all that runs in it stay as they are.

    :raises DozlabError: when it is not running
    """
    asyncio.run(_vm(layout, "pause"))


def resume(layout: Layout) -> None:
    """Let a paused machine go on; its clock is set right.

    :raises DozlabError: when it is not paused
    """
    asyncio.run(_vm(layout, "resume"))


def checkpoint(layout: Layout, name: str) -> int:
    """Save the running machine under a name; it stands still meanwhile. Return the bytes it takes.

    :raises DozlabError: in one line, why there is none; one of the same name is as it was
    """
    told = asyncio.run(_vm(layout, "checkpoint", name=name))
    return next(int(each["size"]) for each in told["checkpoints"] if each["name"] == name)


def forget(layout: Layout, name: str) -> None:
    """Remove a checkpoint.

    :raises DozlabError: when there is none of this name
    """
    asyncio.run(_vm(layout, "forget", name=name))


def reset(layout: Layout, name: str) -> dict[str, Any]:
    """Set the machine back to a checkpoint, or with no name to the clean image; return its status once SSH answers.

    :raises DozlabError: when that is not possible, and nothing has changed; or when it does not come back
    """
    boots = int(asyncio.run(_vm(layout, "reset", name=name))["boots"])
    deadline = time.monotonic() + RESET_LIMIT
    while time.monotonic() < deadline:
        told: dict[str, Any] = {}
        with contextlib.suppress(DozlabError):  # a busy machine, or the end that `alive` sees
            told = asyncio.run(_vm(layout, "status"))
        if told.get("ssh") and int(told["boots"]) > boots:
            return told
        if not state.alive(layout):
            end = files.read_json(layout.end) or {}
            raise DozlabError(f"session {layout.id} ended: {end.get('reason') or state.died(layout)}")
        time.sleep(0.05)
    raise DozlabError(
        f"session {layout.id} does not answer {RESET_LIMIT:.0f} s after the reset",
        hint=f"see why: dozlab logs {layout.id} -c firecracker-vm",
    )


def ssh_argv(layout: Layout, command: list[str]) -> list[str]:
    """Return ssh(1)'s command line into the guest: the session's key, its pinned host key."""
    facts = state.Facts.load(layout.facts)
    assert facts is not None
    values = values_of(layout)
    host = address(layout.id, state.urls(facts), "ssh").rpartition("@")[2]
    return [
        proc.need("ssh", "openssh-client"), "-F", "none", "-i", str(layout.shared / "id_ed25519"),
        "-o", "IdentitiesOnly=yes",
        "-o", f"UserKnownHostsFile={layout.shared / 'known_hosts'}", "-o", f"HostKeyAlias={values.network.vm_ip}",
        "-o", "StrictHostKeyChecking=yes", "-o", "LogLevel=ERROR", "-p", str(facts.ports.ssh), f"root@{host}", *command,
    ]  # fmt: skip
