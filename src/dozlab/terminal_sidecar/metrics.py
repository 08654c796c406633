"""Prometheus figures. Gauges are read from the real objects at each scrape, so no error path can leave them wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

if TYPE_CHECKING:
    from dozlab.terminal_sidecar.guest import Guest
    from dozlab.terminal_sidecar.shell import Shells

__all__ = ["CONTENT_TYPE_LATEST", "Leg", "Metrics"]

_LOGINS = ("ok", "wrong", "delayed")
_CONNECTIONS = ("ok", "origin", "login", "draining", "full")


class Leg:
    """The round trip to the guest as clients were last told it. Pure."""

    def __init__(self) -> None:
        self._told: float | None = None

    def news(self, now: float | None) -> bool:
        """Tell whether they should be told again: it is known or not known any more, or is clearly another one.

        :param now: seconds
        """
        told = self._told
        if now is None or told is None:
            news = now is not told
        else:
            news = abs(now - told) >= 0.001 and not 2 / 3 < now / told < 3 / 2
        if news:
            self._told = now
        return news


@dataclass
class Traffic:
    """Bytes of output sent to clients, and of input received: plain numbers, for they are added to with every key."""

    sent: int = 0
    received: int = 0


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
        for counter, results in ((self.logins, _LOGINS), (self.connections, _CONNECTIONS)):
            for result in results:
                counter.labels(result)  # there from the start, with 0: a rate has no gap
        self.traffic = Traffic()

    def collect(self) -> Iterator[Metric]:
        """Yield what is true now (prometheus_client calls this)."""
        shells = self._shells.all()
        if (latency := self._guest.latency) is not None:
            yield GaugeMetricFamily(
                "dozlab_terminal_guest_round_trip_seconds",
                "Round trip from here to the guest (TCP_INFO)",
                value=latency,
            )
        yield GaugeMetricFamily(
            "dozlab_terminal_guest_up", "1 while SSH to the guest answers", value=float(self._guest.state == "live")
        )
        yield CounterMetricFamily(
            "dozlab_terminal_output_bytes", "Bytes of output sent to clients", value=self.traffic.sent
        )
        yield CounterMetricFamily(
            "dozlab_terminal_input_bytes", "Bytes of input from clients", value=self.traffic.received
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
