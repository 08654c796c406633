"""Starts the two controllers against a cluster, and stops them: `up` and `down`. What is started is in a record."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from tools.cluster import processes
from tools.cluster.processes import Process
from tools.flux import controllers
from tools.flux.controllers import Controller, Ports

from dozlab.lib import paths
from dozlab.lib.errors import DozlabError
from dozlab.lib.files import locked, read_json, write_json

READY = 240.0
"""Seconds until a controller must answer."""

Say = Callable[[str], None]


def folder() -> Path:
    """Return the folder of record, logs and what source-controller has fetched; `down` removes it."""
    return paths.state() / "flux"


def up(programs: Path, kubeconfig: Path, kubectl: Path, say: Say) -> None:
    """Apply the CRDs and start both controllers; return when they answer.

    :param programs: folder of programs and CRDs (`build.ensure`)
    :raises DozlabError: when they run already, the cluster does not answer, or a controller ends
    """
    place = folder()
    place.mkdir(parents=True, exist_ok=True)
    with locked(place.parent / "flux.lock"):
        if any(process.alive for process in _known().values()):
            raise DozlabError("the Flux controllers run already", hint="run: python -m tools.flux down")
        _apply(kubectl, kubeconfig, programs / "crds", say)
        for name in ("storage", "tmp", "logs"):
            (place / name).mkdir(exist_ok=True)
        ports = Ports(*_free_ports(3))
        started: dict[str, Process] = {}
        try:
            for controller in controllers.controllers(programs, place, ports):
                say(f"starting {controller.name}")
                started[controller.name] = process = processes.start(
                    controller.argv, _log(controller.name), controllers.environment(kubeconfig, place)
                )
                write_json(place / "flux.json", {name: [each.pid, each.start] for name, each in started.items()})
                _wait_ready(controller, process)
        except BaseException:
            processes.kill(started.values())
            raise


def down(say: Say) -> None:
    """Stop what `up` started and remove its folder. CRDs and objects stay in the cluster. Safe to call twice.

    :raises DozlabError: when a process does not end
    """
    folder().parent.mkdir(parents=True, exist_ok=True)
    with locked(folder().parent / "flux.lock"):
        known = _known()
        if known:
            say(f"stopping {' and '.join(known)}")
        if left := processes.kill(known.values()):
            raise DozlabError(f"process {left[0].pid} does not end")
        shutil.rmtree(folder(), ignore_errors=True)


def running() -> list[str]:
    """Return the names of the controllers that run."""
    return [name for name, process in _known().items() if process.alive]


def log_tail(name: str, lines: int = 20) -> str:
    """Return the end of a controller's log."""
    with contextlib.suppress(FileNotFoundError):
        return "\n".join(_log(name).read_text(errors="replace").splitlines()[-lines:])
    return ""


def _log(name: str) -> Path:
    return folder() / "logs" / f"{name}.log"


def _known() -> dict[str, Process]:
    return {name: Process(*pair) for name, pair in (read_json(folder() / "flux.json") or {}).items()}


def _apply(kubectl: Path, kubeconfig: Path, crds: Path, say: Say) -> None:
    say("applying the CRDs")
    # One call to apply, one to wait: a CRD can be used a moment after it was made.
    for words in (
        ["apply", "--server-side", "-f", str(crds)],
        ["wait", "--for=condition=Established", "--timeout=30s", "-f", str(crds)],
    ):
        done = subprocess.run(
            [kubectl, f"--kubeconfig={kubeconfig}", *words], capture_output=True, text=True, check=False, timeout=90
        )
        if done.returncode:
            last = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
            raise DozlabError(f"the CRDs of Flux could not be applied: {last}", hint="is the cluster up?")


def _wait_ready(controller: Controller, process: Process) -> None:
    until = time.monotonic() + READY
    while time.monotonic() < until:
        if not process.alive:
            raise DozlabError(f"{controller.name} has ended: {log_tail(controller.name, 1) or 'nothing in its log'}")
        with (
            contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError),
            urllib.request.urlopen(controller.health, timeout=2) as answer,  # noqa: S310
        ):
            if answer.status == 200:
                return
        time.sleep(0.1)
    raise DozlabError(f"{controller.name} did not answer within {READY:.0f} s", hint=f"see {_log(controller.name)}")


def _free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 that nobody listens on just now, below those that connections get by themselves."""
    found: set[int] = set()
    while len(found) < count:
        port = 12_000 + secrets.randbelow(20_000)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            found.add(port)
    return list(found)
