"""From values to a plan: what the launcher and the supervisor will start. Pure but for asking about the host's DNS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from dozlab.lib import paths
from dozlab.session import environment, pasta, python, resources, state
from dozlab.session.host import host_dns
from dozlab.session.layout import POD, Layout
from dozlab.session.plan import Plan
from dozlab.values import Tls, Values

PlanMaker = Callable[[Layout, state.Facts, Values], Plan]


def make_plan(layout: Layout, facts: state.Facts, values: Values, *, cold: bool = False) -> Plan:
    """Return what is to be started.

    :param cold: boot, even where a prepared snapshot is there
    """
    shared = environment.common(values, dns=pasta.DNS_FORWARD if host_dns() else "")
    own = {
        "init-rootfs": environment.init_rootfs(values),
        "network-setup": environment.network_setup(values, tap_uid=facts.uid or 0),
        "firecracker-vm": environment.firecracker_vm(values, cold=cold),
    }
    if resources.FIRECRACKER in facts.resources:
        own["firecracker-vm"]["FIRECRACKER_BIN"] = str(POD / resources.FIRECRACKER)
    if values.terminal.enabled:
        own["terminal-sidecar"] = environment.terminal_sidecar(values) | {"PORTS_PUBLISHED": str(facts.ports.ports)}
    if values.code_server.enabled:
        own["code-server"] = environment.code_server(values)
    tls = values.terminal.tls if values.terminal.enabled else Tls()
    read_only = {name: str(path) for name, path in python.host_paths().items()}
    return Plan(
        id=layout.id,
        uid=facts.uid,
        environments={name: {**shared, **env} for name, env in own.items()},
        read_only={**read_only, "kernels": str(paths.cache() / "store"), **facts.resources},
        writable={"vm-data": str(layout.vm_data), "coder": str(layout.coder), "shared": str(layout.shared)},
        certificate=[tls.key_file, tls.cert_file] if tls.served else [],
    )


def saving(plan: Plan, folder: Path) -> Plan:
    """Return the plan of a session that saves its guest into a folder as soon as it is ready, and ends."""
    vm = {**plan.environments["firecracker-vm"], "SNAPSHOT_OUT": str(POD / "snapshot"), "IDLE_PAUSE": "0"}
    return replace(
        plan,
        environments={**plan.environments, "firecracker-vm": vm},
        writable={**plan.writable, "snapshot": str(folder)},
    )
