"""What network-setup is told by its environment, typed. ARCHITECTURE.md "Environment" is the contract."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from dozlab.lib.env import Env
from dozlab.lib.resolv import host_nameservers

PREFIX = 24
"""Prefix length of the link between namespace and guest."""
IFNAMSIZ = 15


@dataclass(frozen=True)
class Settings:
    """One session's network as it is wanted."""

    session_id: str
    shared_dir: Path
    gateway: IPv4Address
    """Our end of the tap."""
    vm: IPv4Address
    """The guest."""
    tap: str
    tap_uid: int
    """Who may open the tap: the VMM's uid."""
    dns: tuple[IPv4Address, ...]
    """Name servers the guest may ask on port 53, wherever they are."""
    allow: tuple[IPv4Network, ...]
    """Opened although closed by default."""
    deny: tuple[IPv4Network, ...]
    """Closed although open by default; wins over `allow`, but 0.0.0.0/0 here means "all but `allow`"."""
    workspace_port: int
    """TCP port of the gateway address that the guest may reach (the workspace bridge)."""
    relay_port: int
    """TCP port of the SSH relay, open from the uplink's side beside 8080 and 8081."""
    ports_port: int
    """TCP port of the terminal's proxy to web servers in the guest, open in the same way; 0: none."""
    uplink: str
    """Device to the world; empty for that of the default route."""
    protected: tuple[IPv4Network, ...]
    """Further addresses closed by default: the node (HOST_IP) and the API server (KUBERNETES_SERVICE_HOST)."""

    @property
    def link(self) -> IPv4Network:
        """Return the network of the tap."""
        return IPv4Network(f"{self.gateway}/{PREFIX}", strict=False)


def from_env(environ: Mapping[str, str] | None = None) -> Settings:
    """Return the settings.

    :raises BadUsage: one line per fault, each naming its variable
    """
    values = os.environ if environ is None else environ
    env = Env(values)
    faults: list[str] = []

    def networks(name: str) -> tuple[IPv4Network, ...]:
        found = []
        for word in env.words(name):
            try:
                found.append(IPv4Network(word))
            except ValueError as error:
                faults.append(f"{name}: {error} (write networks such as 10.1.0.0/16)")
        return tuple(found)

    def servers() -> tuple[IPv4Address, ...]:
        found = []
        for word in env.words("DNS_SERVERS"):
            try:
                address = IPv4Address(word)
            except ValueError as error:
                faults.append(f"DNS_SERVERS: {error}")
                continue
            if address.is_loopback:
                faults.append(f"DNS_SERVERS: {address} would be the guest itself; name a server it can reach")
            found.append(address)
        return tuple(dict.fromkeys(found)) or tuple(host_nameservers())

    settings = Settings(
        session_id=env.text("SESSION_ID"),
        shared_dir=env.path("SHARED_DIR", "/shared"),
        gateway=env.ipv4("GATEWAY_IP", "172.16.0.1"),
        vm=env.ipv4("VM_IP", "172.16.0.2"),
        tap=env.text("TAP_DEVICE_NAME", "tap0"),
        tap_uid=env.integer("TAP_UID", os.getuid(), high=(1 << 32) - 2),
        dns=servers(),
        allow=networks("EGRESS_ALLOW"),
        deny=networks("EGRESS_DENY"),
        workspace_port=env.integer("WORKSPACE_PORT", 5540, low=0, high=65535),
        relay_port=env.integer("SSH_RELAY_PORT", 2222, low=1, high=65535),
        ports_port=env.integer("PORTS_PORT", 0, low=0, high=65535),
        uplink=values.get("UPLINK_DEVICE", ""),
        protected=_protected(values),
    )
    faults += _cross_faults(settings)
    env.check(faults)
    return settings


def _protected(values: Mapping[str, str]) -> tuple[IPv4Network, ...]:
    """Return what Kubernetes tells every Pod about its API server, and our chart about the node (IPv4 only)."""
    found = []
    for name in ("KUBERNETES_SERVICE_HOST", "HOST_IP"):
        try:
            found.append(IPv4Network(values.get(name, "")))
        except ValueError:
            continue
    return tuple(found)


def _cross_faults(settings: Settings) -> list[str]:
    faults = []
    if settings.vm not in settings.link or settings.vm == settings.gateway:
        faults.append(f"VM_IP={settings.vm} must be another address of {settings.link}")
    for name, device in (("TAP_DEVICE_NAME", settings.tap), ("UPLINK_DEVICE", settings.uplink)):
        if device and not (
            len(device) <= IFNAMSIZ and all(c.isascii() and (c.isalnum() or c in "_.-") for c in device)
        ):
            faults.append(f"{name}={device!r}: at most {IFNAMSIZ} of letters, digits, _ . and -")
    if settings.tap in (".", "..", "lo", settings.uplink):
        faults.append(f"TAP_DEVICE_NAME={settings.tap!r} cannot be a tap's name")
    return faults
