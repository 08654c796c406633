"""Child processes that are owned: started as argv lists, ended by handle, never left behind.

Every child gets PR_SET_PDEATHSIG (prctl(2)), so the kernel ends it should we be killed outright.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from dozlab.lib.errors import DozlabError

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(sig: int = signal.SIGKILL) -> None:
    """Ask the kernel to send us `sig` when our parent thread ends (prctl(2)). Call in the child, before exec."""
    _libc.prctl(_PR_SET_PDEATHSIG, sig)


@dataclass(frozen=True)
class Result:
    """What a finished command left: exit status and its output, decoded with replacement."""

    argv: tuple[str, ...]
    code: int
    out: str
    err: str

    def last_line(self) -> str:
        """Return the last line of stderr, else of stdout: what a person wants to see first."""
        for text in (self.err, self.out):
            lines = [line for line in text.splitlines() if line.strip()]
            if lines:
                return lines[-1].strip()
        return f"exit status {self.code}"


def need(program: str, package: str) -> str:
    """Return the program's path, looking in the sbin folders too (an ordinary user's PATH may lack them).

    :raises DozlabError: naming the Debian package that has it
    """
    path = shutil.which(program) or shutil.which(program, path="/usr/local/sbin:/usr/sbin:/sbin")
    if not path:
        raise DozlabError(f"{program} is not installed", hint=f"run: sudo apt-get install {package}")
    return path


def run(
    argv: Sequence[str | Path],
    *,
    input: bytes | None = None,
    timeout: float = 60.0,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    check: bool = True,
) -> Result:
    """Run a short command to its end.

    :param timeout: seconds; the command is killed then
    :raises DozlabError: when it cannot be started, times out, or (with `check`) exits non-zero
    """
    words = tuple(str(word) for word in argv)
    try:
        done = subprocess.run(
            words, input=input, stdin=subprocess.DEVNULL if input is None else None, capture_output=True,
            timeout=timeout, env=None if env is None else dict(env), cwd=cwd, check=False,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise DozlabError(f"{words[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise DozlabError(f"{words[0]} did not end within {timeout:.0f} s") from error
    result = Result(words, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))
    if check and result.code != 0:
        raise DozlabError(f"{Path(words[0]).name} failed: {result.last_line()}")
    return result


def stat(pid: int) -> tuple[str, int, int]:
    """Return a process's state, its parent and the leader of its session (proc(5)); ("", 0, 0) where there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "", 0, 0
    return fields[0], int(fields[1]), int(fields[3])


def fork(run: Callable[[], int], *, output: Path, keep: Sequence[int] = (), detached: bool = False) -> int:
    """Run a function in a child process of the same program: 0.1 s sooner than a Python that starts anew.

    The child has no input, writes into `output`, holds none of our open files but `keep`, and ends with the function's
    result as its status, whatever happens in it. Only for a program that runs one thread.

    :param detached: in a session of its own, where no Ctrl-C and no hang-up reaches it; else it ends when we do
    :return: its pid; who does not detach it has to wait for it
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        if detached:
            os.setsid()
        else:
            die_with_parent()
        null = os.open(os.devnull, os.O_RDONLY)
        log_file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for source, target in ((null, 0), (log_file, 1), (log_file, 2)):
            os.dup2(source, target)
        first = 3
        for kept in sorted(keep):
            os.closerange(first, kept)
            first = kept + 1
        os.closerange(first, max(int(name) for name in os.listdir("/proc/self/fd")) + 1)
        code = run()
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def wait_for(pid: int, *, seconds: float | None = None) -> int | None:
    """Return a child's exit status (negative: the signal's number), None when it has not ended by then."""
    if seconds is None:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    return None


class Child:
    """A long-lived child process: `await Child.start(...)`, then `wait()` or `stop()`."""

    def __init__(self, process: asyncio.subprocess.Process, name: str) -> None:
        self.process = process
        self.name = name

    @classmethod
    async def start(
        cls,
        argv: Sequence[str | Path],
        *,
        name: str,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: int | IO[Any] | None = subprocess.DEVNULL,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> Child:
        """Start argv in a session of its own (a Ctrl-C at a terminal reaches only us).

        :raises DozlabError: when the program cannot be started
        """
        words = [str(word) for word in argv]
        try:
            process = await asyncio.create_subprocess_exec(
                *words, env=None if env is None else dict(env), cwd=cwd, stdin=stdin, stdout=stdout, stderr=stderr,
                pass_fds=pass_fds, start_new_session=True, preexec_fn=die_with_parent,
            )  # fmt: skip
        except OSError as error:
            raise DozlabError(f"{name}: cannot start {words[0]}: {error.strerror}") from error
        return cls(process, name)

    @property
    def pid(self) -> int:
        """Return the process id."""
        return self.process.pid

    @property
    def running(self) -> bool:
        """Tell whether the child has not ended yet."""
        return self.process.returncode is None

    async def wait(self) -> int:
        """Wait for the end and return the exit status (negative: the signal's number)."""
        return await self.process.wait()

    async def stop(self, *, grace: float = 5.0) -> int:
        """End the child: SIGTERM, `grace` seconds, then SIGKILL to its whole process group. Safe to call twice."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()
            try:
                async with asyncio.timeout(grace):
                    await self.process.wait()
            except TimeoutError:
                log.warning("%s (pid %d) did not end within %.0f s of SIGTERM: killing it", self.name, self.pid, grace)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.pid, signal.SIGKILL)
        return await self.process.wait()
