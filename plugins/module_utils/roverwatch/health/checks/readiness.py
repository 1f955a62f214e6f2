"""A service answers 2xx at its readiness URL."""

from __future__ import annotations

from ...common.problem import Problem
from ..options import Options
from ..service import Service


def check(service: Service, options: Options) -> list[Problem]:
    if service.readiness.ready:
        return []
    what = f"is not ready: {service.installed.ready_url}: {service.readiness.reason}"
    return [Problem(options.host, service.unit, what, options.journal(service.unit))]
