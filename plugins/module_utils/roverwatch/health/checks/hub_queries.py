"""A hub answers queries."""

from __future__ import annotations

from ...common.problem import Problem
from ...service.records import DATABASE
from ..machine import Machine


def check(machine: Machine) -> list[Problem]:
    answer, options = machine.fleet.hub or {}, machine.options
    if "error" not in answer:
        return []
    what = f"{options.hub_query_url} does not answer queries: {answer['error']}"
    return [Problem(options.host, "hub", what, f"on {options.host}: systemctl status {DATABASE}")]
