"""Samples every source in a thread of its own. Nobody ever waits for a source: not a scrape, not another
source, not the shutdown."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

from .readings import Accepted, Family, Intake, Reading
from .sources import Source

BUFFER_SIZE = 500  # readings per source
STALE_INTERVALS = 3
CHECK_SECONDS = 0.5

log = logging.getLogger(__name__)


class State(StrEnum):
    """What is to be said of a source, worst first."""

    PENDING = "never sampled"
    STALE = "stale"
    FAILING = "failing"
    OK = "ok"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A source at one moment. ``generation`` changes with every change of the rest, ``state`` aside.

    ``timestamp`` is that of the last good sample in seconds since the epoch, 0 before the first.
    ``duration_seconds`` is what the last call that ended took, ``running_seconds`` the age of the one under way.
    """

    name: str
    type: str
    state: State
    error: str | None
    timestamp: float
    readings: tuple[Reading, ...]
    families: tuple[Family, ...]
    iterations: int
    failed: int
    dropped: int
    queue_depth: int
    duration_seconds: float
    running_seconds: float | None
    generation: int


class SourceSampler:
    """One source with its schedule, its counters and its bounded history. Thread-safe."""

    def __init__(  # noqa: PLR0913  (a record)
        self,
        *,
        name: str,
        type_name: str,
        source: Source,
        interval_seconds: float,
        timeout_seconds: float,
        max_series: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._type = type_name
        self._source = source
        self._interval = interval_seconds
        self._timeout = timeout_seconds
        self._max_series = max_series
        self._clock = clock
        self._intake = Intake(name, source.families, max_series)
        self._lock = threading.Lock()
        # Everything below is guarded by the lock.
        self._history: deque[Reading] = deque(maxlen=BUFFER_SIZE)
        self._latest: tuple[Reading, ...] = ()
        self._sampled_at: float | None = None
        self._timestamp = 0.0
        self._call_started: float | None = None  # None again once it is over its budget
        self._running_since: float | None = None
        self._duration = 0.0
        self._error: str | None = None
        self._iterations = 0
        self._failed = 0
        self._dropped = 0
        self._generation = 0

    def run(self, stop: threading.Event) -> None:
        """Sample now and then on every multiple of the interval until ``stop`` is set.

        Ticks count from the start, so that the time a sample takes adds no drift. Ticks missed by a slow
        sample are left out, not made up for.
        """
        start, tick = self._clock(), 0
        while not stop.is_set():
            self.sample()
            elapsed = self._clock() - start
            tick = max(tick + 1, math.ceil(elapsed / self._interval))
            stop.wait(tick * self._interval - elapsed)
        try:
            self._source.close()
        except Exception:
            log.exception("source does not close", extra={"fields": {"source": self.name}})

    def sample(self) -> None:
        """Ask the source once and keep what is sound of its answer."""
        started = self._clock()
        with self._lock:
            self._call_started = self._running_since = started
        sample = Accepted((), 0, None)
        try:
            sample = self._intake.accept(self._source.sample(self._timeout), time.time())
        except Exception as error:  # noqa: BLE001  (whatever a source raises is a failed sample, no more)
            sample = sample._replace(problem=f"{type(error).__name__}: {error}")
        self.check_timeout()
        with self._lock:
            self._duration, self._running_since = self._clock() - started, None
            if self._call_started is None:
                return  # too late: counted as failed, and the values are old
            self._call_started = None
            if sample.problem is None or sample.readings:
                self._latest = sample.readings
                self._history.extend(sample.readings)
                self._sampled_at, self._timestamp = self._clock(), time.time()
            self._drop(sample.dropped)
            self._conclude(sample.problem)

    def check_timeout(self) -> None:
        """Count the running call as failed, once, if it is over its budget. Called from another thread."""
        with self._lock:
            started = self._call_started
            if started is not None and self._clock() - started > self._timeout:
                self._call_started = None
                self._conclude(f"no answer within {self._timeout:g} s")

    def _drop(self, number: int) -> None:
        if number and not self._dropped:
            fields = {"source": self.name, "dropped": number, "max_series": self._max_series}
            log.warning("source has more series than max_series; the excess is dropped", extra={"fields": fields})
        self._dropped += number

    def _conclude(self, problem: str | None) -> None:
        fields = {"source": self.name, "error": problem}
        if problem and not self._error:
            log.warning("source fails", extra={"fields": fields})
        elif self._error and not problem:
            log.warning("source works again", extra={"fields": {"source": self.name}})
        self._error = problem and problem[:200]
        self._iterations += 1
        self._failed += problem is not None
        self._generation += 1

    def snapshot(self) -> Snapshot:
        """Return the state of this moment."""
        with self._lock:
            return Snapshot(
                name=self.name,
                type=self._type,
                state=self._state(),
                error=self._error,
                timestamp=self._timestamp,
                readings=self._latest,
                families=self._source.families,
                iterations=self._iterations,
                failed=self._failed,
                dropped=self._dropped,
                queue_depth=len(self._history),
                duration_seconds=self._duration,
                running_seconds=None if self._running_since is None else self._clock() - self._running_since,
                generation=self._generation,
            )

    def _state(self) -> State:
        if self._sampled_at is None:
            return State.PENDING
        if self._clock() - self._sampled_at > STALE_INTERVALS * self._interval + self._timeout:
            return State.STALE
        return State.FAILING if self._error else State.OK

    def history(self) -> list[Reading]:
        """Return the buffered readings, oldest first."""
        with self._lock:
            return list(self._history)


class Sampler:
    """All sources, and the thread that watches over their time limits."""

    def __init__(
        self,
        sources: Sequence[SourceSampler],
        check_seconds: float = CHECK_SECONDS,
    ) -> None:
        self._sources = {source.name: source for source in sources}
        self._check_seconds = check_seconds
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the sources, in the order of the configuration."""
        return tuple(self._sources)

    def start(self) -> None:
        """Start one thread per source and the watching one. They are daemons: a hanging source dies with
        the process."""
        targets: dict[str, Callable[[], None]] = {"watch": self._watch}
        for name, source in self._sources.items():
            targets[f"source-{name}"] = partial(source.run, self._stop)
        self._threads = [threading.Thread(target=target, name=name, daemon=True) for name, target in targets.items()]
        for thread in self._threads:
            thread.start()

    def stop(self, timeout_seconds: float = 0.3) -> bool:
        """Wake all threads, give them ``timeout_seconds`` together, and say whether all of them ended."""
        self._stop.set()
        deadline = time.monotonic() + timeout_seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def snapshots(self) -> list[Snapshot]:
        """Return the state of every source."""
        return [source.snapshot() for source in self._sources.values()]

    def history(self, names: Iterable[str], limit: int) -> list[Reading]:
        """Return the newest ``limit`` readings of these sources, newest first."""
        readings = [reading for name in names for reading in self._sources[name].history()]
        readings.sort(key=lambda reading: reading.timestamp, reverse=True)
        return readings[:limit]

    def _watch(self) -> None:
        while not self._stop.wait(self._check_seconds):
            for source in self._sources.values():
                source.check_timeout()
