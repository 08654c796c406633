"""The machine above any VMM: what a back end must offer, and the pure state machine that judges how a boot ended.

No I/O here. The back ends (`vmm/`) implement `Vmm`; `supervise.py` feeds `Lifecycle` with what the
console and the VMM tell, and does what it decides.
"""

from __future__ import annotations

import asyncio
import signal
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Literal

from dozlab.firecracker_vm.markers import Marker
from dozlab.lib.errors import DozlabError

State = Literal["starting", "running", "paused", "stopping", "stopped", "failed"]
VmmName = Literal["qemu", "firecracker"]
Accel = Literal["kvm", "tcg"]

MAX_REBOOTS_A_MINUTE = 5
"""A guest that reboots more often is broken or hostile: each boot costs the node a second of both cores."""


@dataclass(frozen=True)
class Drive:
    """One disk of the guest, in the order vda, vdb, ...: a raw file."""

    name: str
    path: Path
    read_only: bool


@dataclass(frozen=True)
class Spec:
    """All that a VMM needs for one boot. `memory` is in MiB; a VM without `tap` has no network (the probe)."""

    kernel: Path
    initrd: Path
    cmdline: str
    drives: tuple[Drive, ...]
    cpus: int
    memory: int
    tap: str = ""
    mac: str = ""


class VmmRefused(DozlabError):
    """The VMM answered no; the message holds its own words."""


@dataclass(frozen=True)
class Exit:
    """How a VMM process ended.

    :param code: exit status; negative is the number of the signal that ended it
    :param told: QMP's SHUTDOWN reason (`guest-reset`, `guest-shutdown`, `guest-panic`, ...); empty with Firecracker
    :param ours: we ended it (a stall, or a guest that had already powered down)
    :param words: last line the VMM wrote on stderr
    """

    code: int
    told: str = ""
    ours: bool = False
    words: str = ""


class Vmm(ABC):
    """One VMM process, for one boot. A new object for every try."""

    name: VmmName
    accel: Accel

    @abstractmethod
    async def start(self, spec: Spec, console: int) -> None:
        """Spawn, configure and run the guest; every answer of the VMM is checked.

        :param console: descriptor that takes the guest's serial output; the caller keeps its own copy
        :raises VmmRefused: with the VMM's own words
        :raises DozlabError: when it cannot be started or does not answer
        """

    @abstractmethod
    async def wait(self) -> Exit:
        """Wait for the process to end."""

    @abstractmethod
    async def pause(self) -> None:
        """Stop the vCPUs; memory and devices stay."""

    @abstractmethod
    async def resume(self) -> None:
        """Let the vCPUs run on."""

    @abstractmethod
    async def restore(self, spec: Spec, console: int, state: Path) -> None:
        """Spawn the same machine and load a saved state into it; the guest does not run yet: `resume` lets it.

        :raises VmmRefused: with the VMM's own words; the machine is of no use then
        :raises DozlabError: when it cannot be started or does not answer
        """

    @abstractmethod
    async def save(self, state: Path) -> None:
        """Write memory and devices of a paused machine to a new file (and files beside it).

        :raises DozlabError: when that fails; the files are gone again
        """

    async def wait_disk_full(self) -> None:
        """Return when the VMM has stopped the guest because the host's disk is full.

        Only QEMU does that; with another VMM the guest sees a write error and this waits for ever.
        """
        await asyncio.Event().wait()

    @abstractmethod
    async def press_ctrl_alt_del(self) -> None:
        """Ask the guest's init to restart; systemd does so without logind or ACPI. The VMM ends at the reset."""

    @abstractmethod
    async def end(self) -> None:
        """End the process now: its own quit verb, then SIGTERM, then SIGKILL. Safe to call at any time, twice too."""


class Next(Enum):
    """What follows the end of a VMM process."""

    REBOOT = "boot again: the guest asked"
    RETRY = "boot again: nobody had reached it yet"
    RESET = "go on from another state of the machine, as asked"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass
