"""The metrics of the service: its own counters, and the readings as the sampler left them."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, Info, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from . import __version__
from .sampler import Snapshot, State

_OPENMETRICS_END = b"# EOF\n"


class Metrics:
    """One registry per instance, so that a process can hold several. Thread-safe."""

    def __init__(self) -> None:
        self._own = CollectorRegistry()
        self._sampled: dict[bool, tuple[object, bytes]] = {}
        self.requests = Counter(
            "sensor_requests_total", "HTTP requests.", ("path", "method", "code"), registry=self._own
        )
        self.cpu_spike = Histogram(
            "sensor_cpu_spike_seconds",
            "How long the service used more than half a core without a break.",
            buckets=(0.5, 1, 2, 5, 10, 30, 60, 300),
            registry=self._own,
        )
        self._scrape_duration = Histogram(
            "sensor_scrape_duration_seconds",
            "Time to render /metrics.",
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1),
            registry=self._own,
        )
        # Rendered as sensor_build_info.
        Info("sensor_build", "Version of the service and of Python.", registry=self._own).info(
            {"version": __version__, "python": platform.python_version()}
        )
        ProcessCollector(registry=self._own)

    def render(self, snapshots: Sequence[Snapshot], as_openmetrics: bool) -> tuple[bytes, str]:
        """Return the body and the content type of a scrape."""
        started = time.perf_counter()
        encode: Callable[[Collector], bytes]
        if as_openmetrics:
            encode, content_type = openmetrics.generate_latest, openmetrics.CONTENT_TYPE_LATEST
        else:
            encode, content_type = generate_latest, CONTENT_TYPE_PLAIN_0_0_4
        sampled = self._render_sampled(snapshots, as_openmetrics, encode)
        body = sampled.removesuffix(_OPENMETRICS_END) + encode(self._own)
        self._scrape_duration.observe(time.perf_counter() - started)
        return body, content_type

    def _render_sampled(
        self, snapshots: Sequence[Snapshot], as_openmetrics: bool, encode: Callable[[Collector], bytes]
    ) -> bytes:
        """Render what the sources gave, once per change: two scrapers of one sample cost one rendering."""
        key = tuple((snapshot.generation, snapshot.state) for snapshot in snapshots)
        cached = self._sampled.get(as_openmetrics)
        if cached is None or cached[0] != key:
            cached = self._sampled[as_openmetrics] = (key, encode(_Sampled(snapshots)))
        return cached[1]


class _Sampled(Collector):
    """The sampler's snapshots as metric families."""

    def __init__(self, snapshots: Sequence[Snapshot]) -> None:
        self._snapshots = snapshots

    def collect(self) -> Iterable[Metric]:
        reading = GaugeMetricFamily(
            "sensor_reading",
            "Last value of each sensor, in the unit of the label.",
            labels=("source", "sensor", "unit"),
        )
        failed = CounterMetricFamily("sensor_failed_total", "Samples that failed.", labels=("source",))
        loops = CounterMetricFamily("sensor_loop_iterations_total", "Samples that were begun.", labels=("source",))
        depth = GaugeMetricFamily("sensor_queue_depth", "Readings in the buffer.", labels=("source",))
        up = GaugeMetricFamily(
            "sensor_source_up", "1 if the last sample was complete and is not stale.", labels=("source",)
        )
        sampled = GaugeMetricFamily(
            "sensor_last_sample_timestamp_seconds",
            "Unix time of the last good sample, 0 before the first.",
            labels=("source",),
        )
        for snapshot in self._snapshots:
            labels = (snapshot.name,)
            failed.add_metric(labels, snapshot.failed)
            loops.add_metric(labels, snapshot.iterations)
            depth.add_metric(labels, snapshot.queue_depth)
            up.add_metric(labels, float(snapshot.state is State.OK))
            sampled.add_metric(labels, snapshot.timestamp)
            if snapshot.state is State.STALE:
                continue  # a gap in a graph is true, a flat line at the last value is not
            for item in snapshot.readings:
                reading.add_metric((item.source, item.sensor, item.unit), item.value)
        return (reading, failed, loops, depth, up, sampled)
