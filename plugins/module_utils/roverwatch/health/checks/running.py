"""A service that was deployed runs."""

from __future__ import annotations

from ...common.problem import Problem
from ..options import Options
from ..service import NOT_FOUND, Service


def check(service: Service, options: Options) -> list[Problem]:
    if service.state == NOT_FOUND:
        return [Problem(options.host, service.unit, "has no unit although it was deployed", options.redeploy)]
    result = service.shown.get("Result", "success")
    why = "" if result == "success" else f" (result: {result})"
    what = f"is {service.state}/{service.shown.get('SubState', '')}{why}"
    return [Problem(options.host, service.unit, what, options.journal(service.unit))]
