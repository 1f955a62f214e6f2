"""Nothing has more samples or series than it may: what is over a limit is dropped."""

from __future__ import annotations

from ...common.problem import Problem
from ..machine import Machine


def check(machine: Machine) -> list[Problem]:
    remedy = 'docs/runbook.md, "Too many series"; if they are wanted: {}, then {}'
    return [
        Problem(machine.options.host, one.unit, one.what, remedy.format(one.variable, machine.options.redeploy))
        for one in machine.fleet.over_limits
    ]
