"""A service runs the binary or the image that was deployed."""

from __future__ import annotations

from ...common.problem import Problem
from ..options import Options
from ..service import Service


def check(service: Service, options: Options) -> list[Problem]:
    if service.running_as_recorded is not False:
        return []
    recorded = service.installed.exe or service.installed.image_id
    what = f"runs {service.running}, but {recorded} is installed"
    return [Problem(options.host, service.unit, what, f"on {options.host}: systemctl restart {service.unit}")]
