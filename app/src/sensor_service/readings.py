"""The records that flow through the service, and what is taken from a source."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Literal, NamedTuple

# A sample that yields more than this is a runaway source; what is over its series limit is dropped before.
MAX_MEASUREMENTS = 20_000
MAX_NAME_LENGTH = 128
# A series that was absent this long gives up its place under the limit: sensors are replaced, topics renamed.
FORGET_SECONDS = 3600.0

Labels = tuple[tuple[str, str], ...]


class Measurement(NamedTuple):
    """What a source returns: one value of one sensor, in a base unit such as ``celsius``.

    ``labels`` are for the families that a source declares; make those with `Family.measure`.
    """

    sensor: str
    unit: str
    value: float
    labels: Labels = ()


@dataclass(frozen=True)
class Family:
    """A metric that a source publishes under a name of its own, since the field knows it by that name.

    Everything else becomes ``sensor_reading``. A ``counter`` has a name that ends with ``_total``; one of
    another convention that does not is ``unknown``, which Prometheus shows as untyped.
    """

    name: str
    kind: Literal["gauge", "counter", "unknown"]
    unit: str
    help: str
    labels: tuple[str, ...]

    def measure(self, value: float, *labels: str) -> Measurement:
        """Make a measurement; the label values come in the order of ``self.labels``."""
        return Measurement(self.name, self.unit, value, tuple(zip(self.labels, labels, strict=True)))


class Reading(NamedTuple):
    """A measurement that was accepted. ``timestamp`` is in seconds since the epoch."""

    timestamp: float
    source: str
    sensor: str
    unit: str
    value: float
    labels: Labels


class Accepted(NamedTuple):
    """One sample: the sound readings, how many were over the limit, and the first thing that was wrong."""

    readings: tuple[Reading, ...]
    dropped: int
    problem: str | None


class Intake:
    """Takes the samples of one source, and holds it to a number of series. Not thread-safe."""

    def __init__(self, source: str, families: Iterable[Family], max_series: int) -> None:
        self._source = source
        self._families: Mapping[str, Family] = {family.name: family for family in families}
        self._max_series = max_series
        self._last_seen: dict[tuple[str, Labels], float] = {}

    def accept(self, measurements: Iterable[Measurement], timestamp: float) -> Accepted:
        """Sort one sample out. One bad value must not hide the others.

        A series may occur once per sample: twice would make two with the same labels, and Prometheus throws
        the whole scrape away for that.
        """
        self._forget(timestamp)
        readings: dict[tuple[str, Labels], Reading] = {}
        dropped, problem = 0, None
        try:
            for index, item in enumerate(islice(measurements, MAX_MEASUREMENTS + 1)):
                fault = self._fault(item, index)
                if fault is None and (item.sensor, item.labels) in readings:
                    fault = f"sensor {item.sensor} occurs twice in one sample"
                if fault is not None:
                    problem = problem or fault
                elif not self._admit((item.sensor, item.labels), timestamp):
                    dropped += 1
                else:
                    sensor, unit, value, labels = item
                    reading = Reading(timestamp, self._source, sensor, unit, float(value), labels)
                    readings[sensor, labels] = reading
        except Exception as error:  # noqa: BLE001  (a generator may raise anything after what it has yielded)
            problem = f"{type(error).__name__}: {error}"
        return Accepted(tuple(readings.values()), dropped, problem)

    def _admit(self, series: tuple[str, Labels], now: float) -> bool:
        if series not in self._last_seen and len(self._last_seen) >= self._max_series:
            return False
        self._last_seen[series] = now
        return True

    def _forget(self, now: float) -> None:
        if len(self._last_seen) >= self._max_series:
            self._last_seen = {key: seen for key, seen in self._last_seen.items() if now - seen <= FORGET_SECONDS}

    def _fault(self, item: object, index: int) -> str | None:
        if index >= MAX_MEASUREMENTS:
            return f"more than {MAX_MEASUREMENTS} measurements in one sample"
        if not isinstance(item, Measurement):
            return f"measurement {index} is no Measurement"
        sensor, unit, value, labels = item
        if not _is_name(sensor) or not _is_name(unit):
            return f"measurement {index} has a sensor or unit that is no printable text"
        if isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value):
            return f"sensor {sensor} has a value that is no finite number ({type(value).__name__})"
        return self._label_fault(sensor, labels)

    def _label_fault(self, sensor: str, labels: Labels) -> str | None:
        family = self._families.get(sensor)
        if tuple(name for name, _ in labels) != (family.labels if family else ()):
            return f"sensor {sensor} has labels that are not those it was declared with"
        if not all(text == "" or _is_name(text) for _, text in labels):
            return f"sensor {sensor} has a label that is no printable text"
        return None


def _is_name(text: object) -> bool:
    # Unprintable text includes lone surrogates, which cannot be encoded: they would fail every scrape.
    return isinstance(text, str) and 0 < len(text) <= MAX_NAME_LENGTH and text.isprintable()


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an int beyond the range of a float
        return False
