"""What the terminal sidecar is told by its environment (ARCHITECTURE.md, Environment)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from dozlab.lib.env import Env
from dozlab.lib.errors import BadUsage
from dozlab.lib.units import MIB

HELP = """\
Usage: python -m dozlab.terminal_sidecar

Serves the terminal page and its WebSocket; the shell behind it runs in the guest, over SSH.

Environment:
  SESSION_ID            name of the session (required)
  PASSWORD, PASSWORD_FILE, HASHED_PASSWORD, HASHED_PASSWORD_FILE
                        the session's password, plain or as an argon2 hash; the hash wins (one is required)
  PORT                  port to listen on (8081)
  HOST                  address to listen on (0.0.0.0)
  BASE_PATH             path below which everything is served ("" = /)
  ALLOWED_ORIGINS       origins of the page, such as https://lab.example; "" = the one that equals scheme://Host
  SHARED_DIR            folder with id_ed25519, known_hosts, timeline.jsonl (/shared)
  VM_IP, VM_SSH_PORT, SSH_USER
                        the guest's sshd (172.16.0.2, 22, root)
  PAGE_DIR              the built page (beside this program)
  SCROLLBACK            bytes of output kept per shell (1Mi)
  MAX_CLIENTS, MAX_SHELLS
                        browsers at a time, shells (16, 8)
  SHELL_IDLE_SECONDS    a shell without any browser is closed after this (86400)
  LOG_LEVEL, LOG_FORMAT (info, plain or json)
"""


@dataclass(frozen=True)
class Settings:
    """Settings of one sidecar; secrets are not in its repr."""

    session_id: str
    password: str = field(default="", repr=False)
    hashed_password: str = field(default="", repr=False)
    host: str = "0.0.0.0"  # noqa: S104  (the namespace's addresses; publishing is decided outside)
    port: int = 8081
    base_path: str = ""
    allowed_origins: tuple[str, ...] = ()
    shared_dir: Path = Path("/shared")
    vm_ip: str = "172.16.0.2"
    vm_ssh_port: int = 22
    ssh_user: str = "root"
    page_dir: Path = Path(__file__).parent / "page"
    scrollback: int = MIB
    max_clients: int = 16
    max_shells: int = 8
    shell_idle_seconds: int = 86400

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read the environment.

        :raises BadUsage: with one line per fault
        """
        env = Env(environ)
        settings = cls(
            session_id=env.text("SESSION_ID"),
            password=env.secret("PASSWORD"),
            hashed_password=env.secret("HASHED_PASSWORD"),
            host=env.text("HOST", "0.0.0.0"),  # noqa: S104
            port=env.integer("PORT", 8081, high=65535),
            base_path=env.text("BASE_PATH", "").strip("/"),
            allowed_origins=tuple(origin.rstrip("/").lower() for origin in env.words("ALLOWED_ORIGINS")),
            shared_dir=env.path("SHARED_DIR", "/shared"),
            vm_ip=str(env.ipv4("VM_IP", "172.16.0.2")),
            vm_ssh_port=env.integer("VM_SSH_PORT", 22, low=1, high=65535),
            ssh_user=env.text("SSH_USER", "root"),
            page_dir=env.path("PAGE_DIR", str(cls.page_dir)),
            scrollback=env.size("SCROLLBACK", MIB),
            max_clients=env.integer("MAX_CLIENTS", 16, low=1, high=1000),
            max_shells=env.integer("MAX_SHELLS", 8, low=1, high=100),
            shell_idle_seconds=env.integer("SHELL_IDLE_SECONDS", 86400, low=60),
        )
        env.check()
        faults = settings._faults()
        if faults:
            raise BadUsage("\n".join(faults))
        return settings

    def _faults(self) -> list[str]:
        faults = []
        if not (self.password or self.hashed_password):
            faults.append("neither PASSWORD nor HASHED_PASSWORD is set (or the file that PASSWORD_FILE names is empty)")
        if self.hashed_password and not self.hashed_password.startswith("$argon2"):
            faults.append("HASHED_PASSWORD is not an argon2 hash ($argon2id$...)")
        if not self.session_id.replace("-", "").isalnum() or not self.session_id.isascii():
            faults.append("SESSION_ID may hold letters, digits and - only")
        if not 64 << 10 <= self.scrollback <= 64 * MIB:
            faults.append("SCROLLBACK must be 64Ki to 64Mi")
        if any(not part or set(part) - _PATH for part in self.base_path.split("/")) and self.base_path:
            faults.append("BASE_PATH may hold letters, digits, -, _, ~ and . between its slashes only")
        for origin in self.allowed_origins:
            parts = urlsplit(origin)
            if parts.scheme not in ("http", "https") or not parts.netloc or parts.path:
                faults.append(f"ALLOWED_ORIGINS: {origin!r} is not an origin such as https://lab.example")
        return faults

    @property
    def base(self) -> str:
        """Return the base path with a slash before and none behind; "" for none."""
        return f"/{self.base_path}" if self.base_path else ""


_PATH = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_~.")
