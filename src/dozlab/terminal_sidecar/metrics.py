"""Prometheus figures. Gauges are read from the real objects at each scrape, so no error path can leave them wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

if TYPE_CHECKING:
    from dozlab.terminal_sidecar.guest import Guest
    from dozlab.terminal_sidecar.shell import Shells

__all__ = ["CONTENT_TYPE_LATEST", "Metrics"]


class Metrics:
    """Counters that the server raises, and a collector over guest and shells."""

    def __init__(self, guest: Guest, shells: Shells) -> None:
        self._guest, self._shells = guest, shells
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self.logins = Counter(
            "dozlab_terminal_logins", "Attempts to log in", ["result"], registry=self.registry
        )  # fmt: skip
        self.connections = Counter(
            "dozlab_terminal_connections", "WebSockets accepted, and refused by reason", ["result"],
            registry=self.registry,
        )  # fmt: skip
        self.sent = Counter("dozlab_terminal_output_bytes", "Bytes of output sent to clients", registry=self.registry)
        self.received = Counter("dozlab_terminal_input_bytes", "Bytes of input from clients", registry=self.registry)

    def collect(self) -> Iterator[Metric]:
        """Yield what is true now (prometheus_client calls this)."""
        shells = self._shells.all()
        yield GaugeMetricFamily(
            "dozlab_terminal_guest_up", "1 while SSH to the guest answers", value=float(self._guest.state == "live")
        )
        yield CounterMetricFamily(
            "dozlab_terminal_guest_connections", "SSH connections made", value=self._guest.connections
        )
        yield GaugeMetricFamily(
            "dozlab_terminal_clients", "Browsers attached", value=sum(len(shell.clients) for shell in shells)
        )
        yield GaugeMetricFamily(
            "dozlab_terminal_shells", "Shells running in the guest", value=sum(s.live for s in shells)
        )

    def render(self) -> bytes:
        """Return the text exposition."""
        return generate_latest(self.registry)
