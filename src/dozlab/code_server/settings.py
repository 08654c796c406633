"""The environment of code-server (ARCHITECTURE.md, "Environment") as one frozen dataclass. No defaults elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Literal

from dozlab.code_server.install import ENTRY, NODE
from dozlab.lib.env import Env
from dozlab.lib.errors import BadUsage
from dozlab.lib.names import SESSION_ID
from dozlab.lib.units import MIB

Sandbox = Literal["none", "bwrap"]


@dataclass(frozen=True)
class Settings:
    """What code-server and its bridge are told."""

    session_id: str
    password: str
    """Plain; hashed here before anything else sees it. Empty when `hashed_password` is given."""
    hashed_password: str
    """argon2 in PHC form; wins over `password`, as in code-server itself."""
    port: int
    vm_ip: IPv4Address
    gateway_ip: IPv4Address
    home: Path
    """The editor's home as this process sees it (VSCODE_DATA)."""
    workspace: Path
    """The workspace as this process sees it."""
    workspace_size: int
    """Bytes that the guest may fill of the workspace."""
    workspace_read_only: bool
    workspace_port: int
    sandbox: Sandbox
    code_server: Path
    """Folder made by `install.install()`, or an image's own: holds `node_modules/code-server`."""
    node: Path
    docker_cli: Path | None
    """Prefix made by `docker_cli.install()` (`bin/docker`, `lib/docker/cli-plugins`); None: the system's own."""
    sftp_server: Path
    shared: Path | None
    """Where the timeline is, if this process can see it (in a Pod it cannot)."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read the environment.

        :raises BadUsage: one line per fault
        """
        env = Env(environ)
        code_server = env.path("CODE_SERVER_DIR", "/usr/lib/dozlab/code-server")
        docker_cli = env.text("DOCKER_CLI_DIR", "")
        shared = env.path("SHARED_DIR", "/shared")
        settings = cls(
            session_id=env.text("SESSION_ID"),
            password=env.secret("PASSWORD"),
            hashed_password=env.secret("HASHED_PASSWORD"),
            port=env.integer("PORT", 8080, low=1, high=65535),
            vm_ip=env.ipv4("VM_IP", "172.16.0.2"),
            gateway_ip=env.ipv4("GATEWAY_IP", "172.16.0.1"),
            home=env.path("VSCODE_DATA", "/home/coder"),
            workspace=env.path("WORKSPACE_DIR", f"{env.text('VM_DATA', '/vm-data')}/workspace"),
            workspace_size=env.size("WORKSPACE_SIZE", 512 * MIB),
            workspace_read_only=env.flag("WORKSPACE_READ_ONLY"),
            workspace_port=env.integer("WORKSPACE_PORT", 5540, low=1, high=65535),
            sandbox="bwrap" if env.text("SANDBOX", "none") == "bwrap" else "none",
            code_server=code_server,
            node=env.path("NODE_BIN", str(code_server / NODE)),
            docker_cli=Path(docker_cli) if docker_cli else None,
            sftp_server=env.path("SFTP_SERVER", "/usr/lib/openssh/sftp-server"),
            shared=shared if shared.is_dir() else None,
        )
        env.check()
        faults = list(settings._faults(env.text("SANDBOX", "none")))
        if faults:
            raise BadUsage("\n".join(faults))
        return settings

    def _faults(self, sandbox: str) -> list[str]:
        faults = []
        if not SESSION_ID.match(self.session_id):
            faults.append(f"SESSION_ID={self.session_id!r}: not a DNS label of at most 40 characters")
        if sandbox not in ("none", "bwrap"):
            faults.append(f"SANDBOX={sandbox!r}: must be none or bwrap")
        if not self.password and not self.hashed_password:
            faults.append("PASSWORD_FILE is not set (nor PASSWORD, nor HASHED_PASSWORD): the editor needs one")
        if self.hashed_password and not self.hashed_password.startswith("$argon2"):
            faults.append("HASHED_PASSWORD is no argon2 hash ($argon2id$...)")
        return faults

    @property
    def entry(self) -> Path:
        """Return code-server's program, to be run by `node`."""
        return self.code_server / ENTRY
