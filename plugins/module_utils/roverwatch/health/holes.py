"""Holes in what a hub has of a robot: times of which the robot has samples and the hub has fewer, and newer ones.

Each machine finds a few numbers in one query of its own database: how many results of scrapes (`up`) it has of each
minute. Those of a robot and of a hub, side by side, show what is missing. A backfill counts each series, and copies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

from ..query import promql

MINUTE = 60
QUERY = f'sum by (robot) (count_over_time(up{{robot!=""}}[{MINUTE}s]))'
# Less than this is a scrape or two that a start or an end has cut off.
SHORTEST_SECONDS = 20.0

# count, minutes, count, minutes, …: so many minutes, one after the other, with so many results each.
Runs = Sequence[int]


@dataclass(frozen=True)
class Hole:
    """What a hub lacks of a robot, as seconds of its samples; `first` is when it begins, in seconds since 1970."""

    seconds: float
    first: int


def count(base_url: str, now: float, period_seconds: float, timeout_seconds: float) -> dict[str, Any]:
    """Of each robot, the results in each whole minute of the period. Raises promql.QueryError."""
    end = int(now // MINUTE) * MINUTE
    start = end - max(1, int(period_seconds // MINUTE)) * MINUTE
    times = range(start + MINUTE, end + 1, MINUTE)
    answer = promql.query_range(base_url, QUERY, times, timeout_seconds)
    robots = {series.labels["robot"]: _runs(int(series.values.get(at, 0)) for at in times) for series in answer}
    return {"start": start, "robots": robots}


def compare(robot: str, own: Mapping[str, Any], hub: Mapping[str, Any], newest: float) -> Hole | None:
    """What the hub lacks of the robot, of what is older than `newest`; None if that is nothing.

    What a robot sends arrives in its order: where the hub has nothing newer, it is still to come.
    """
    here, there = _minutes(robot, own), _minutes(robot, hub)
    common = [at for at in sorted(here) if at >= hub["start"] and at + MINUTE <= newest]
    late = next((index for index, at in enumerate(reversed(common)) if there.get(at)), len(common))
    missing = {
        at: MINUTE * (here[at] - there.get(at, 0)) / here[at]
        for at in common[: len(common) - late]
        if here[at] > there.get(at, 0)
    }
    seconds = sum(missing.values())
    return Hole(seconds, min(missing)) if seconds >= SHORTEST_SECONDS else None


def _runs(counts: Iterator[int]) -> list[int]:
    runs: list[int] = []
    for number in counts:
        if runs and runs[-2] == number:
            runs[-1] += 1
        else:
            runs += (number, 1)
    return runs


def _minutes(robot: str, counted: Mapping[str, Any]) -> dict[int, int]:
    """The results of each minute, by its start."""
    runs: Runs = counted["robots"].get(robot, ())
    numbers = (number for many, minutes in zip(runs[::2], runs[1::2]) for number in repeat(many, minutes))
    return {counted["start"] + MINUTE * index: number for index, number in enumerate(numbers)}
