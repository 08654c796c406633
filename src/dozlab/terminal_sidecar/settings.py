"""What the terminal sidecar is told by its environment (ARCHITECTURE.md, Environment)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from dozlab.lib.env import Env
from dozlab.lib.errors import BadUsage
from dozlab.lib.units import MIB
from dozlab.terminal_sidecar.proxies import Network, parse_networks

HELP = """\
Usage: python -m dozlab.terminal_sidecar [share ...]

Serves the terminal page and its WebSocket; the shell behind it runs in the guest, over SSH.
`share` asks the one that serves here for a link that lets somebody else in (`share --help`).

Environment:
  SESSION_ID            name of the session (required)
  PASSWORD, PASSWORD_FILE, HASHED_PASSWORD, HASHED_PASSWORD_FILE
                        the session's password, plain or as an argon2 hash; the hash wins (one is required)
  PORT                  port to listen on (8081)
  HOST                  address to listen on (0.0.0.0)
  BASE_PATH             path below which everything is served ("" = /)
  ALLOWED_ORIGINS       origins of the page, such as https://lab.example; "" = the one that equals scheme://Host
  TRUSTED_PROXIES       networks whose X-Forwarded-For and X-Forwarded-Proto are believed, such as 10.0.0.0/8 (none)
  TLS_CERT, TLS_KEY     certificate chain and key, PEM files, to serve TLS; read again when they change
  PORTS_PORT            port of the proxy to what listens in the guest (0 = none)
  PORTS_ORIGIN          where browsers find it, such as https://ports.lab.example or https://*.ports.lab.example (then
                        each port has a name of its own); "" = the other name of a terminal on localhost or 127.0.0.1
  PORTS_PUBLISHED       port under which PORTS_PORT is found where PORTS_ORIGIN is not set (0 = the same, loopback only)
  SHARED_DIR            folder with id_ed25519, known_hosts, timeline.jsonl (/shared)
  VM_IP, VM_SSH_PORT, SSH_USER
                        the guest's sshd (172.16.0.2, 22, root)
  PAGE_DIR              the built page (beside this program)
  SCROLLBACK            bytes of output kept per shell (1Mi)
  SCROLLBACK_DIR        folder for them: files without names, which go with their shells (none = memory)
  MAX_CLIENTS, MAX_SHELLS
                        browsers at a time, each tab or pane being one, and shells (64, 8)
  RECORDING, RECORDING_DIR, RECORDING_LIMIT
                        shells are recorded into a folder that is there; the oldest make room (true, /recordings, 64Mi)
  RECORD_INPUT          record what is typed as well, passwords included (false)
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
    trusted_proxies: tuple[str, ...] = ()
    tls_cert: str = ""
    tls_key: str = ""
    ports_port: int = 0
    ports_origin: str = ""
    ports_published: int = 0
    shared_dir: Path = Path("/shared")
    vm_ip: str = "172.16.0.2"
    vm_ssh_port: int = 22
    ssh_user: str = "root"
    page_dir: Path = Path(__file__).parent / "page"
    scrollback: int = MIB
    scrollback_dir: Path | None = None
    max_clients: int = 64
    max_shells: int = 8
    shell_idle_seconds: int = 86400
    recording: bool = True
    recording_dir: Path = Path("/recordings")
    recording_limit: int = 64 * MIB
    record_input: bool = False

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
            trusted_proxies=tuple(env.words("TRUSTED_PROXIES")),
            tls_cert=env.text("TLS_CERT", ""),
            tls_key=env.text("TLS_KEY", ""),
            ports_port=env.integer("PORTS_PORT", 0, high=65535),
            ports_origin=env.text("PORTS_ORIGIN", "").rstrip("/").lower(),
            ports_published=env.integer("PORTS_PUBLISHED", 0, high=65535),
            shared_dir=env.path("SHARED_DIR", "/shared"),
            vm_ip=str(env.ipv4("VM_IP", "172.16.0.2")),
            vm_ssh_port=env.integer("VM_SSH_PORT", 22, low=1, high=65535),
            ssh_user=env.text("SSH_USER", "root"),
            page_dir=env.path("PAGE_DIR", str(cls.page_dir)),
            scrollback=env.size("SCROLLBACK", MIB),
            scrollback_dir=Path(folder) if (folder := env.text("SCROLLBACK_DIR", "")) else None,
            max_clients=env.integer("MAX_CLIENTS", 64, low=1, high=1000),
            max_shells=env.integer("MAX_SHELLS", 8, low=1, high=100),
            shell_idle_seconds=env.integer("SHELL_IDLE_SECONDS", 86400, low=60),
            recording=env.flag("RECORDING", True),
            recording_dir=env.path("RECORDING_DIR", "/recordings"),
            recording_limit=env.size("RECORDING_LIMIT", 64 * MIB),
            record_input=env.flag("RECORD_INPUT"),
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
        if self.recording_limit < MIB:
            faults.append("RECORDING_LIMIT must be at least 1Mi")
        if any(not part or set(part) - _PATH for part in self.base_path.split("/")) and self.base_path:
            faults.append("BASE_PATH may hold letters, digits, -, _, ~ and . between its slashes only")
        try:
            parse_networks(self.trusted_proxies)
        except ValueError as error:
            faults.append(f"TRUSTED_PROXIES: {error}; write networks such as 10.0.0.0/8")
        if bool(self.tls_cert) != bool(self.tls_key):
            faults.append("TLS_CERT and TLS_KEY belong together: set both, or none")
        for origin in self.allowed_origins:
            parts = urlsplit(origin)
            if parts.scheme not in ("http", "https") or not parts.netloc or parts.path:
                faults.append(f"ALLOWED_ORIGINS: {origin!r} is not an origin such as https://lab.example")
        if self.ports_origin:
            parts = urlsplit(self.ports_origin)
            if (
                parts.scheme not in ("http", "https")
                or not parts.netloc.removeprefix("*.")
                or parts.path
                or ("*" in parts.netloc.removeprefix("*."))
            ):
                faults.append(f"PORTS_ORIGIN: {self.ports_origin!r} is not an origin such as https://ports.lab.example")
            if self.ports_origin in self.allowed_origins:
                faults.append("PORTS_ORIGIN is one of ALLOWED_ORIGINS: a guest's page would have the terminal's origin")
        return faults

    @property
    def proxies(self) -> tuple[Network, ...]:
        """Networks of the proxies that are believed."""
        return parse_networks(self.trusted_proxies)

    @property
    def base(self) -> str:
        """Return the base path with a slash before and none behind; "" for none."""
        return f"/{self.base_path}" if self.base_path else ""


_PATH = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_~.")
