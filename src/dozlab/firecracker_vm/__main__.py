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


def _only_probe(words: list[str]) -> bool:
    if not words:  # as in a session: argparse stays out of memory
        return False
    import argparse

    parser = argparse.ArgumentParser(prog="firecracker-vm", description=__doc__, epilog=HELP)
    parser.add_argument("--probe", action="store_true", help="only decide which VMM would run, print why, and end")
    return bool(parser.parse_args(words).probe)


def main(argv: list[str] | None = None) -> int:
    """Run the component; returns 0 after a poweroff or SIGTERM, 1 when the VM failed, 2 on bad settings."""
    only_probe = _only_probe(sys.argv[1:] if argv is None else argv)
    logs.set_up("firecracker-vm")
    try:
        settings = Settings.from_env()
        return asyncio.run(_probe(settings) if only_probe else _run(settings))
    except DozlabError as error:
        sys.stderr.write(f"firecracker-vm: {error}\n")
        return error.exit_code


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
