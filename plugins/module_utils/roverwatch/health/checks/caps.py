"""The kernel enforces the cap of a service that was deployed, and the service does not fill it."""

from __future__ import annotations

from ...common.problem import Problem
from ...common.sizes import from_bytes
from ...system import cgroup
from ..options import Options
from ..service import Service

# A service this close to its cap is about to be killed.
NEARLY_FULL = 0.95


def check(service: Service, options: Options) -> list[Problem]:
    unit, memory, cap = service.unit, service.memory, service.installed.memory_max
    if memory is None:
        return []
    # The unit file says what was deployed, so something set the limit over its head: a drop-in, or set-property.
    undo = f"systemctl revert {unit} and systemctl restart {unit} there, then {options.redeploy}"
    if memory.limit_bytes is None:
        return [Problem(options.host, unit, f"has no cap in the kernel, {from_bytes(cap)} was deployed", undo)]
    problems = []
    limit = from_bytes(memory.limit_bytes)
    if memory.limit_bytes != cgroup.whole_pages(cap):
        what = f"has a cap of {limit} in the kernel, {from_bytes(cap)} was deployed"
        problems.append(Problem(options.host, unit, what, undo))
    if memory.working_set_bytes > NEARLY_FULL * memory.limit_bytes:
        percent = 100 * memory.working_set_bytes / memory.limit_bytes
        what = f"uses {percent:.0f} % of its cap of {limit}: the kernel is about to kill it"
        remedy = f"raise its <role>_memory_max in group_vars, then {options.redeploy}"
        problems.append(Problem(options.host, unit, what, remedy))
    return problems
