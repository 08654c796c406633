"""From values to the environment of each component (ARCHITECTURE.md, "Environment"). Pure.

The chart sets the same variables; this is where one machine does.
"""

from __future__ import annotations

from pathlib import Path

from dozlab.lib.units import parse_duration, parse_size
from dozlab.session.layout import POD
from dozlab.values import Values

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

Environment = dict[str, str]


def common(values: Values, *, dns: str, view: Path = POD) -> Environment:
    """Return what every component gets."""
    network = values.network
    return {
        "PATH": PATH,
        "LANG": "C.UTF-8",
        "HOME": "/nonexistent",
        "PYTHONPATH": str(view / "app/src"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "SESSION_ID": values.session.id,
        "KERNELS_DIR": str(view / "kernels"),
        "VM_DATA": str(view / "vm-data"),
        "SHARED_DIR": str(view / "shared"),
        "KIT_DIR": str(view / "kit"),
        "GATEWAY_IP": network.gateway_ip,
        "VM_IP": network.vm_ip,
        "TAP_DEVICE_NAME": network.tap_device,
        "WORKSPACE_PORT": "5540" if values.code_server.enabled else "0",
        "DNS_SERVERS": ",".join(network.dns) or dns,
    }


def init_rootfs(values: Values) -> Environment:
    """Return init-rootfs's own variables."""
    return {
        "IMAGE_DOWNLOAD_URL": " ".join(values.rootfs.addresses),
        "IMAGE_SHA256": values.rootfs.sha256,
        "IMAGE_SIZE": str(parse_size(values.rootfs.disk_size)),
        "KERNELS_SIZE_LIMIT": str(parse_size(values.volumes.kernels.size_limit)),
        "SSH_AUTHORIZED_KEYS": "\n".join(values.ssh.authorized_keys),
        "VM_HOSTNAME": values.session.id,
    }


def serves_ports(values: Values) -> bool:
    """Tell whether there is a proxy to web servers in the guest: a part of the terminal."""
    return values.terminal.enabled and values.ports.enabled


def _ports_port(values: Values) -> str:
    return "8082" if serves_ports(values) else "0"


def network_setup(values: Values, *, tap_uid: int) -> Environment:
    """Return network-setup's own variables."""
    return {
        "TAP_UID": str(tap_uid),
        "PORTS_PORT": _ports_port(values),
        "EGRESS_ALLOW": ",".join(values.network.egress.allow),
        "EGRESS_DENY": ",".join(values.network.egress.deny),
    }


def firecracker_vm(values: Values, *, cold: bool = False, view: Path = POD) -> Environment:
    """Return firecracker-vm's own variables.

    :param cold: boot, whatever snapshots there are
    """
    return {
        "CPU_COUNT": str(values.vm.cpu_count),
        "MEMORY": str(values.vm.memory),
        "IDLE_PAUSE": str(parse_duration(values.vm.idle_pause)),
        "VMM": values.firecracker.vmm,
        "REQUIRE_KVM": str(values.firecracker.require_kvm).lower(),
        "PROBE_CACHE": str(view / "shared/probe.json"),
        "SNAPSHOTS_DIR": "" if cold else str(view / "kernels/snapshots"),
        # Started beside network-setup: its Python is up by the time the tap is.
        "NETWORK_WAIT": "30",
        # An emulated guest whose Docker is just starting takes long to stop; the supervisor waits a little longer.
        "STOP_GRACE": "50",
    }


def terminal_sidecar(values: Values, *, view: Path = POD) -> Environment:
    """Return terminal-sidecar's own variables."""
    return {
        "PORT": "8081",
        "PORTS_PORT": _ports_port(values),
        "PORTS_ORIGIN": values.ports.origin,
        "BASE_PATH": values.terminal.base_path,
        "ALLOWED_ORIGINS": ",".join(values.terminal.allowed_origins),
        "TRUSTED_PROXIES": ",".join(values.terminal.trusted_proxies),
        "PASSWORD_FILE": str(view / "shared/password"),
        "TLS_CERT": str(view / "shared/tls.crt") if values.terminal.tls.served else "",
        "TLS_KEY": str(view / "shared/tls.key") if values.terminal.tls.served else "",
        "RECORDING": str(values.terminal.recording.enabled).lower(),
        "RECORDING_DIR": str(view / "vm-data/recordings"),
        "RECORDING_LIMIT": str(parse_size(values.terminal.recording.size_limit)),
        "RECORD_INPUT": str(values.terminal.recording.input).lower(),
    }


def code_server(values: Values, *, view: Path = POD) -> Environment:
    """Return code-server's own variables."""
    return {
        "PORT": "8080",
        "VSCODE_DATA": str(view / "coder"),
        "WORKSPACE_SIZE": str(parse_size(values.volumes.workspace.size_limit)),
        "WORKSPACE_READ_ONLY": str(values.code_server.workspace_read_only).lower(),
        "PASSWORD_FILE": str(view / "shared/password"),
        "SANDBOX": "bwrap",
        "CODE_SERVER_DIR": str(view / "code-server"),
        "DOCKER_CLI_DIR": str(view / "docker-cli"),
    }
