"""What init-rootfs is told by its environment, typed. ARCHITECTURE.md "Environment" is the contract."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from dozlab.init_rootfs.urls import has_userinfo, shown
from dozlab.lib.env import Env
from dozlab.lib.resolv import host_nameservers
from dozlab.lib.units import GIB, MIB, format_size

MIN_DISK = 64 * MIB
"""Bytes. Smaller session disks leave no room for ext4's journal and Docker's own folders."""

_DIGEST = re.compile(r"^[0-9a-f]{64}$")
_HOSTNAME = re.compile(r"^[A-Za-z0-9]([-A-Za-z0-9]{0,61}[A-Za-z0-9])?$")
_KEY = re.compile(r"^(ssh-|ecdsa-|sk-)\S+ [A-Za-z0-9+/]+=*( .*)?$")


@dataclass(frozen=True)
class Settings:
    """One session's disks and identity as they are wanted."""

    session_id: str
    kernels_dir: Path
    vm_data: Path
    shared_dir: Path
    image_urls: tuple[str, ...]
    """Where the base image can be had: the same one everywhere, tried in turn."""
    image_sha256: str
    """Digest of the uncompressed image; empty: not checked."""
    image_path: Path | None
    """A base to use as it is, instead of one from the store."""
    disk_size: int
    """Bytes of the session disk (IMAGE_SIZE)."""
    kernels_limit: int
    """Bytes an unpacked base may have (the volume's sizeLimit); 0: whatever the file system has free."""
    authorized_keys: tuple[str, ...]
    hostname: str
    gateway: IPv4Address
    vm: IPv4Address
    dns: tuple[IPv4Address, ...]
    owner_uid: int
    """Who shall own what the other components read (SESSION_UID): keys, identity, session disk."""
    auth_file: Path | None = None
    """Credentials for the download (IMAGE_AUTH_FILE): netrc lines, a bearer token, or docker's config.json."""
    docker_dir: Path | None = None
    """Where `docker login` leaves credentials (DOCKER_CONFIG): for registries, without an auth_file."""
    ca_file: Path | None = None
    """Certificates believed beside the system's (IMAGE_CA_FILE)."""
    prepare_dir: Path | None = None
    """Where the same is made once more, for a machine that is saved for all sessions (PREPARE_DIR)."""


def from_env(environ: Mapping[str, str] | None = None) -> Settings:
    """Return the settings.

    :raises BadUsage: one line per fault, each naming its variable
    """
    values = os.environ if environ is None else environ
    env = Env(values)
    faults: list[str] = []
    servers = []
    for word in env.words("DNS_SERVERS"):
        try:
            servers.append(IPv4Address(word))
        except ValueError as error:
            faults.append(f"DNS_SERVERS: {error}")
    image_path = env.path("IMAGE_PATH", "")
    prepare_dir = env.text("PREPARE_DIR", "")
    auth_file, ca_file = env.text("IMAGE_AUTH_FILE", ""), env.text("IMAGE_CA_FILE", "")
    session_id = env.text("SESSION_ID")
    settings = Settings(
        session_id=session_id,
        kernels_dir=env.path("KERNELS_DIR", "/srv/vm/kernels"),
        vm_data=env.path("VM_DATA", "/vm-data"),
        shared_dir=env.path("SHARED_DIR", "/shared"),
        image_urls=tuple(dict.fromkeys(env.text("IMAGE_DOWNLOAD_URL", "").split())),
        image_sha256=env.text("IMAGE_SHA256", "").strip().lower().removeprefix("sha256:"),
        image_path=image_path if values.get("IMAGE_PATH") else None,
        disk_size=env.size("IMAGE_SIZE", 4 * GIB),
        kernels_limit=env.size("KERNELS_SIZE_LIMIT", 0),
        authorized_keys=tuple(k.strip() for k in env.text("SSH_AUTHORIZED_KEYS", "").splitlines() if k.strip()),
        hostname=env.text("VM_HOSTNAME", session_id),
        gateway=env.ipv4("GATEWAY_IP", "172.16.0.1"),
        vm=env.ipv4("VM_IP", "172.16.0.2"),
        dns=tuple(dict.fromkeys(servers)) or tuple(host_nameservers()),
        owner_uid=env.integer("SESSION_UID", os.getuid(), high=(1 << 32) - 2),
        auth_file=Path(auth_file) if auth_file else None,
        docker_dir=Path(env.text("DOCKER_CONFIG", "~/.docker")).expanduser(),
        ca_file=Path(ca_file) if ca_file else None,
        prepare_dir=Path(prepare_dir) if prepare_dir else None,
    )
    faults += _cross_faults(settings)
    env.check(faults)
    return settings


def _cross_faults(settings: Settings) -> list[str]:
    faults = []
    if not settings.image_urls and not settings.image_path and not settings.image_sha256:
        faults.append("IMAGE_DOWNLOAD_URL is not set (the base image: an http, https, oci or file URL, or a path)")
    faults += [
        f"IMAGE_DOWNLOAD_URL: {shown(url)} has a user or password in it; write them to a file, and its name to"
        " IMAGE_AUTH_FILE"
        for url in settings.image_urls
        if has_userinfo(url)
    ]
    if settings.image_sha256 and not _DIGEST.match(settings.image_sha256):
        faults.append(f"IMAGE_SHA256={settings.image_sha256!r}: a sha256 is 64 hexadecimal digits")
    if settings.disk_size < MIN_DISK:
        faults.append(
            f"IMAGE_SIZE={format_size(settings.disk_size)}: a session disk has {format_size(MIN_DISK)} or more"
        )
    if not _HOSTNAME.match(settings.hostname):
        faults.append(f"VM_HOSTNAME={settings.hostname!r}: not a host name (1 to 63 of letters, digits and -)")
    faults += [
        f"SSH_AUTHORIZED_KEYS: {key[:40]!r} is no OpenSSH public key line"
        for key in settings.authorized_keys
        if not _KEY.match(key)
    ]
    return faults
