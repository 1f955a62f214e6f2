"""The two records that flow through the service."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

# More than this from one sample is a runaway source: it would push everything else out of the buffer.
MAX_MEASUREMENTS = 500
MAX_NAME_LENGTH = 128


class Measurement(NamedTuple):
    """What a source returns: one value of one sensor, in a base unit such as ``celsius``."""

    sensor: str
    unit: str
    value: float


class Reading(NamedTuple):
    """A measurement that was accepted. ``timestamp`` is in seconds since the epoch."""

    timestamp: float
    source: str
    sensor: str
    unit: str
    value: float


def accept(
    measurements: Iterable[Measurement], source: str, timestamp: float
) -> tuple[tuple[Reading, ...], str | None]:
    """Return the sound readings of one sample, and what was wrong with the first unsound one.

    One bad value must not hide the others. A sensor may occur once per sample: twice would make two series
    with the same labels, and Prometheus throws the whole scrape away for that.
    """
    readings: dict[str, Reading] = {}
    problem: str | None = None
    for index, item in enumerate(islice(measurements, MAX_MEASUREMENTS + 1)):
        fault = _fault(item, index, readings)
        if fault is None:
            sensor, unit, value = item
            readings[sensor] = Reading(timestamp, source, sensor, unit, float(value))
        problem = problem or fault
    return tuple(readings.values()), problem


def _fault(item: object, index: int, seen: dict[str, Reading]) -> str | None:
    if index >= MAX_MEASUREMENTS:
        return f"more than {MAX_MEASUREMENTS} measurements in one sample"
    if not isinstance(item, tuple) or len(item) != 3:
        return f"measurement {index} is no (sensor, unit, value)"
    sensor, unit, value = item
    if not _is_name(sensor) or not _is_name(unit):
        return f"measurement {index} has a sensor or unit that is no printable text"
    if sensor in seen:
        return f"sensor {sensor} occurs twice in one sample"
    if isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value):
        return f"sensor {sensor} has a value that is no finite number ({type(value).__name__})"
    return None


def _is_name(text: object) -> bool:
    # Unprintable text includes lone surrogates, which cannot be encoded: they would fail every scrape.
    return isinstance(text, str) and 0 < len(text) <= MAX_NAME_LENGTH and text.isprintable()


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an int beyond the range of a float
        return False
