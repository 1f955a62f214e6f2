"""Whether a disk holds what is asked of it. Each function of problems returns a line each, with the numbers in it.

How many bytes a sample takes:

- History: VictoriaMetrics' guide to capacity planning counts 1 byte, and a fifth for the index. Ten minutes of a
  robot's own series, not yet merged into large parts, took 1.2 bytes of data each. 1.5 leaves a quarter of slack.
- Queue: what waits for a hub is compressed in blocks of what was gathered in vmagent_hub_delay. A block has the labels
  of each series, whose cost is shared by the samples of the series in it. With the series of a robot of this stack
  17.6, 11.7, 8.2 and 6.3 bytes for one, two, four and eight samples of a series in a block, and 21.0 where a block is
  one scrape of one service (bench/blocks.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Mapping, Sequence, Tuple

from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.common.durations import (
    MONTH,
    from_seconds,
    retention_to_seconds,
    to_seconds,
)
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.common.sizes import from_bytes, to_bytes

HISTORY_BYTES_PER_SAMPLE = 1.5
QUEUE_BYTES_PER_SAMPLE = 5
QUEUE_BYTES_PER_LABELS = 14
# What is gathered for less than a scrape interval is one scrape of one service, in which less is alike.
FEWEST_SAMPLES_IN_BLOCK = 0.75

# What a robot gathers is lost when the power is cut, and dashboards take a robot for gone after three minutes.
LONGEST_DELAY = 120

# A file of vmagent's queue. It is deleted when all of it was read, so that much more than the queue holds may be on
# the disk; and vmagent raises a smaller -remoteWrite.maxDiskUsagePerURL to it.
QUEUE_CHUNK = 536871040


@dataclass(frozen=True)
class Claim:
    """Disk that something may come to need. `why` has the numbers, `remedy` what makes it smaller."""

    needed: float
    why: str
    remedy: str


def check(values: Mapping[str, Any]) -> Tuple[List[str], List[Claim]]:
    """What is wrong with the roles' variables, and what they may need of the disk.

    `values` are those that have the right type; what depends on another one is left out.
    """
    problems = []
    right = dict(values)
    for name, parse in _PARSERS.items():
        if name not in values or (name in _MAY_BE_EMPTY and not values[name]):
            continue
        try:
            parse(values[name])
        except ValueError as error:
            problems.append("{}: {}".format(name, error))
            del right[name]
    claims = []
    rate = _rate(right)
    if rate and "victoriametrics_retention" in right:
        claims.append(history(right["victoriametrics_retention"], rate))
    if right.get("vmagent_hubs") and "vmagent_queue_max" in right:
        claims.append(queues(right["vmagent_queue_max"], len(right["vmagent_hubs"])))
    if right.get("vmagent_hubs") and {"vmagent_series", "vmagent_scrape_interval", "vmagent_hub_delay"} <= set(right):
        written = right["vmagent_series"], right["vmagent_scrape_interval"], right["vmagent_hub_delay"]
        if {"vmagent_queue_max", "vmagent_outage"} <= set(right):
            problems += outage(right["vmagent_queue_max"], right["vmagent_outage"], *written)
        if "vmagent_hub_rate_limit" in right:
            problems += catching_up(right["vmagent_hub_rate_limit"], *written)
    return problems, claims


def history(retention: object, rate: float) -> Claim:
    """The disk that VictoriaMetrics needs for `rate` samples a second.

    Data goes by whole months: a month is deleted when all of it is older than the retention. So up to a month more is
    on the disk.
    """
    needed = rate * HISTORY_BYTES_PER_SAMPLE * (retention_to_seconds(retention) + MONTH)
    why = (
        "{} for history (victoriametrics_retention {} and a month, as it deletes whole months, {:g} samples/s)".format(
            from_bytes(needed), retention, round(rate, 1)
        )
    )
    return Claim(needed, why, "victoriametrics_retention")


def queues(queue_max: object, hubs: int) -> Claim:
    """The disk that vmagent's queues may take."""
    held = _held(queue_max)
    why = "{} for {} (vmagent_queue_max {} and a chunk of {}{})".format(
        from_bytes(hubs * (held + QUEUE_CHUNK)),
        "the hub's queue" if hubs == 1 else "the queues of {} hubs".format(hubs),
        from_bytes(held),
        from_bytes(QUEUE_CHUNK),
        "" if hubs == 1 else " each",
    )
    return Claim(hubs * (held + QUEUE_CHUNK), why, "vmagent_queue_max")


