"""What a dashboard is, whoever draws it. `fleet` and `robot` are ours; vmui, grafana and page draw them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

COLUMNS = 12
"""Columns of the grid that a panel's width is counted in."""

ROBOT_MATCHER = 'robot="$robot"'
"""Stands first in the braces of every selector of one robot's series. `$robot` is Grafana's own placeholder, too."""

Draw = Literal["lines", "area", "bars", "stat", "table"]
"""`area` stacks the series. `bars` is for events, of which each step has a number. `stat` shows the newest value."""


@dataclass(frozen=True)
class Scale:
    """Values from `factor` on are shown as multiples of it, with `suffix` behind."""

    factor: float
    suffix: str


@dataclass(frozen=True)
class Unit:
    """A unit of queries' values: always a base unit. `scales` ascend; `fixed` serves VMUI, which does not scale."""

    grafana: str
    scales: tuple[Scale, ...]
    fixed: Scale

    def scale(self, value: float) -> Scale:
        """The scale that a value is read best in."""
        return next((scale for scale in reversed(self.scales) if abs(value) >= scale.factor), self.scales[0])


def _plain(suffix: str, grafana: str) -> Unit:
    scale = Scale(1, suffix)
    return Unit(grafana, (scale,), scale)


def _bytes(end: str, grafana: str) -> Unit:
    names = (f"B{end}", f"KiB{end}", f"MiB{end}", f"GiB{end}", f"TiB{end}")
    scales = tuple(Scale(1024**power, name) for power, name in enumerate(names))
    return Unit(grafana, scales, scales[2 if not end else 1])


UNITS: dict[str, Unit] = {
    "count": _plain("", "short"),
    "per_second": _plain("/s", "cps"),
    "cores": _plain("cores", "short"),
    "celsius": _plain("°C", "celsius"),
    "ratio": Unit("percentunit", (Scale(0.01, "%"),), Scale(0.01, "%")),
    "bytes": _bytes("", "bytes"),
    "bytes_per_second": _bytes("/s", "binBps"),
    "seconds": Unit(
        "s",
        (Scale(1e-6, "µs"), Scale(1e-3, "ms"), Scale(1, "s"), Scale(60, "min"), Scale(3600, "h"), Scale(86400, "d")),
        Scale(1, "s"),
    ),
}
"""By the name that panels use."""


@dataclass(frozen=True)
class Query:
    """MetricsQL, and what a series of its answer is called: `{{name}}` stands for the value of that label.

    A `limit` is what the other queries' values are held against, such as a budget; it is drawn dashed.
    """

    expr: str
    legend: str
    limit: bool = False


@dataclass(frozen=True)
class Thresholds:
    """Values in the panel's unit from which on there is something to look at; with `below`, from which on down."""

    warning: float
    critical: float
    below: bool = False

    def level(self, value: float) -> Literal["ok", "warning", "critical"]:
        """What a value is by these."""
        sign = -1 if self.below else 1
        if sign * value >= sign * self.critical:
            return "critical"
        return "warning" if sign * value >= sign * self.warning else "ok"


@dataclass(frozen=True)
class Panel:
    """One chart, number or table.

    `may_be_empty` says why it is right that there is no data; a panel without it must have some. `labels` are the
    columns of a table, in this order; `value` is the heading of its column of values, which is left out without it.
    """

    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    draw: Draw = "lines"
    width: int = 6
    thresholds: Thresholds | None = None
    labels: tuple[str, ...] = ()
    value: str = ""
    may_be_empty: str = ""


@dataclass(frozen=True)
class Row:
    """Panels under one heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Dashboard:
    """One page. `name` is that of its files."""

    name: str
    title: str
    description: str
    rows: tuple[Row, ...]

    def panels(self) -> Iterator[Panel]:
        """All panels, in order."""
        for row in self.rows:
            yield from row.panels


def promql(query: Query, robot: str | None) -> str:
    """The query as VictoriaMetrics takes it; without a robot for one that has the series of a single robot."""
    if robot is not None:
        return query.expr.replace("$robot", robot)
    without = re.sub(re.escape(ROBOT_MATCHER) + r"(,\s*)?", "", query.expr)
    return without.replace("{}", "")


def queries(dashboard: Dashboard, robot: str | None = None) -> list[tuple[str, str, str]]:
    """Title of the panel, query and `may_be_empty`, for every query of the dashboard.

    `robot` is the robot to ask for, where the dashboard is about one; without it, the queries are those for the
    robot's own VictoriaMetrics.
    """
    return [
        (panel.title, promql(query, robot), panel.may_be_empty)
        for panel in dashboard.panels()
        for query in panel.queries
    ]
