"""The metrics of the service: what the sampler has, and its own counters.

A scrape joins blocks that are rendered already. A source's block is rendered again when it has a new sample,
and the service's own counters when the last rendering is OWN_SECONDS old.
"""

from __future__ import annotations

import platform
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, Info, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric, UnknownMetricFamily
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from . import __version__
from .sampler import Snapshot, State

OWN_SECONDS = 0.1

Encode = Callable[[Collector], bytes]
Block = Mapping[str, tuple[bytes, bytes]]  # by family: the comments above its samples, and the samples

_OPENMETRICS_END = b"# EOF\n"
_KINDS = {"gauge": GaugeMetricFamily, "counter": CounterMetricFamily, "unknown": UnknownMetricFamily}


class Metrics:
    """One registry per instance, so that a process can hold several. Thread-safe."""

    def __init__(self, collectors: Iterable[Collector] = (), clock: Callable[[], float] = time.monotonic) -> None:
        self._own = CollectorRegistry()
        self._clock = clock
        # Several requests for what is not rendered yet wait for one rendering, instead of each doing its own.
        self._lock = threading.Lock()
        self._formats = {
            False: _Format(generate_latest, self._own),
            True: _Format(openmetrics.generate_latest, self._own),
        }
        self.requests = Counter(
            "sensor_requests_total", "HTTP requests.", ("path", "method", "code"), registry=self._own
        )
        self._scrape_duration = Histogram(
            "sensor_scrape_duration_seconds",
            "Time to render /metrics.",
            buckets=(0.0001, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1),
            registry=self._own,
        )
        # Rendered as sensor_build_info.
        Info("sensor_build", "Version of the service and of Python.", registry=self._own).info(
            {"version": __version__, "python": platform.python_version()}
        )
        ProcessCollector(registry=self._own)
        for collector in collectors:
            self._own.register(collector)

    def render(self, snapshots: Sequence[Snapshot], as_openmetrics: bool) -> tuple[bytes, str]:
        """Return the body and the content type of a scrape."""
        started = time.perf_counter()
        with self._lock:
            body = self._formats[as_openmetrics].render(snapshots, self._clock())
        self._scrape_duration.observe(time.perf_counter() - started)
        return body, openmetrics.CONTENT_TYPE_LATEST if as_openmetrics else CONTENT_TYPE_PLAIN_0_0_4


class _Format:
    """One exposition format, and what was rendered in it last."""

    def __init__(self, encode: Encode, own: Collector) -> None:
        self._encode = encode
        self._own = own
        self._blocks: dict[str, tuple[object, Block]] = {}
        self._sampled: tuple[object, bytes] = (None, b"")
        self._own_rendered: tuple[float, bytes] = (-OWN_SECONDS, b"")

    def render(self, snapshots: Sequence[Snapshot], now: float) -> bytes:
        key = tuple((snapshot.generation, snapshot.state) for snapshot in snapshots)
        if self._sampled[0] != key:
            blocks = [self._block(snapshot) for snapshot in snapshots]
            self._sampled = (key, _join(blocks))
        if now - self._own_rendered[0] >= OWN_SECONDS:
            self._own_rendered = (now, self._encode(self._own))
        return self._sampled[1] + self._own_rendered[1]

    def _block(self, snapshot: Snapshot) -> Block:
        key = (snapshot.generation, snapshot.state)
        known = self._blocks.get(snapshot.name)
        if known is None or known[0] != key:
            families = {family.name: self._split(family) for family in _families(snapshot)}
            known = self._blocks[snapshot.name] = (key, families)
        return known[1]

    def _split(self, family: Metric) -> tuple[bytes, bytes]:
        text = self._encode(_One(family)).removesuffix(_OPENMETRICS_END)
        help_line, type_line, samples = text.split(b"\n", 2)
        return help_line + b"\n" + type_line + b"\n", samples


class _One(Collector):
    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterable[Metric]:
        return (self._family,)


def _join(blocks: Sequence[Block]) -> bytes:
    """Both formats want all samples of a family in one group, whichever source they are from."""
    groups: dict[str, list[bytes]] = {}
    for block in blocks:
        for name, (comments, samples) in block.items():
            groups.setdefault(name, [comments]).append(samples)
    return b"".join(part for group in groups.values() for part in group)


def _families(snapshot: Snapshot) -> Iterable[Metric]:
    """A source's state, and its readings unless they are stale: a gap in a graph is true, a flat line is not."""
    source = (snapshot.name,)
    for kind, name, text, value in (
        (CounterMetricFamily, "sensor_failed_total", "Samples that failed.", snapshot.failed),
        (CounterMetricFamily, "sensor_loop_iterations_total", "Samples that ended.", snapshot.iterations),
        (
            CounterMetricFamily,
            "sensor_readings_dropped_total",
            "Readings of series over the source's max_series.",
            snapshot.dropped,
        ),
        (GaugeMetricFamily, "sensor_queue_depth", "Readings in the buffer.", snapshot.queue_depth),
        (
            GaugeMetricFamily,
            "sensor_source_up",
            "1 if the last sample was complete and is not stale.",
            snapshot.state is State.OK,
        ),
        (
            GaugeMetricFamily,
            "sensor_source_stale",
            "1 if there is no sample, or none for 3 intervals and the timeout.",
            snapshot.state in (State.PENDING, State.STALE),
        ),
        (
            GaugeMetricFamily,
            "sensor_last_sample_timestamp_seconds",
            "Unix time of the last good sample, 0 before the first.",
            snapshot.timestamp,
        ),
    ):
        family = kind(name, text, labels=("source",))
        family.add_metric(source, value)
        yield family
    if snapshot.state is State.STALE:
        return
    named = {
        family.name: _KINDS[family.kind](family.name, family.help, labels=family.labels) for family in snapshot.families
    }
    readings = GaugeMetricFamily(
        "sensor_reading", "Last value of each sensor, in the unit of the label.", labels=("source", "sensor", "unit")
    )
    for item in snapshot.readings:
        if item.sensor in named:
            named[item.sensor].add_metric([value for _, value in item.labels], item.value)
        else:
            readings.add_metric((item.source, item.sensor, item.unit), item.value)
    yield from (family for family in (readings, *named.values()) if family.samples)
