"""Limits against labels that explode: whether something on a machine has more samples or series than it may.

What is over a limit is dropped, which nobody would miss until it is looked for.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from ..query import probe, promql

# A service's own limits, by the label `job`; on a hub, those of its own services.
_SCRAPES = (
    (
        "max by (job) (max_over_time(scrape_samples_post_metric_relabeling{{{own}}}[15m]))"
        " > (max by (job) (last_over_time(scrape_samples_limit{{{own}}}[15m])) > 0)",
        "has scrapes of {value:.0f} samples, more than its sample_limit: they are dropped as a whole",
    ),
    (
        "max by (job) (max_over_time(scrape_series_limit_samples_dropped{{{own}}}[15m])) > 0",
        "has more series than its series_limit in 24 hours: those that are new are dropped",
    ),
)
_ROBOT_QUERY = "sum(increase(vmagent_daily_series_limit_rows_dropped_total[15m])) > 0"
_HUB_QUERY = 'sum(increase(vm_daily_series_limit_rows_dropped_total{robot=""}[15m])) > 0'


class Finding(NamedTuple):
    """What is over a limit. `unit` is the service concerned, `variable` what raises the limit."""

    unit: str
    what: str
    variable: str


def look(hub: bool, base_url: str, timeout_seconds: float) -> list[Finding]:
    """What the machine's own history says of the last quarter of an hour; nothing if it cannot be asked."""
    try:
        return [*_scrapes(base_url, hub, timeout_seconds), *_daily(base_url, hub, timeout_seconds)]
    except promql.QueryError:
        return []  # its readiness says why


def _scrapes(base_url: str, hub: bool, timeout_seconds: float) -> list[Finding]:
    own = 'robot=""' if hub else 'robot!=""'
    return [
        Finding(
            f"roverwatch-{sample.labels['job']}",
            what.format(value=sample.value),
            "<role>_sample_limit, <role>_series_limit of sensor_service or node_exporter",
        )
        for query, what in _SCRAPES
        for sample in promql.query(base_url, query.format(own=own), timeout_seconds)
    ]


def _daily(base_url: str, hub: bool, timeout_seconds: float) -> list[Finding]:
    dropped = promql.query(base_url, _HUB_QUERY if hub else _ROBOT_QUERY, timeout_seconds)
    if not dropped:
        return []
    what = f"dropped {dropped[0].value:.0f} samples of new series in 15 minutes: there are too many in 24 hours"
    if hub:
        what += _most(base_url, timeout_seconds)
        return [Finding("roverwatch-victoriametrics", what, "victoriametrics_daily_series_max")]
    return [Finding("roverwatch-vmagent", what, "vmagent_daily_series_max")]


def _most(base_url: str, timeout_seconds: float) -> str:
    """Which robot has the most series today."""
    status, body = probe.http_get(f"{base_url}/api/v1/status/tsdb?focusLabel=robot&topN=1", timeout_seconds)
    try:
        first = json.loads(body)["data"]["seriesCountByFocusLabelValue"][0]
        return f"; {first['name']} has the most, {first['value']}"
    except (ValueError, LookupError, TypeError):
        return f"; which robot has the most cannot be seen: {probe.describe(status, body)}"
