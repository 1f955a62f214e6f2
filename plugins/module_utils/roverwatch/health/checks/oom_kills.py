"""The kernel has not killed a service for its memory lately."""

from __future__ import annotations

from ...common.problem import Problem
from ..options import Options
from ..service import Service


def check(service: Service, options: Options) -> list[Problem]:
    oom, unit = service.oom, service.unit
    if oom.last_seconds is None or oom.last_seconds > options.oom_window_seconds:
        return []
    what = f"was OOM-killed, last {oom.last_seconds:.0f} s ago ({oom.total} in all)"
    remedy = f"raise its <role>_memory_max in group_vars if this goes on; on {options.host}: journalctl -u {unit}"
    return [Problem(options.host, unit, what, remedy)]
