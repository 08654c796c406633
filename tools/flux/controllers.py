"""Command lines and environment of the two controllers. Pure: touches nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

NAMESPACE = "flux-system"
"""Where Flux would run in a cluster: its events about itself go there."""


@dataclass(frozen=True)
class Ports:
    """Ports of 127.0.0.1."""

    storage: int
    """Where source-controller serves what it has fetched."""
    source: int
    helm: int
    """Where the two answer /readyz."""


@dataclass(frozen=True)
class Controller:
    """One process."""

    name: str
    argv: tuple[str, ...]
    health: str
    """URL that answers 200 once the controller works."""


def controllers(programs: Path, data: Path, ports: Ports) -> list[Controller]:
    """Return both, in the order of their start."""
    lines = {
        "source-controller": [
            f"--storage-path={data}/storage", f"--storage-addr=127.0.0.1:{ports.storage}",
            # Written into every artifact's URL, so helm-controller needs no DNS of the cluster.
            f"--storage-adv-addr=127.0.0.1:{ports.storage}",
        ],
        "helm-controller": [],
    }  # fmt: skip
    health = {"source-controller": ports.source, "helm-controller": ports.helm}
    return [
        Controller(
            name,
            (
                f"{programs}/{name}", "--metrics-addr=0", f"--health-addr=127.0.0.1:{health[name]}",
                "--log-encoding=json", "--watch-all-namespaces=true", *line,
            ),
            f"http://127.0.0.1:{health[name]}/readyz",
        )
        for name, line in lines.items()
    ]  # fmt: skip


def environment(kubeconfig: Path, data: Path) -> dict[str, str]:
    """Return all that a controller sees: nothing of ours, so that no setting of a test changes what it does."""
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": str(data),
        "TMPDIR": str(data / "tmp"),
        "KUBECONFIG": str(kubeconfig),
        "RUNTIME_NAMESPACE": NAMESPACE,
    }