class Lifecycle:
    """The life of one session's VM over all its boots. Times are any monotonic seconds, given by the caller."""

    vmm: VmmName
    state: State = "starting"
    reason: str = ""
    boots: int = 0
    reached_init: bool = False
    served: bool = False
    """Somebody could reach this boot's sshd: from then on what happens is the learner's."""
    _stop_asked: bool = False
    _reset_asked: bool = False
    _retried: bool = False
    _panic: str = ""
    _fault: str = ""
    _shutdown: str = ""
    _kernel: str = ""
    _stalled: str = ""
    _starts: deque[float] = field(default_factory=deque)

    def begin(self, now: float) -> None:
        """Note the start of one more boot."""
        self.boots += 1
        self._starts.append(now)
        self.reached_init = self.served = self._reset_asked = False
        self._panic = self._fault = self._shutdown = self._kernel = self._stalled = ""
        if not self._stop_asked:
            self.state, self.reason = "starting", ""

    def mark(self, marker: Marker) -> None:
        """Take one marker line of the console."""
        if marker.kind == "stage" and marker.value == "init":
            self.reached_init = True
            if self.state == "starting":
                self.state = "running"
        elif marker.kind == "panic":
            self._panic = self._panic or marker.value
        elif marker.kind == "fault":
            self._fault = self._fault or marker.value
        elif marker.kind == "shutdown":
            self._shutdown = marker.value
        elif marker.kind == "kernel":
            self._shutdown = self._kernel = marker.value

    @property
    def over(self) -> bool:
        """Tell whether the guest has said its last word: the VMM should end by itself within moments.

        The kit's `shutdown=` is not it: services may take minutes to stop after that.
        """
        return bool(self._panic or self._fault or self._kernel)

    def stall(self, why: str) -> None:
        """Note that the boot stands still; the caller ends the VMM."""
        self._stalled = why

    def ask_stop(self) -> None:
        """Note that a stop was asked for: whatever ends the VMM now, the session ends as stopped."""
        self._stop_asked = True
        if self.state not in ("stopped", "failed"):
            self.state, self.reason = "stopping", "asked to stop"

    def ask_reset(self) -> None:
        """Note that the machine is to go on from another state: the caller ends the VMM now."""
        self._reset_asked = True

    @property
    def reset_asked(self) -> bool:
        """Tell whether the boot that comes is one from another state."""
        return self._reset_asked

    def may_save(self) -> None:
        """Check that the machine can be saved now.

        :raises DozlabError: when it cannot
        """
        if self.state != "running" or not self.served or self._reset_asked:
            what = self.state if self.served or self.state != "running" else "not reached by SSH yet"
            raise DozlabError(f"cannot save the machine: it is {what}", hint=self._first())

    def may_reset(self) -> None:
        """Check that the machine can be set back now.

        :raises DozlabError: when it cannot
        """
        if self.state not in ("starting", "running", "paused") or self._reset_asked:
            what = "being set back already" if self._reset_asked else self.state
            raise DozlabError(f"cannot set the machine back: it is {what}")

    def pause(self) -> None:
        """Check that a pause is possible now.

        :raises DozlabError: when it is not
        """
        if self.state != "running":
            already = " already" if self.state == "paused" else ""
            raise DozlabError(f"cannot pause: the VM is {self.state}{already}")

    def resume(self) -> None:
        """Check that a resume is possible now.

        :raises DozlabError: when it is not
        """
        if self.state != "paused":
            raise DozlabError(f"cannot resume: the VM is {self.state}, not paused")

    def _first(self) -> str:
        """Return what has to be done before a machine can be saved, empty where nothing helps."""
        if self.state in ("starting", "running"):
            return "wait until SSH answers"
        return "resume it first" if self.state == "paused" else ""

    def ended(self, end: Exit, now: float, last_lines: str = "") -> Next:
        """Judge the end of a VMM process and set `state` and `reason`.

        :param last_lines: the console's end, one line, for reasons that need it
        """
        what, why = self._judge(end, now)
        unexplained = self._panic or self._stalled or not self.reached_init
        if what is Next.FAILED and last_lines and unexplained and not self._fault:
            why = f"{why}; last lines: {last_lines}"
        self.reason = why
        self.state = {Next.STOPPED: "stopped", Next.FAILED: "failed"}.get(what, "starting")  # type: ignore[assignment]
        return what

    def _judge(self, end: Exit, now: float) -> tuple[Next, str]:
        if self._stop_asked:
            return Next.STOPPED, "asked to stop"
        if self._reset_asked:
            return Next.RESET, "asked to go back"
        if self._fault:
            return Next.FAILED, self._fault
        if self._panic:
            return self._once(f"the guest's kernel panicked: {self._panic}")
        if self._stalled:
            return self._once(self._stalled)
        if end.code < 0 and not end.ours:
            return (
                Next.FAILED,
                f"{self.vmm} was ended from outside by {_signal_name(-end.code)}{_out_of_memory(end.code)}",
            )
        if end.told in ("", "guest-reset") and self._shutdown == "reboot":
            return self._again(now, "the guest asked for a reboot")
        if end.told == "guest-shutdown" or (not end.told and self._shutdown in ("poweroff", "halt")):
            return Next.STOPPED, "the guest powered off"
        if end.told == "guest-reset" or (self.vmm == "firecracker" and end.code == 0):
            return self._again(now, "the guest reset without a word")
        if self._shutdown in ("poweroff", "halt"):
            return Next.STOPPED, "the guest powered off"
        return Next.FAILED, f"{self.vmm} ended with status {end.code}" + (f": {end.words}" if end.words else "")

    def _once(self, why: str) -> tuple[Next, str]:
        """Allow one more try to a boot that nobody has reached yet (emulators do lose a boot now and then)."""
        if self.served or self._retried:
            return Next.FAILED, why
        self._retried = True
        return Next.RETRY, why

    def _again(self, now: float, why: str) -> tuple[Next, str]:
        if not self.reached_init:
            return self._once(f"{why} before it reached init")
        while self._starts and self._starts[0] <= now - 60:
            self._starts.popleft()
        if len(self._starts) > MAX_REBOOTS_A_MINUTE:
            return Next.FAILED, f"the guest rebooted more than {MAX_REBOOTS_A_MINUTE} times within a minute"
        return Next.REBOOT, why


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _out_of_memory(code: int) -> str:
    return " (a kill, or the machine ran out of memory)" if code == -signal.SIGKILL else ""
