#!/usr/bin/python
"""Run range queries at a VictoriaMetrics or Prometheus that only its own machine can reach."""

from __future__ import annotations

DOCUMENTATION = r"""
module: range_queries
short_description: Run many range queries at VictoriaMetrics in one call
description:
  - Runs range queries from the machine that VictoriaMetrics runs on, where it needs neither a password nor an open
    port, and returns all answers at once.
  - The module only reads. It fails when VictoriaMetrics does not answer, or refuses a query.
options:
  url:
    description: Base URL of VictoriaMetrics or Prometheus.
    type: str
    default: http://127.0.0.1:8428
  queries:
    description: The queries, in MetricsQL or PromQL.
    type: list
    elements: str
    required: true
  start:
    description: First point, in seconds since 1970.
    type: int
    required: true
  end:
    description: Last point, in seconds since 1970.
    type: int
    required: true
  step:
    description: Seconds between two points.
    type: int
    required: true
  timeout_seconds:
    description: Time for the answer to one query.
    type: float
    default: 30
attributes:
  check_mode:
    description: Runs the same in check mode, as it changes nothing.
    support: full
author:
  - Roverwatch (@roverwatch)
"""

EXAMPLES = r"""
- name: Ask for an hour of two things
  roverwatch.fleet.range_queries:
    queries: ["count(up == 1)", "sum(rate(vm_rows_inserted_total[5m]))"]
    start: "{{ now(utc=true).timestamp() | int - 3600 }}"
    end: "{{ now(utc=true).timestamp() | int }}"
    step: 60
  register: __answers
"""

RETURN = r"""
answers:
  description:
    - The series of each query, in the order of O(queries); gzipped JSON in base64, since a fleet's are large.
    - A list for each query, of series; each with C(metric), its labels, and C(values), pairs of seconds and text.
  returned: success
  type: str
seconds:
  description: Time that each query took, in the order of O(queries).
  returned: success
  type: list
  elements: float
"""

import base64
import gzip
import http.client
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.common import unexpected

MESSAGE_LIMIT = 500


class QueryError(Exception):
    """VictoriaMetrics did not answer, or refused a query; the text says which and why."""


def query_range(url: str, query: str, period: dict[str, int], timeout_seconds: float) -> list[dict[str, Any]]:
    """The series of one range query. `period` has start, end and step in seconds."""
    # Without a proxy from the environment: what is asked for is this machine's own.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    body = urllib.parse.urlencode({"query": query, "nocache": 1, **period}).encode()
    try:
        with opener.open(f"{url.rstrip('/')}/api/v1/query_range", data=body, timeout=timeout_seconds) as response:
            answer = json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            said = error.read().decode("utf-8", "replace")
        raise QueryError(f"{url} answered {error.code} to the query {query}: {said[:MESSAGE_LIMIT]}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        remedy = "is VictoriaMetrics running there?"
        raise QueryError(f"{url} does not answer the query {query}: {reason}; {remedy}") from error
    series: list[dict[str, Any]] = answer["data"]["result"]
    return series


def pack(answers: list[list[dict[str, Any]]]) -> str:
    """What RV(answers) is."""
    return base64.b64encode(gzip.compress(json.dumps(answers, separators=(",", ":")).encode())).decode()


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "default": "http://127.0.0.1:8428"},
            "queries": {"type": "list", "elements": "str", "required": True},
            "start": {"type": "int", "required": True},
            "end": {"type": "int", "required": True},
            "step": {"type": "int", "required": True},
            "timeout_seconds": {"type": "float", "default": 30},
        },
        supports_check_mode=True,
    )
    params = module.params
    period = {name: params[name] for name in ("start", "end", "step")}
    answers, seconds = [], []
    try:
        for query in params["queries"]:
            started = time.monotonic()
            answers.append(query_range(params["url"], query, period, params["timeout_seconds"]))
            seconds.append(round(time.monotonic() - started, 4))
    except QueryError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, answers=pack(answers), seconds=seconds)


if __name__ == "__main__":
    unexpected.told(main)
