"""Nothing about a service is left open: its cgroup, its record of OOM kills and its image can be read."""

from __future__ import annotations

from ...common.problem import Problem
from ..options import Options
from ..service import Service


def check(service: Service, options: Options) -> list[Problem]:
    return [Problem(options.host, service.unit, what, options.redeploy) for what in service.unknown]
