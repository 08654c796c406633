"""The launcher: prepares one session's root disk in the host's network, then becomes its uplink and supervisor.

Started by `dozlab up` in a process session of its own, so that closing the terminal does not end the lab. It runs
init-rootfs here, not in the namespace, so that an image served on this machine's 127.0.0.1 can be fetched.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from dozlab.lib import files, log, paths, proc
from dozlab.lib.errors import BadUsage, DozlabError
from dozlab.lib.timeline import Timeline
from dozlab.session import pasta, state, vmm_choice
from dozlab.session.certificate import Copies
from dozlab.session.host import host_dns
from dozlab.session.layout import Layout
from dozlab.session.plan import Plan

logger = logging.getLogger(__name__)


def main(argv: list[str]) -> int:
    """Launch the session ID, whose lock is LOCK_FD; ends by becoming pasta.

    :param argv: ID, LOCK_FD
    """
    words = argv
    layout, lock_fd = Layout(words[0]), int(words[1])
    log.set_up("supervisor")
    signal.signal(signal.SIGTERM, _terminated)
    os.environ["SESSION_ID"] = layout.id
    try:
        facts = state.Facts.load(layout.facts)
        assert facts is not None
        plan = Plan.load(layout.plan)
        _init_rootfs(layout, plan, meanwhile=lambda: _choose_vmm(plan))
        _hand_over(layout, facts.uid, plan)
        _become_pasta(layout, facts, lock_fd)
    except _Terminated:
        _ended(layout, "stopped", "stopped while starting")
        return 0
    except DozlabError as error:
        logger.error("%s", error)
        _ended(layout, "failed", str(error), error.exit_code)
        return error.exit_code
    return 0


class _Terminated(BaseException):
    pass


def _terminated(_number: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _Terminated


def _ended(layout: Layout, how: str, reason: str, code: int = 0) -> None:
    with contextlib.suppress(FileNotFoundError):
        files.write_json(layout.end, {"state": how, "reason": reason, "t": state.now(), "code": code})


def _choose_vmm(plan: Plan) -> None:
    wanted = plan.environments["firecracker-vm"]
    decision = vmm_choice.decide(
        Path(plan.read_only["kit"]), vmm=wanted["VMM"], require_kvm=wanted["REQUIRE_KVM"] == "true"
    )
    logger.info("VMM: %s with %s: %s", decision.vmm, decision.accel, decision.reason)


def _init_rootfs(layout: Layout, plan: Plan, meanwhile: Callable[[], None]) -> None:
    """Run init-rootfs to its end, and something else beside it; it gets SIGTERM when we do.

    :raises DozlabError: with its last line
    """
    env = {
        **os.environ,
        **plan.environments["init-rootfs"],
        # Here it sees the host: its PATH, its HOME, the folders as they really are.
        **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
        "KERNELS_DIR": str(paths.cache() / "store"),
        "VM_DATA": str(layout.vm_data),
        "SHARED_DIR": str(layout.shared),
    }

    def run() -> int:
        from dozlab.init_rootfs.__main__ import main as init_rootfs

        os.environ.clear()
        os.environ.update(env)
        return init_rootfs([])

    child = proc.fork(run, output=layout.log("init-rootfs"))
    try:
        meanwhile()
        code = proc.wait_for(child)
    except BaseException:
        os.kill(child, signal.SIGTERM)
        if proc.wait_for(child, seconds=10) is None:
            os.kill(child, signal.SIGKILL)
            proc.wait_for(child)
        raise
    if code != 0:
        raise (BadUsage if code == 2 else DozlabError)(log.last_line(layout.log("init-rootfs")))


def _hand_over(layout: Layout, uid: int | None, plan: Plan) -> None:
    """Give the session's uid what its components write. Only paths of ours: nothing a guest could have linked."""
    parts = [layout.vm_data / name for name in ("disk", "workspace", "recordings")]
    for folder in (layout.vm_data, *parts, layout.coder, layout.shared):
        folder.mkdir(exist_ok=True, mode=0o700)
    shutil.copyfile(layout.password, layout.shared / "password")
    (layout.shared / "password").chmod(0o600)
    Copies(plan.certificate, layout.shared, uid).lay()
    if vmm_choice.cache_file().exists():
        shutil.copyfile(vmm_choice.cache_file(), layout.shared / "probe.json")
    if uid is None:
        return
    disk = layout.vm_data / "disk"
    for path in (layout.vm_data, *parts, layout.coder, layout.shared):
        os.chown(path, uid, uid)
    for path in (*disk.rglob("*"), *layout.shared.iterdir()):
        os.lchown(path, uid, uid)


def _become_pasta(layout: Layout, facts: state.Facts, lock_fd: int) -> None:
    """Replace ourselves by pasta, whose child is the supervisor. Returns only by raising."""
    os.set_inheritable(lock_fd, True)
    os.environ["DOZLAB_RUNTIME_DIR"] = str(paths.runtime())
    # Until the supervisor asks for SIGTERM itself, the end of pasta would leave it behind: PID 1 of a namespace ignores
    # signals it has no handler for, SIGKILL from outside apart (pid_namespaces(7)).
    supervisor = [
        proc.need("setpriv", "util-linux"), "--pdeathsig", "KILL", "--",
        proc.need("unshare", "util-linux"), "--mount", "--mount-proc", "--",
        sys.executable, "-m", "dozlab.session.supervisor", layout.id, str(lock_fd),
    ]  # fmt: skip
    words = pasta.argv(
        proc.need("pasta", "passt"), supervisor, root=os.getuid() == 0, publish=facts.address,
        ports=facts.ports.pairs(), dns=host_dns(), log=layout.log("pasta"),
    )  # fmt: skip
    Timeline(layout.shared).add("network", "start")
    # Debian 12's pasta takes an inherited SIG_IGN, which Python sets, for an error of its own signal set-up.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.execv(words[0], words)  # noqa: S606  (no shell is the point)
