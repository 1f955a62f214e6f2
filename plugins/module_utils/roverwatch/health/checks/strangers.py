"""What answers on a service's port is the service. An answer of another program would be scraped in its place."""

from __future__ import annotations

from ...common.problem import Problem
from ...system import sockets
from ..options import Options
from ..service import Service


def check(service: Service, options: Options) -> list[Problem]:
    if service.stranger in ("", sockets.NOBODY):
        return []
    url = service.installed.ready_url
    what = f"is not what answers at {url}: {service.stranger} has its port, and is scraped in its place"
    remedy = f"stop that, or give the service another <role>_port in group_vars, then {options.redeploy}"
    return [Problem(options.host, service.unit, what, remedy)]
