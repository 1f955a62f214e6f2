"""The service's own CPU use, and its spikes: what a robot's planner notices before any average does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from prometheus_client import Histogram
from prometheus_client.registry import Collector

from ..options import option
from ..readings import Measurement
from . import Source


@dataclass(frozen=True)
class ProcessOptions:
    """``spike_threshold_cores`` is in CPU seconds per second: 1 is one whole core."""

    spike_threshold_cores: float = option(0.5, minimum=0.01, maximum=1024)


class ProcessSource(Source):
    """Measures between two samples, so that its interval is the resolution of a spike's length."""

    Options = ProcessOptions
    single = True

    def __init__(
        self,
        options: ProcessOptions,
        clock: Callable[[], float] = time.monotonic,
        cpu_clock: Callable[[], float] = time.process_time,
    ) -> None:
        self._threshold = options.spike_threshold_cores
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._now, self._cpu_seconds = clock(), cpu_clock()
        self._spike = 0.0
        self._spikes = Histogram(
            "sensor_cpu_spike_seconds",
            "How long the service used more CPU than spike_threshold_cores without a break.",
            buckets=(0.5, 1, 2, 5, 10, 30, 60, 300),
            registry=None,
        )

    @property
    def collectors(self) -> Iterable[Collector]:
        """The histogram of spikes."""
        return (self._spikes,)

    def sample(self, timeout_seconds: float) -> Sequence[Measurement]:  # noqa: ARG002  (never waits)
        """Return the cores in use since the last sample; a spike is observed when it ends."""
        now, cpu_seconds = self._clock(), self._cpu_clock()
        elapsed, used = now - self._now, cpu_seconds - self._cpu_seconds
        if elapsed <= 0:
            return []
        self._now, self._cpu_seconds = now, cpu_seconds
        if used > self._threshold * elapsed:
            self._spike += elapsed
        elif self._spike:
            self._spikes.observe(self._spike)
            self._spike = 0.0
        return [Measurement("cpu_usage_cores", "cores", used / elapsed)]
