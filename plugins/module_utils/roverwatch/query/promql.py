"""Ask VictoriaMetrics."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Mapping
from typing import Any, NamedTuple

from . import probe

# A number of each minute of a few hours is some kilobytes, and a hub has one of each robot.
RANGE_LIMIT_BYTES = 64 * 1024 * 1024


class QueryError(Exception):
    """There is no answer, or it is none."""


class Series(NamedTuple):
    """One series of a range query's answer: its values by their times, in whole seconds since 1970."""

    labels: dict[str, str]
    values: dict[int, float]


class Sample(NamedTuple):
    """One series of an instant query's answer."""

    labels: dict[str, str]
    value: float


def query(base_url: str, expression: str, timeout_seconds: float) -> list[Sample]:
    """An instant query as of now. Raises QueryError."""
    result = _ask(
        f"{base_url.rstrip('/')}/api/v1/query", {"query": expression}, timeout_seconds, probe.BODY_LIMIT_BYTES
    )
    try:
        return [Sample(item["metric"], float(item["value"][1])) for item in result]
    except (ValueError, KeyError, TypeError) as error:
        raise QueryError(f"not an answer of the query API: {str(result)[:200]}") from error


def query_range(base_url: str, expression: str, times: range, timeout_seconds: float) -> list[Series]:
    """A query at each of these times, in seconds since 1970. Raises QueryError."""
    asked = {"query": expression, "start": times[0], "end": times[-1], "step": f"{times.step}s"}
    result = _ask(f"{base_url.rstrip('/')}/api/v1/query_range", asked, timeout_seconds, RANGE_LIMIT_BYTES)
    try:
        return [Series(item["metric"], {int(at): float(value) for at, value in item["values"]}) for item in result]
    except (ValueError, KeyError, TypeError) as error:
        raise QueryError(f"not an answer of the query API: {str(result)[:200]}") from error


def _ask(url: str, parameters: Mapping[str, object], timeout_seconds: float, limit_bytes: int) -> list[Any]:
    # Without nocache, VictoriaMetrics answers as of 30 s ago, and no robot's samples would ever look fresh.
    arguments = urllib.parse.urlencode({**parameters, "nocache": "1"})
    status, body = probe.http_get(f"{url}?{arguments}", timeout_seconds, limit_bytes)
    if not probe.is_ready(status):
        raise QueryError(probe.describe(status, body))
    try:
        result: list[Any] = json.loads(body)["data"]["result"]
    except (ValueError, KeyError, TypeError) as error:
        raise QueryError(f"not an answer of the query API: {body[:200]}") from error
    return result