def queued(series: int, scrape_interval: object, delay: object) -> float:
    """Bytes a second that a robot writes for a hub."""
    interval = to_seconds(scrape_interval)
    samples_in_block = max(FEWEST_SAMPLES_IN_BLOCK, to_seconds(delay) / interval)
    return series / interval * (QUEUE_BYTES_PER_SAMPLE + QUEUE_BYTES_PER_LABELS / samples_in_block)


def outage(queue_max: object, wanted: object, series: int, scrape_interval: object, delay: object) -> List[str]:
    """Whether the queue holds what a robot writes while a hub cannot be reached."""
    rate = queued(series, scrape_interval, delay)
    held, asked = _held(queue_max), to_seconds(wanted)
    if held / rate >= asked:
        return []
    return [
        "vmagent_queue_max {} holds an outage of {} at {} series every {}; vmagent_outage is {}, which takes {}. Raise "
        "vmagent_queue_max, or lower vmagent_outage".format(
            from_bytes(held), from_seconds(held / rate), series, scrape_interval, wanted, from_bytes(asked * rate)
        )
    ]


def catching_up(rate_limit: object, series: int, scrape_interval: object, delay: object) -> List[str]:
    """Whether a robot may send more than it writes: otherwise its queue never gets empty again."""
    written = queued(series, scrape_interval, delay)
    if to_bytes(rate_limit) > written:
        return []
    return [
        "vmagent_hub_rate_limit {} a second is not more than the robot writes, {} a second at {} series every {}: its "
        "queue would grow for ever. Raise it".format(rate_limit, from_bytes(written), series, scrape_interval)
    ]


def disk(claims: Sequence[Claim], there: int, reserve: int) -> List[str]:
    """Whether all claims together fit. `there` is what is free and what they use already; `reserve` must stay free."""
    needed = sum(claim.needed for claim in claims)
    if not claims or needed + reserve <= there:
        return []
    return [
        "the disk of /var/lib/roverwatch has {} for Roverwatch (free, and used by it already), {} may be needed: {}; "
        "and {} that must stay free (base_disk_reserve, artifacts). Lower {}, or give it a larger disk".format(
            from_bytes(max(there, 0)),
            from_bytes(needed + reserve),
            "; ".join(claim.why for claim in claims),
            from_bytes(reserve),
            " or ".join(claim.remedy for claim in claims),
        )
    ]


def _held(queue_max: object) -> int:
    """Bytes of samples that wait at most for one hub."""
    return max(to_bytes(queue_max), QUEUE_CHUNK)


def _rate(values: Mapping[str, Any]) -> float:
    """Samples a second that VictoriaMetrics gets; 0 if nothing says how many."""
    said = values.get("victoriametrics_samples_per_second")
    if said:
        return float(said)
    if {"vmagent_series", "vmagent_scrape_interval"} <= set(values):
        return float(values["vmagent_series"] / to_seconds(values["vmagent_scrape_interval"]))
    return 0.0


def _interval(value: object) -> None:
    if to_seconds(value) == 0:
        raise ValueError("{!r} is no interval: it must be more than nothing, such as 15s".format(value))


def _delay(value: object) -> None:
    if not 1 <= to_seconds(value) <= LONGEST_DELAY:
        raise ValueError("{!r} is not from 1s to {}s".format(value, LONGEST_DELAY))


def _count(value: Any) -> None:
    if value <= 0:
        raise ValueError("{!r} must be more than nothing".format(value))


_PARSERS: Dict[str, Callable[[Any], object]] = {
    "victoriametrics_retention": retention_to_seconds,
    "victoriametrics_scrape_interval": _interval,
    "vmagent_scrape_interval": _interval,
    "vmagent_hub_delay": _delay,
    "vmagent_outage": to_seconds,
    "vmagent_queue_max": to_bytes,
    "vmagent_hub_rate_limit": to_bytes,
    "vmagent_series": _count,
    "vmagent_daily_series_max": _count,
}
_MAY_BE_EMPTY = frozenset({"victoriametrics_scrape_interval"})
