"""Ask VictoriaMetrics."""

from __future__ import annotations

import json
import urllib.parse
from typing import NamedTuple

from . import probe


class QueryError(Exception):
    """There is no answer, or it is none."""


class Sample(NamedTuple):
    """One series of an instant query's answer."""

    labels: dict[str, str]
    value: float


def query(base_url: str, expression: str, timeout_seconds: float) -> list[Sample]:
    """An instant query as of now. Raises QueryError."""
    # Without nocache, VictoriaMetrics answers as of 30 s ago, and no robot's samples would ever look fresh.
    arguments = urllib.parse.urlencode({"query": expression, "nocache": "1"})
    status, body = probe.http_get(f"{base_url.rstrip('/')}/api/v1/query?{arguments}", timeout_seconds)
    if not probe.is_ready(status):
        raise QueryError(probe.describe(status, body))
    try:
        return [Sample(item["metric"], float(item["value"][1])) for item in json.loads(body)["data"]["result"]]
    except (ValueError, KeyError, TypeError) as error:
        raise QueryError(f"not an answer of the query API: {body[:200]}") from error
