"""`python -m dozlab.firecracker_vm`: run a session's VM until it ends. The environment is the interface."""

from __future__ import annotations

if __name__ == "__main__":  # before asyncio is imported
    from dozlab.lib import lean

    lean.without_openssl()

import asyncio
import logging
import signal
import sys

from dozlab.firecracker_vm.probe import decide
from dozlab.firecracker_vm.settings import HELP, Settings
from dozlab.firecracker_vm.supervise import Supervisor
from dozlab.lib import log as logs
from dozlab.lib import tasks
from dozlab.lib.errors import DozlabError
from dozlab.lib.timeline import Timeline

log = logging.getLogger(__name__)


def _verb(words: list[str]) -> str:
    """Return `run`, `probe`, `prepare`, or `ask` for a verb of the machine that runs."""
    if not words:  # as in a session: argparse stays out of memory
        return "run"
    import argparse

    from dozlab.firecracker_vm.ask import VERBS

    if words[0] in VERBS:
        return "ask"
    asked = f"To a machine that runs: {', '.join(VERBS)} [NAME]."
    parser = argparse.ArgumentParser(prog="firecracker-vm", description=f"{__doc__} {asked}", epilog=HELP)
    verbs = parser.add_mutually_exclusive_group()
    verbs.add_argument("--probe", action="store_true", help="only decide which VMM would run, print why, and end")
    verbs.add_argument(
        "--prepare", action="store_true", help="make the snapshot that such sessions begin from, and end"
    )
    told = parser.parse_args(words)
    return "probe" if told.probe else "prepare" if told.prepare else "run"


def main(argv: list[str] | None = None) -> int:
    """Run the component; returns 0 after a poweroff or SIGTERM, 1 when the VM failed, 2 on bad settings."""
    words = sys.argv[1:] if argv is None else argv
    verb = _verb(words)
    logs.set_up("firecracker-vm")
    try:
        if verb == "ask":
            from dozlab.firecracker_vm import ask

            return ask.main(words)
        settings = Settings.from_env()
        return asyncio.run({"run": _run, "probe": _probe, "prepare": _prepare}[verb](settings))
    except DozlabError as error:
        sys.stderr.write(f"firecracker-vm: {error}\n")
        return error.exit_code


async def _prepare(settings: Settings) -> int:
    from dozlab.firecracker_vm import prepare

    return await prepare.run(settings)


async def _probe(settings: Settings) -> int:
    decision = await decide(settings)
    sys.stdout.write(f"{decision.vmm} ({decision.accel}): {decision.reason}\n")
    return 0


async def _run(settings: Settings) -> int:
    stop = asyncio.Event()
    supervisor: Supervisor | None = None

    def on_signal() -> None:
        stop.set()
        if supervisor:
            supervisor.request_stop()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    deciding = tasks.start(decide(settings), name="decide", guard=False)
    stopping = tasks.start(stop.wait(), name="stop", guard=False)
    await asyncio.wait({deciding, stopping}, return_when=asyncio.FIRST_COMPLETED)
    await tasks.stop([stopping])
    if stop.is_set():
        await tasks.stop([deciding])
        return 0
    try:
        decision = deciding.result()
    except DozlabError as error:
        Timeline(settings.shared).add("vmm", "failed", str(error))
        raise
    log.info("%s (%s): %s", decision.vmm, decision.accel, decision.reason)
    supervisor = Supervisor(settings, decision)
    return await supervisor.run()


if __name__ == "__main__":
    sys.exit(main())
