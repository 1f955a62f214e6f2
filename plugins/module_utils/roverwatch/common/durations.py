"""Durations as Prometheus and VictoriaMetrics write them: `15s`, `1d12h`, `1.5h`.

A day has 24 hours, a week 7 days, a year 365 days, as in PromQL.
"""

from __future__ import annotations

import re

MINUTE = 60
HOUR = 60 * MINUTE
DAY = 24 * HOUR
# What VictoriaMetrics takes for a month in -retentionPeriod.
MONTH = 31 * DAY

_SECONDS = {"ms": 0.001, "s": 1, "m": MINUTE, "h": HOUR, "d": DAY, "w": 7 * DAY, "y": 365 * DAY}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdwy])")
_DURATION = re.compile("(?:{})+".format(_PART.pattern))
_MONTHS = re.compile(r"(\d+(?:\.\d+)?)M?")


def to_seconds(duration: object) -> float:
    """Seconds of a duration. Raises ValueError that says what is allowed."""
    if isinstance(duration, bool) or not _DURATION.fullmatch(str(duration)):
        raise ValueError(
            "{!r} is no duration: write a number with ms, s, m, h, d, w or y, such as 15s or 1d12h".format(duration)
        )
    return sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(str(duration)))


def retention_to_seconds(retention: object) -> float:
    """Seconds of VictoriaMetrics' -retentionPeriod, at least a day. Raises ValueError that says what is allowed.

    A number alone, or with M, counts months of 31 days; `m`, which elsewhere are minutes, is refused.
    """
    text = str(retention)
    months = _MONTHS.fullmatch(text)
    parts = _PART.findall(text) if _DURATION.fullmatch(text) else []
    if isinstance(retention, bool) or not (months or parts) or any(unit in ("m", "ms") for _, unit in parts):
        raise ValueError(
            "{!r} is no retention: write a number with h, d, w or y, such as 14d; alone it counts months".format(
                retention
            )
        )
    seconds = float(months[1]) * MONTH if months else to_seconds(text)
    if seconds < DAY:
        raise ValueError("{!r} is less than 1d, which VictoriaMetrics refuses".format(retention))
    return seconds


def from_seconds(seconds: float) -> str:
    """A short text for people, such as `3.2 days`."""
    for size, unit in ((DAY, "days"), (HOUR, "hours"), (MINUTE, "minutes")):
        if seconds >= 2 * size:
            return "{:.1f} {}".format(seconds / size, unit).replace(".0 ", " ")
    return "{:.0f} seconds".format(seconds)
