"""A guest without a VM: a real SSH server (asyncssh) whose shells are real bashes on real ptys. Run as a process.

`python guest_sshd.py SHARED_DIR [PORT]` writes the session's key and known_hosts there, prints its port, and serves
until its standard input closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import struct
import sys
import termios
from pathlib import Path

import asyncssh


def _winsize(fd: int, cols: int, rows: int) -> None:
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows or 24, cols or 80, 0, 0))


class _Shell(asyncssh.SSHServerSession[bytes]):
    """bash on a pty; reads from the pty pause when the SSH window is full, as sshd's do."""

    def __init__(self) -> None:
        self.master = -1
        self.child: asyncio.subprocess.Process | None = None
        self.tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        self.chan = chan

    def pty_requested(self, term_type: str, term_size: tuple[int, int, int, int], term_modes: object) -> bool:
        self.size = term_size
        return True

    def shell_requested(self) -> bool:
        return True

    def session_started(self) -> None:
        self.master, slave = os.openpty()
        _winsize(self.master, *self.size[:2])
        os.set_blocking(self.master, False)
        task = asyncio.get_running_loop().create_task(self._run(slave))
        self.tasks.add(task)

    async def _run(self, slave: int) -> None:
        env = {
            "PATH": os.environ["PATH"],
            "TERM": "xterm-256color",
            "PS1": "guest$ ",
            "HOME": "/tmp",
            "LANG": "C.UTF-8",
        }
        self.child = await asyncio.create_subprocess_exec(
            "/usr/bin/env", "setsid", "-c", "bash", "--norc", "--noprofile", "-i",
            stdin=slave, stdout=slave, stderr=slave, env=env, cwd="/tmp",
        )  # fmt: skip
        os.close(slave)
        asyncio.get_running_loop().add_reader(self.master, self._readable)
        code = await self.child.wait()
        self._drain()
        if code < 0:
            self.chan.exit_with_signal(signal.Signals(-code).name.removeprefix("SIG"))
        else:
            self.chan.exit(code)
        self._close()

    def _readable(self) -> None:
        try:
            data = os.read(self.master, 65536)
        except BlockingIOError:
            return
        except OSError:
            self.pause_writing()
            return
        self.chan.write(data)

    def _drain(self) -> None:
        with contextlib.suppress(OSError):
            while self.master >= 0 and (data := os.read(self.master, 65536)):
                self.chan.write(data)

    def pause_writing(self) -> None:
        if self.master >= 0:
            asyncio.get_running_loop().remove_reader(self.master)

    def resume_writing(self) -> None:
        if self.master >= 0:
            asyncio.get_running_loop().add_reader(self.master, self._readable)

    def data_received(self, data: bytes, datatype: object) -> None:
        with contextlib.suppress(OSError):
            os.write(self.master, data)

    def terminal_size_changed(self, width: int, height: int, pixwidth: int, pixheight: int) -> None:
        if self.master >= 0:
            _winsize(self.master, width, height)

    def connection_lost(self, exc: Exception | None) -> None:
        self._close()

    def _close(self) -> None:
        if self.master >= 0:
            self.pause_writing()
            os.close(self.master)  # SIGHUP to the shell
            self.master = -1


class _Server(asyncssh.SSHServer):
    def session_requested(self) -> _Shell:
        return _Shell()


async def main(shared: Path, port: int) -> None:
    host_key = shared / "guest_host_key"
    for path in (shared / "id_ed25519", host_key):
        if not path.exists():
            key = asyncssh.generate_private_key("ssh-ed25519")
            key.write_private_key(str(path))
            path.chmod(0o600)
            key.write_public_key(f"{path}.pub")
    server = await asyncssh.listen(
        "127.0.0.1", port, server_factory=_Server, server_host_keys=[str(host_key)], encoding=None,
        authorized_client_keys=str(shared / "id_ed25519.pub"), reuse_address=True,
    )  # fmt: skip
    public = (shared / "guest_host_key.pub").read_text()
    (shared / "known_hosts").write_text(f"127.0.0.1 {public}")
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.buffer.read)
    server.close()
    os._exit(0)  # like a machine that is switched off


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))
