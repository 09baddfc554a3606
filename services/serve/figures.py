"""What serving counts, for `/metrics`. One registry per server, so that two in one process keep apart."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.serve.endpoint import Endpoint
from services.serve.outbox import Outbox

_BUCKETS_S = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5)


class Figures:
    """Counters of one server. `latency` is the time from a complete body to its score, without the network."""

    def __init__(self, endpoint: Endpoint, outbox: Outbox) -> None:
        self.registry = CollectorRegistry()
        self.shadow_pending = 0
        self.answers = Counter("weir_serve_answers", "predictions made", ["deployment", "role"], registry=self.registry)
        self.errors = Counter("weir_serve_errors", "requests refused, by status", ["status"], registry=self.registry)
        self.shadows_dropped = Counter(
            "weir_serve_shadows_dropped", "shadows left out because too many waited", registry=self.registry
        )
        self.shadows_failed = Counter(
            "weir_serve_shadows_failed", "shadows that could not score the request", registry=self.registry
        )
        self.latency = Histogram(
            "weir_serve_seconds", "from a complete body to its score", registry=self.registry, buckets=_BUCKETS_S
        )
        self.registry.register(_States(self, endpoint, outbox))


class _States(Collector):
    """Gauges that are read where they live when somebody asks."""

    def __init__(self, figures: Figures, endpoint: Endpoint, outbox: Outbox) -> None:
        self._figures, self._endpoint, self._outbox = figures, endpoint, outbox

    def collect(self) -> Iterable[Metric]:
        endpoint, outbox = self._endpoint, self._outbox
        desired, served = endpoint.desired, endpoint.served
        gauges = {
            "desired_revision": ("highest revision read", desired.revision if desired else 0),
            "revision": ("revision that answers", served.promote.revision if served else 0),
            "converged": ("1: serves what it should", int(endpoint.converged)),
            "shadow_pending": ("shadows that wait", self._figures.shadow_pending),
            "outbox_pending": ("events that Kafka has not acknowledged", outbox.pending),
            "outbox_bytes": ("size of the outbox on disk", outbox.bytes_on_disk),
            "outbox_behind": ("1: events wait on disk", int(outbox.behind)),
        }
        for name, (about, value) in gauges.items():
            yield GaugeMetricFamily(f"weir_serve_{name}", about, value=value)
        for name in ("acknowledged", "dropped", "refused"):
            yield CounterMetricFamily(f"weir_serve_events_{name}", f"events {name}", value=getattr(outbox, name))
        imputed = CounterMetricFamily(
            "weir_serve_imputed", "missing features replaced by the mean", labels=["deployment", "feature"]
        )
        for one in served.deployed if served else ():
            for feature, count in tuple(one.model.imputed.items()):
                imputed.add_metric([one.deployment.deployment, feature], count)
        yield imputed
