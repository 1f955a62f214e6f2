"""Every service that the machine should have was deployed."""

from __future__ import annotations

from ...common.problem import Problem
from ..machine import Machine


def check(machine: Machine) -> list[Problem]:
    options, present = machine.options, {service.unit for service in machine.services}
    return [
        Problem(options.host, unit, "is not installed", options.redeploy)
        for unit in options.expected_units
        if unit not in present
    ]
