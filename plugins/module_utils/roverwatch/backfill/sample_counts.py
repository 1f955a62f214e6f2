"""How many samples a VictoriaMetrics has of a robot: for each series and each minute, or each second.

These counts are small enough to be sent about, and two of them show what one database has and the other lacks. Samples
with equal timestamps count once where -dedup.minScrapeInterval is set, and markers of staleness do not count.

By the minute they do for most of the time. Where each side lost something of the same minute, its count may be larger
here and a sample missing all the same; there the seconds are counted, of which each has one scrape at most.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import zlib
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..common.retry import Again, patiently
from ..query import local_database

WINDOW_SECONDS = 60
CLOSER_WINDOW_SECONDS = 1
# What one query may return, so that a robot has the memory for it: a point takes about 200 bytes while it is read.
POINTS_PER_QUERY = 50_000
# Series come and go. They are counted for this many windows, to see for how many windows one query may ask.
STRETCH_WINDOWS = 360

# count, windows, count, windows, …: so many windows, one after the other, with so many samples each.
Runs = Sequence[int]


@dataclass(frozen=True)
class Counts:
    """The counts of one robot. `start` and `end` are Unix times in seconds, whole minutes; `window` is in seconds.

    Window i has the samples after `start` + `window` i, up to and including `start` + `window` (i + 1): what
    count_over_time counts at its end. `series` has the runs of each series, by the hash of its labels. What no run
    covers has no samples.
    """

    start: int
    end: int
    series: Mapping[str, Runs]
    window: int = WINDOW_SECONDS

    @property
    def samples(self) -> int:
        """Of all series, in all windows."""
        return sum(
            samples * windows for runs in self.series.values() for samples, windows in zip(runs[::2], runs[1::2])
        )

    def encode(self) -> str:
        """Text for a module's result. Most series of a robot have the same runs as others: each is written once."""
        patterns: dict[tuple[int, ...], int] = {}
        series = {key: patterns.setdefault(tuple(runs), len(patterns)) for key, runs in self.series.items()}
        times = {"start": self.start, "end": self.end, "window": self.window}
        data = {**times, "patterns": list(patterns), "series": series}
        return base64.b64encode(zlib.compress(json.dumps(data, separators=(",", ":")).encode(), 9)).decode()

    @classmethod
    def decode(cls, text: str) -> Counts:
        """The opposite of `encode`. Series with the same runs share one object."""
        data = json.loads(zlib.decompress(base64.b64decode(text)))
        patterns = [tuple(runs) for runs in data["patterns"]]
        series = {key: patterns[index] for key, index in data["series"].items()}
        return cls(data["start"], data["end"], series, data["window"])


def series_hash(labels: Mapping[str, str]) -> str:
    """Sixteen hex digits that are the same for the same labels, in any order and on any machine."""
    text = json.dumps(sorted(labels.items()), separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def quote(value: str) -> str:
    """A label's value as PromQL writes it."""
    return json.dumps(value, ensure_ascii=False)


def selector(robot: str) -> str:
    """All series of a robot."""
    return f"{{robot={quote(robot)}}}"


def count(base_url: str, robot: str, start: int, end: int, window: int = WINDOW_SECONDS) -> Counts:
    """Ask the VictoriaMetrics at `base_url`. Raises local_database.DatabaseError."""
    # What arrived a moment ago is in buffers that no query sees.
    local_database.ask(f"{base_url}/internal/force_flush", {}, lambda stream: stream.read())
    counter = _Counter(start, window)
    for stretch in _split(start, end, STRETCH_WINDOWS * window):
        series = _count_series(base_url, robot, *stretch)
        if series:
            for part in _split(*stretch, max(1, POINTS_PER_QUERY // series) * window):
                counter.add(_count_samples(base_url, robot, *part, window))
    return Counts(start, end, counter.finish(), window)


def count_patiently(base_url: str, robot: str, start: int, end: int, at_least: int) -> Counts:
    """As `count`; again, a few times, while there are fewer samples than there should be."""
    found = Counts(start, end, {})

    def attempt() -> None:
        nonlocal found
        found = count(base_url, robot, start, end)
        if found.samples < at_least:
            raise Again

    with contextlib.suppress(Again):
        patiently(attempt)
    return found


def _split(start: int, end: int, step: int) -> list[tuple[int, int]]:
    """Start and end of parts of so many seconds, of which the last may be shorter."""
    return [(first, min(first + step, end)) for first in range(start, end, step)]


def _count_series(base_url: str, robot: str, start: int, end: int) -> int:
    """How many series of the robot have samples in this time."""
    query = f"count(count_over_time({selector(robot)}[{end - start}s]) keep_metric_names)"
    result = _query(f"{base_url}/api/v1/query", {"query": query, "time": end})
    return int(result[0]["value"][1]) if result else 0


def _count_samples(base_url: str, robot: str, start: int, end: int, window: int) -> Sequence[Mapping[str, Any]]:
    """The samples of each series in each window. A window is counted at its end."""
    # Without its name, a series would be one with those that differ from it by nothing else.
    query = f"count_over_time({selector(robot)}[{window}s]) keep_metric_names"
    times = {"start": start + window, "end": end, "step": f"{window}s"}
    return _query(f"{base_url}/api/v1/query_range", {"query": query, **times})


def _query(url: str, parameters: Mapping[str, object]) -> Sequence[Mapping[str, Any]]:
    result: Sequence[Mapping[str, Any]] = local_database.ask_json(url, {**parameters, "nocache": 1})["result"]
    return result


class _Counter:
    """Puts the answers for one part of the time after the other together."""

    def __init__(self, start: int, window: int) -> None:
        self.start = start
        self.window = window
        self.runs: dict[str, array[int]] = {}
        # The first window of each series that no run covers yet.
        self.ends: dict[str, int] = {}

    def add(self, answer: Sequence[Mapping[str, Any]]) -> None:
        for series in answer:
            key = series_hash(series["metric"])
            runs = self.runs.setdefault(key, array("I"))
            end = self.ends.get(key, 0)
            for timestamp, text in series["values"]:
                window = (int(timestamp) - self.start) // self.window - 1
                samples = int(text)
                if samples:
                    _extend(runs, 0, window - end)
                    _extend(runs, samples, 1)
                    end = window + 1
            self.ends[key] = end

    def finish(self) -> dict[str, Runs]:
        return {key: tuple(runs) for key, runs in self.runs.items() if runs}


def _extend(runs: array[int], samples: int, windows: int) -> None:
    if windows and runs and runs[-2] == samples:
        runs[-1] += windows
    elif windows:
        runs.extend((samples, windows))
