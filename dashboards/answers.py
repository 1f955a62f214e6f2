"""Range queries: what to ask VictoriaMetrics for a page, and what it answered."""

from __future__ import annotations

import base64
import gzip
import json
import math
import re
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dashboards.model import Query

POINTS = 240
"""Points of a graph, about as many as it has pixels to tell apart."""

SHORTEST_STEP_SECONDS = 15
TIMEOUT_SECONDS = 30


@dataclass(frozen=True)
class Period:
    """The points in time of a page, in seconds since 1970; `end` is the newest."""

    start: int
    end: int
    step: int

    @classmethod
    def last(cls, hours: float, now: float) -> Period:
        """The hours before `now`, in about as many points as a graph can show."""
        seconds = round(hours * 3600)
        step = max(SHORTEST_STEP_SECONDS, math.ceil(seconds / POINTS))
        end = int(now)
        return cls(end - seconds // step * step, end, step)

    def times(self) -> list[int]:
        """Every point, the oldest first."""
        return list(range(self.start, self.end + 1, self.step))


@dataclass(frozen=True)
class Series:
    """One line of a graph: a value for each point of the period, None where there is none."""

    name: str
    labels: dict[str, str]
    values: list[float | None]
    limit: bool = False

    @property
    def newest(self) -> float | None:
        """The value at the end, or one step before, as scrapes are not in time with points."""
        return next((value for value in reversed(self.values[-2:]) if value is not None), None)


def series_of(query: Query, answer: list[dict[str, Any]], times: Sequence[int]) -> list[Series]:
    """The series of a query's answer in the order of their names; those without a single number are left out."""
    found = []
    for one in answer:
        numbers = {int(time): _number(text) for time, text in one["values"]}
        values = [numbers.get(time) for time in times]
        if any(value is not None for value in values):
            found.append(Series(_name(query.legend, one["metric"]), one["metric"], values, query.limit))
    return sorted(found, key=lambda series: _natural(series.name))


def get(url: str, exprs: list[str], period: Period) -> list[list[dict[str, Any]]]:
    """Asks a VictoriaMetrics that can be reached from here; raises OSError where that fails."""
    return [_query_range(url, expr, period) for expr in exprs]


def unpack(packed: str) -> list[list[dict[str, Any]]]:
    """What the module range_queries returns as `answers`."""
    answers: list[list[dict[str, Any]]] = json.loads(gzip.decompress(base64.b64decode(packed)))
    return answers


def _query_range(url: str, expr: str, period: Period) -> list[dict[str, Any]]:
    form = {"query": expr, "nocache": 1, "start": period.start, "end": period.end, "step": period.step}
    request = f"{url.rstrip('/')}/api/v1/query_range"
    with urllib.request.urlopen(request, urllib.parse.urlencode(form).encode(), TIMEOUT_SECONDS) as response:  # noqa: S310  (an operator's URL)
        found: list[dict[str, Any]] = json.load(response)["data"]["result"]
    return found


def _number(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None


def _name(legend: str, labels: dict[str, str]) -> str:
    return re.sub(r"{{(\w+)}}", lambda match: labels.get(match[1], ""), legend).strip()


def _natural(name: str) -> list[tuple[int, str]]:
    """robot-2 comes before robot-10."""
    return [(int(part or 0), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]
