"""Where one session's files live on the host, and where its components see them. Pure: makes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dozlab.lib import paths
from dozlab.lib.errors import BadUsage
from dozlab.lib.names import SESSION_ID

COMPONENTS = ("init-rootfs", "network-setup", "firecracker-vm", "terminal-sidecar", "code-server")
"""The names of `dozlab logs -c` and `dozlab exec -c`: the chart's container names, in start order."""

POD = Path("/mnt")
"""Mount point of the private tmpfs that carries the components' view; /mnt exists on every Debian (FHS 3.0)."""


def check_id(session_id: str) -> str:
    """Return the id when it is a DNS label.

    :raises BadUsage: when it is not
    """
    if not SESSION_ID.match(session_id):
        raise BadUsage(f"{session_id!r} is no session id: 1 to 40 of a-z, 0-9 and -, not first or last a -")
    return session_id


def sessions_dir() -> Path:
    """Return the folder that holds one folder per session."""
    return paths.state() / "sessions"


@dataclass(frozen=True)
class Layout:
    """The host's view of one session."""

    id: str

    @property
    def state(self) -> Path:
        """Everything that survives a stop: disk, workspace, editor's home, logs, values."""
        return sessions_dir() / self.id

    @property
    def run(self) -> Path:
        """Everything in memory: sockets, keys, password."""
        return paths.runtime() / self.id

    @property
    def lock(self) -> Path:
        """flock(2)ed by whoever starts or is the session; beside the folder, so that removal is safe."""
        return sessions_dir() / f".{self.id}.lock"

    @property
    def values(self) -> Path:
        """The values as given (no password)."""
        return self.state / "values.json"

    @property
    def facts(self) -> Path:
        """What was chosen at start: ports, uid, pid."""
        return self.state / "session.json"

    @property
    def end(self) -> Path:
        """How the session ended: `{"state": "stopped|failed", "reason": str, "t": float}`."""
        return self.state / "end.json"

    @property
    def plan(self) -> Path:
        """What the supervisor starts: `session.plan`."""
        return self.run / "plan.json"

    @property
    def logs(self) -> Path:
        """One file per component."""
        return self.state / "logs"

    def log(self, component: str) -> Path:
        """Return the component's log file."""
        return self.logs / f"{component}.log"

    @property
    def vm_data(self) -> Path:
        """Volume vmData."""
        return self.state / "vm-data"

    @property
    def coder(self) -> Path:
        """Volume vscodeData."""
        return self.state / "coder"

    @property
    def shared(self) -> Path:
        """Volume sharedConfig."""
        return self.run / "shared"

    @property
    def control(self) -> Path:
        """The supervisor's control socket."""
        return self.run / "control.sock"

    @property
    def password(self) -> Path:
        """The session's password, 0600."""
        return self.run / "password"
