"""What firecracker-vm is told by its environment. See ARCHITECTURE.md for the names; the extra ones are described here.

Extra: CONSOLE_LOG (file instead of stdout), FIRECRACKER_BIN, QEMU_BIN, DOCKER_PORT (2375), PROBE_DEADLINE (seconds a
probe boot may take), BOOT_PATIENCE (seconds of silence before init; 0 chooses by accelerator), STOP_GRACE (seconds for
the guest to shut down), NETWORK_WAIT (seconds to wait for network-setup, where it is started at the same time; 0),
SNAPSHOTS_DIR (folder of prepared snapshots: a fresh session that fits one is restored from it; empty: always boot),
SNAPSHOT_OUT (empty folder: boot, save the machine there once it is ready, and end), IDLE_PAUSE (seconds without a
connection to USER_PORTS (8080 to 8082) or SSH_RELAY_PORT after which the guest is paused until the next one; 0: never),
CHECKPOINTS_LIMIT (bytes all checkpoints may take together; 0: what is free). With --prepare: PREPARE_TIMEOUT (seconds
that may take), SNAPSHOTS_LIMIT (bytes all snapshots may take together).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from dozlab.images.snapshots import SIZE_LIMIT
from dozlab.lib.env import Env
from dozlab.lib.errors import BadUsage

HELP = __doc__


@dataclass(frozen=True)
class Settings:
    """One session's VM. Memory in MiB, times in seconds, ports on the addresses named."""

    session: str
    kernels: Path
    vm_data: Path
    shared: Path
    kit: Path
    gateway_ip: IPv4Address
    vm_ip: IPv4Address
    tap: str
    cpus: int
    memory: int
    kernel: Path | None
    vmm: str
    require_kvm: bool
    probe_cache: Path
    vm_ssh_port: int
    relay_port: int
    docker_port: int
    workspace_port: int
    console_log: Path | None
    firecracker_bin: str
    qemu_bin: str
    probe_deadline: float
    boot_patience: float
    stop_grace: float
    network_wait: float
    snapshots: Path | None
    snapshot_out: Path | None
    idle_pause: float
    user_ports: tuple[int, ...]
    checkpoints_limit: int
    prepare_timeout: float
    snapshots_limit: int

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read and check the environment.

        :raises BadUsage: one line per fault
        """
        environ = os.environ if environ is None else environ
        env = Env(environ)
        shared = env.path("SHARED_DIR", "/shared")
        kernel, console = env.text("KERNEL_PATH", ""), env.text("CONSOLE_LOG", "")
        snapshots, out = env.text("SNAPSHOTS_DIR", ""), env.text("SNAPSHOT_OUT", "")
        settings = cls(
            session=env.text("SESSION_ID"),
            kernels=env.path("KERNELS_DIR", "/srv/vm/kernels"),
            vm_data=env.path("VM_DATA", "/vm-data"),
            shared=shared,
            kit=env.path("KIT_DIR", "/usr/lib/dozlab/kit"),
            gateway_ip=env.ipv4("GATEWAY_IP", "172.16.0.1"),
            vm_ip=env.ipv4("VM_IP", "172.16.0.2"),
            tap=env.text("TAP_DEVICE_NAME", "tap0"),
            cpus=env.integer("CPU_COUNT", 2, low=1, high=32),
            memory=env.integer("MEMORY", 2048, low=64, high=1 << 20),
            kernel=Path(kernel) if kernel else None,
            vmm=env.text("VMM", "auto"),
            require_kvm=env.flag("REQUIRE_KVM"),
            probe_cache=env.path("PROBE_CACHE", str(shared / "probe.json")),
            vm_ssh_port=env.integer("VM_SSH_PORT", 22, low=1, high=65535),
            relay_port=env.integer("SSH_RELAY_PORT", 2222, low=0, high=65535),
            docker_port=env.integer("DOCKER_PORT", 2375, low=1, high=65535),
            workspace_port=env.integer("WORKSPACE_PORT", 5540, low=0, high=65535),
            console_log=Path(console) if console else None,
            firecracker_bin=env.text("FIRECRACKER_BIN", ""),
            qemu_bin=env.text("QEMU_BIN", ""),
            probe_deadline=env.integer("PROBE_DEADLINE", 8, low=1, high=600),
            boot_patience=env.integer("BOOT_PATIENCE", 0, high=3600),
            stop_grace=env.integer("STOP_GRACE", 25, high=3600),
            network_wait=env.integer("NETWORK_WAIT", 0, high=600),
            snapshots=Path(snapshots) if snapshots else None,
            snapshot_out=Path(out) if out else None,
            idle_pause=env.integer("IDLE_PAUSE", 0),
            user_ports=_ports(env),
            checkpoints_limit=env.size("CHECKPOINTS_LIMIT", 0),
            prepare_timeout=env.integer("PREPARE_TIMEOUT", 600, low=1),
            snapshots_limit=env.size("SNAPSHOTS_LIMIT", SIZE_LIMIT),
        )
        env.check()
        faults = []
        if not settings.user_ports:
            faults.append("USER_PORTS: not a list of ports such as 8080,8081")
        if settings.vmm not in ("auto", "firecracker", "qemu"):
            faults.append(f"VMM={settings.vmm!r}: write auto, firecracker or qemu")
        if not settings.tap or len(settings.tap) > 15 or any(c in settings.tap for c in "/, \t"):
            faults.append(f"TAP_DEVICE_NAME={settings.tap!r}: not a device name of at most 15 characters")
        if faults:
            raise BadUsage("\n".join(faults))
        return settings


def _ports(env: Env) -> tuple[int, ...]:
    """Return the ports of terminal and editor; none where what is told is no list of ports."""
    words = env.words("USER_PORTS") or ["8080", "8081", "8082"]
    return tuple(int(word) for word in words) if all(word.isdecimal() and int(word) < 65536 for word in words) else ()
