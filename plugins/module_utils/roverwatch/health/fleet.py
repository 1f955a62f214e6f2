"""What a machine says of the rest of its fleet: a robot of the hubs that it writes to, a hub of its robots."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from ..common import background
from ..hub import uplink
from ..query import promql
from ..service import records
from ..service.records import DATABASE, Installed
from . import alerts, holes, limits
from .options import Options
from .service import GRACE_SECONDS

T = TypeVar("T")

# The hub hears of a robot for this long after its last sample.
NEWEST_SAMPLE_QUERY = "max by (robot) (tlast_over_time(up[1d]))"
TARGETS_UP_QUERY = "count(up == 1) by (robot)"

LATE = {"error": "no complete answer in time"}


@dataclass(frozen=True)
class Uplink:
    """A robot's way to one hub."""

    hub: uplink.Hub
    answer: uplink.Answer
    queue: uplink.Queue | None


@dataclass(frozen=True)
class FleetView:
    """What there was to be seen. `hub`, `alerts` and `minutes` are answers, or why there is none (`error`)."""

    # A hub's: the newest sample of each robot, and what fires. None where there was nobody to ask.
    hub: dict[str, Any] | None = None
    alerts: dict[str, Any] | None = None
    # How many results of scrapes it has, by robot and minute.
    minutes: dict[str, Any] | None = None
    # A robot's. Empty where nothing writes to hubs.
    uplinks: Sequence[Uplink] = ()
    trend: uplink.Trend = uplink.NO_TREND
    # What is over its limit of samples or series.
    over_limits: list[limits.Finding] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for the module's result, of what there was to be asked."""
        hubs = [uplink.as_dict(one.hub, one.answer, one.queue) for one in self.uplinks] or None
        found = {"hub": self.hub, "hubs": hubs, "alerts": self.alerts, "minutes": self.minutes}
        return {name: answer for name, answer in found.items() if answer is not None}


class Fleet:
    """Asks all of it at once from the start, and `collect` waits for the answers."""

    def __init__(self, installed: Sequence[Installed], options: Options) -> None:
        self._started = time.monotonic()
        self._ready_timeout, self._timeout = options.ready_timeout_seconds, options.hub_timeout_seconds
        is_hub = options.hub_query_url is not None
        database, vmalert = records.find(DATABASE, installed), records.find(alerts.UNIT, installed)
        vmagent = next((item for item in installed if item.hubs), None)
        history = database.base_url if database else None

        self._hub = _ask(query_hub, options.hub_query_url, self._ready_timeout)
        self._alerts = _ask(firing, vmalert.base_url if is_hub and vmalert else None, self._timeout)
        counted = options.hub_query_url if is_hub else history
        if not options.holes_period_seconds or not (is_hub or vmagent):
            counted = None
        self._minutes = _ask(partial(count, options.holes_period_seconds), counted, self._timeout)
        self._over_limits = _ask(partial(limits.look, is_hub), history, self._ready_timeout)
        self._trend = _ask(uplink.trend, history if vmagent else None, self._timeout)
        self._queues = _ask(uplink.queues, vmagent.ready_url if vmagent else None, self._timeout)
        self._uplinks = [
            (hub, background.start(partial(uplink.ask, hub, self._timeout)))
            for hub in (uplink.read(vmagent.hubs) if vmagent else ())
        ]

    def collect(self) -> FleetView:
        """What there is by the deadlines."""
        ready_deadline = self._started + self._ready_timeout + GRACE_SECONDS
        deadline = self._started + self._timeout + GRACE_SECONDS
        queues = _answer(self._queues, deadline, {}) or {}
        late = uplink.late(self._timeout)
        return FleetView(
            hub=_answer(self._hub, ready_deadline, LATE),
            alerts=_answer(self._alerts, deadline, LATE),
            minutes=_answer(self._minutes, deadline, LATE),
            uplinks=[
                Uplink(hub, background.result(job, deadline, late), queues.get(hub.position))
                for hub, job in self._uplinks
            ],
            trend=_answer(self._trend, deadline, uplink.NO_TREND) or uplink.NO_TREND,
            over_limits=_answer(self._over_limits, ready_deadline, []) or [],
        )


def _ask(work: Callable[[str, float], T], url: str | None, timeout_seconds: float) -> Future[T] | None:
    """Begin to ask, where there is somebody to be asked."""
    return background.start(partial(work, url, timeout_seconds)) if url else None


def _answer(job: Future[T] | None, deadline: float, otherwise: T) -> T | None:
    return background.result(job, deadline, otherwise) if job else None


def query_hub(base_url: str, timeout_seconds: float) -> dict[str, Any]:
    """Per robot, the age of its newest sample in seconds and its targets that are up; or `error`, why not."""
    try:
        newest = _by_robot(promql.query(base_url, NEWEST_SAMPLE_QUERY, timeout_seconds))
        now = time.time()
        up = _by_robot(promql.query(base_url, TARGETS_UP_QUERY, timeout_seconds))
    except promql.QueryError as error:
        return {"error": str(error)}
    return {
        "newest_sample_age_seconds": {robot: round(now - seconds, 1) for robot, seconds in newest.items()},
        "targets_up": {robot: int(number) for robot, number in up.items()},
    }


def firing(base_url: str, timeout_seconds: float) -> dict[str, Any]:
    """What fires there; or `error`, why that cannot be said."""
    try:
        return {"firing": alerts.firing(base_url, timeout_seconds)}
    except alerts.AlertsError as error:
        return {"error": str(error)}


def count(period_seconds: float, base_url: str, timeout_seconds: float) -> dict[str, Any]:
    """The results of scrapes of each minute of the period; or `error`, why that cannot be said."""
    try:
        return holes.count(base_url, time.time(), period_seconds, timeout_seconds)
    except promql.QueryError as error:
        return {"error": str(error)}


def _by_robot(samples: Iterable[promql.Sample]) -> dict[str, float]:
    """Values by the label `robot`, of the series that have it."""
    return {sample.labels["robot"]: sample.value for sample in samples if "robot" in sample.labels}
