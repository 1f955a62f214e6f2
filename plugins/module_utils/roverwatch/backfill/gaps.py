"""Backfill of the hubs from the robots' own histories: what is asked for, and what a hub lacks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import repeat
from typing import Any, NamedTuple

from ..common import durations, sizes
from .sample_counts import WINDOW_SECONDS, Counts, Runs

# What is younger than this and what a robot gathers may be on its way to the hub.
ON_ITS_WAY_SECONDS = 30
# One request copies so much. What it was when it broke off is sent again.
CHUNK_WINDOWS = 10
# An export that names its series takes longer for each of them; beyond this all of the robot's are copied.
SERIES_PER_CHUNK = 500
# vmagent always has a little that it is about to send. More than this is a queue.
QUEUE_BYTES = 256 * 1024
# The copy is made of slices, so that an operator sees how it goes.
SLICE_SECONDS = 5.0
CHUNKS_PER_SLICE = 60


class BackfillError(Exception):
    """There is no backfill as it was asked for; the text says which variable is wrong, and what to write."""


# --- what is asked for -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """The samples after `start`, up to and including `end` (Unix times in seconds, whole minutes)."""

    start: int
    end: int
    bytes_per_second: int

    def describe(self) -> str:
        """For people."""
        return f"{_time(self.start)} to {_time(self.end)}"


def _time(timestamp: int) -> str:
    return datetime.fromtimestamp(timestamp, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


def plan(variables: Mapping[str, object], now: float, delay_seconds: float) -> Plan:
    """The plan in the variables of the role `backfill`, of their types. Raises BackfillError with all that is wrong.

    `delay_seconds` is how long the robot gathers samples before it sends them.
    """
    newest = now - ON_ITS_WAY_SECONDS - delay_seconds
    problems = []
    values: dict[str, Any] = {}
    for name, read in _READERS.items():
        value = variables[f"backfill_{name}"]
        try:
            values[name] = read(value, now, newest)
        except ValueError as error:
            problems.append(f"backfill_{name} is {value!r}: {error}")
    if problems:
        raise BackfillError("; ".join(problems))
    end = int(values["end"] // WINDOW_SECONDS * WINDOW_SECONDS)
    windows = math.ceil(values["period"] / WINDOW_SECONDS)
    return Plan(end - windows * WINDOW_SECONDS, end, values["rate_limit"])


def _period(value: object, _now: float, _newest: float) -> float:
    seconds = durations.to_seconds(value)
    if not WINDOW_SECONDS <= seconds <= 366 * durations.DAY:
        raise ValueError("give a time from 1m to 366d, such as 24h")
    return seconds


def _end(value: object, now: float, newest: float) -> float:
    if not value:
        return newest
    wrong = (
        f"give a time that is over for {durations.from_seconds(now - newest)}, what is younger may be on its way: how "
        "long ago, such as 6h, or with its zone, 2026-03-01T14:00:00Z"
    )
    try:
        end = now - durations.to_seconds(value)
    except ValueError:
        end = _timestamp(str(value), wrong)
    if end > newest:
        raise ValueError(wrong)
    return end


def _timestamp(text: str, wrong: str) -> float:
    try:
        time = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise ValueError(wrong) from None
    if time.tzinfo is None:
        raise ValueError(wrong)
    return time.timestamp()


def _rate_limit(value: object, _now: float, _newest: float) -> int:
    return sizes.to_bytes(value)


_READERS: Mapping[str, Any] = {"period": _period, "end": _end, "rate_limit": _rate_limit}


# --- what is missing ---------------------------------------------------------------------------------------


class Chunk(NamedTuple):
    """What one request copies: samples after `start`, up to and including `end` (Unix times in seconds).

    `series` has the hashes of those that lack something; None means all series of the robot.
    """

    start: int
    end: int
    series: Sequence[str] | None


class Part(NamedTuple):
    """A chunk, in how many of its minutes something is missing, and how many samples that are."""

    chunk: Chunk
    minutes: int
    samples: int


@dataclass(frozen=True)
class Missing:
    """What a hub lacks of a robot."""

    parts: Sequence[Part] = ()

    @property
    def samples(self) -> int:
        return sum(part.samples for part in self.parts)

    @property
    def minutes(self) -> int:
        return sum(part.minutes for part in self.parts)

    @property
    def chunks(self) -> Sequence[Chunk]:
        return [part.chunk for part in self.parts]

    def before(self, chunks: int) -> Missing:
        """What the first so many chunks are."""
        return Missing(self.parts[:chunks])


@dataclass
class Copied:
    """How many chunks have been copied, how many bytes that took to send, and why it did not go on."""

    chunks: int = 0
    sent_bytes: int = 0
    problem: str | None = None


def waiting(pending_bytes: int | None) -> bool:
    """Whether what is missing may be what vmagent has not sent yet. Copied as well, it would be sent twice."""
    return (pending_bytes or 0) > QUEUE_BYTES


def doubtful(own: Counts, hubs: Sequence[Counts]) -> list[tuple[int, int]]:
    """Stretches, from start to end, in which the robot and a hub have samples of a series, and not as many.

    Each may have lost other ones than the other, so that what is missing is not the difference.
    """
    windows = {
        window
        for hub in hubs
        for runs, hub_runs, _ in _alike(own, hub)
        for window, (here, there) in enumerate(zip(_expand(runs), _expand(hub_runs)))
        if here and there and here != there
    }
    stretches: list[tuple[int, int]] = []
    for window in sorted(windows):
        start = own.start + window * own.window
        if stretches and stretches[-1][1] == start:
            start = stretches.pop()[0]
        stretches.append((start, own.start + (window + 1) * own.window))
    return stretches


def compare(own: Counts, hub: Counts, closer: Sequence[tuple[Counts, Counts]] = ()) -> Missing:
    """What a robot has and a hub lacks, in the order of time.

    `closer` has the counts of both, by the second, for stretches of that time; they count there in place of the others.
    """
    found: dict[int, _Gaps] = {}
    seen: set[int] = set()
    for own_closer, hub_closer in closer:
        first = (own_closer.start - own.start) // own.window
        seen.update(range(first, (own_closer.end - own.start) // own.window))
        for window, samples, keys in _gaps(own_closer, hub_closer):
            at = first + window * own_closer.window // own.window
            found.setdefault(at // CHUNK_WINDOWS, _Gaps()).add(at, samples, keys)
    for window, samples, keys in _gaps(own, hub):
        if window not in seen:
            found.setdefault(window // CHUNK_WINDOWS, _Gaps()).add(window, samples, keys)
    most = min(SERIES_PER_CHUNK, len(own.series) // 2)
    return Missing([found[index].part(own.start, most) for index in sorted(found)])


class _Gaps:
    """What is missing in the time of one chunk."""

    def __init__(self) -> None:
        self.windows: set[int] = set()
        self.series: set[str] = set()
        self.samples = 0

    def add(self, window: int, samples: int, keys: Sequence[str]) -> None:
        self.windows.add(window)
        self.series.update(keys)
        self.samples += samples * len(keys)

    def part(self, start: int, most_series: int) -> Part:
        first = start + min(self.windows) * WINDOW_SECONDS
        last = start + (max(self.windows) + 1) * WINDOW_SECONDS
        series = sorted(self.series) if len(self.series) <= most_series else None
        return Part(Chunk(first, last, series), len(self.windows), self.samples)


def _alike(own: Counts, hub: Counts) -> Iterator[tuple[Runs, Runs, Sequence[str]]]:
    """The runs of the robot and of the hub where they differ, and the series with just these: most lack the same."""
    if (own.start, own.end, own.window) != (hub.start, hub.end, hub.window):
        raise ValueError("counts of different times cannot be compared")
    alike: dict[tuple[Runs, Runs], list[str]] = {}
    for key, runs in own.series.items():
        alike.setdefault((runs, hub.series.get(key, ())), []).append(key)
    for (runs, hub_runs), keys in alike.items():
        if runs != hub_runs:
            yield runs, hub_runs, keys


def _gaps(own: Counts, hub: Counts) -> Iterator[tuple[int, int, Sequence[str]]]:
    """The windows in which the robot has more samples than the hub, how many more of a series, and which series."""
    for runs, hub_runs, keys in _alike(own, hub):
        there = _expand(hub_runs)
        for window, samples in enumerate(_expand(runs)):
            lacking = samples - next(there, 0)
            if lacking > 0:
                yield window, lacking, keys


def _expand(runs: Runs) -> Iterator[int]:
    for samples, windows in zip(runs[::2], runs[1::2]):
        yield from repeat(samples, windows)


# --- for people --------------------------------------------------------------------------------------------


def clock(timestamp: int) -> str:
    """The time of day."""
    return datetime.fromtimestamp(timestamp, timezone.utc).strftime("%H:%M:%S UTC")


def number(value: int) -> str:
    """With a comma after each three digits."""
    return f"{value:,}"


def progress(robot: str, hub: str, done: Missing, all_of_it: Missing) -> str:
    """One line about how far the copy is."""
    return f"{robot} → {hub}: {done.minutes} of {all_of_it.minutes} min copied, {number(done.samples)} samples"
