"""A guest without a VM: a real SSH server (asyncssh) whose shells are real bashes on real ptys. Run as a process.

Its SFTP is OpenSSH's own server, with the arguments in SHARED_DIR/sftp-arguments where that file is; commands run in
sh, and direct-tcpip leads to this machine's own ports.

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

_SFTP_SERVER = "/usr/lib/openssh/sftp-server"


def _winsize(fd: int, cols: int, rows: int) -> None:
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows or 24, cols or 80, 0, 0))


class _Shell(asyncssh.SSHServerSession[bytes]):
    """bash on a pty; reads from the pty pause when the SSH window is full, as sshd's do."""

    def __init__(self, home: Path) -> None:
        self.home = home
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
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
        }
        self.child = await asyncio.create_subprocess_exec(
            "/usr/bin/env", "setsid", "-c", "bash", "--norc", "--noprofile", "-i",
            stdin=slave, stdout=slave, stderr=slave, env=env, cwd=self.home,
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


class _Session(_Shell):
    """A shell, or a command or subsystem as a process on pipes, with back-pressure both ways."""

    def __init__(self, shared: Path) -> None:
        super().__init__(shared / "guest-home")
        self._shared = shared
        self._argv: list[str] = []
        self._writable = asyncio.Event()
        self._writable.set()

    def exec_requested(self, command: str) -> bool:
        self._argv = ["/bin/sh", "-c", command]
        return True

    def subsystem_requested(self, subsystem: str) -> bool:
        options = self._shared / "sftp-arguments"
        self._argv = [_SFTP_SERVER, "-e", *(options.read_text().split() if options.exists() else [])]
        return subsystem == "sftp" and not (self._shared / "no-sftp").exists()

    def session_started(self) -> None:
        if not self._argv:
            super().session_started()
            return
        self._input: asyncio.Queue[bytes] = asyncio.Queue()
        self.tasks.add(asyncio.get_running_loop().create_task(self._pipes()))

    async def _pipes(self) -> None:
        pipe = asyncio.subprocess.PIPE
        self.child = child = await asyncio.create_subprocess_exec(
            *self._argv, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.DEVNULL, cwd=self.home
        )
        assert child.stdout is not None
        feeding = asyncio.get_running_loop().create_task(self._feed(child))
        try:
            while data := await child.stdout.read(32 << 10):
                self.chan.write(data)
                await self._writable.wait()
            self.chan.exit(await child.wait() & 0xFF)
        finally:
            feeding.cancel()

    async def _feed(self, child: asyncio.subprocess.Process) -> None:
        assert child.stdin is not None
        with contextlib.suppress(ConnectionError):
            while data := await self._input.get():
                child.stdin.write(data)
                await child.stdin.drain()
                if self._input.empty():
                    self.chan.resume_reading()
            child.stdin.close()

    def data_received(self, data: bytes, datatype: object) -> None:
        if not self._argv:
            super().data_received(data, datatype)
            return
        self.chan.pause_reading()
        self._input.put_nowait(data)

    def eof_received(self) -> bool:
        if self._argv:
            self._input.put_nowait(b"")
        return True

    def pause_writing(self) -> None:
        if self._argv:
            self._writable.clear()
        else:
            super().pause_writing()

    def resume_writing(self) -> None:
        if self._argv:
            self._writable.set()
        else:
            super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._argv and self.child is not None and self.child.returncode is None:
            self.child.kill()
        self._writable.set()
        super().connection_lost(exc)


class _Server(asyncssh.SSHServer):
    def __init__(self, shared: Path) -> None:
        self._shared = shared

    def session_requested(self) -> _Session:
        return _Session(self._shared)

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
        return True


async def main(shared: Path, port: int) -> None:
    host_key = shared / "guest_host_key"
    (shared / "guest-home").mkdir(exist_ok=True)
    for path in (shared / "id_ed25519", host_key):
        if not path.exists():
            key = asyncssh.generate_private_key("ssh-ed25519")
            key.write_private_key(str(path))
            path.chmod(0o600)
            key.write_public_key(f"{path}.pub")
    server = await asyncssh.listen(
        "127.0.0.1", port, server_factory=lambda: _Server(shared), server_host_keys=[str(host_key)], encoding=None,
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
    # A test run in a shell's background would hand an ignored SIGINT on to the guest's programs (POSIX, 2.11).
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))
