"""Each hub of a robot takes what the robot sends."""

from __future__ import annotations

from ...common.problem import Problem
from ...hub import gateway, uplink
from ..machine import Machine


def check(machine: Machine) -> list[Problem]:
    host, fleet = machine.options.host, machine.fleet
    silent = (*gateway.NO_ANSWER, uplink.STATUS) if machine.options.hubs_may_be_silent else ()
    return [
        Problem(host, "hub", what, remedy)
        for one in fleet.uplinks
        if one.answer.kind not in silent
        for what, remedy in uplink.judge(host, one.hub, one.answer, one.queue, fleet.trend)
    ]
