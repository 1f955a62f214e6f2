"""The kernel enforces the memory budget, and the caps of the services fit under it."""

from __future__ import annotations

from ...common.problem import Problem
from ...common.sizes import from_bytes
from ...system import cgroup
from ..machine import Machine


def check(machine: Machine) -> list[Problem]:
    options, memory = machine.options, machine.slice_memory
    host, unit = options.host, options.slice_unit
    if memory is None:
        return [Problem(host, unit, "is not running: nothing enforces the memory budget", options.redeploy)]
    if memory.limit_bytes is None:
        return [Problem(host, unit, "has no memory limit: nothing enforces the memory budget", options.redeploy)]
    limit = from_bytes(memory.limit_bytes)
    problems = []
    if options.memory_budget is not None and memory.limit_bytes != cgroup.whole_pages(options.memory_budget):
        what = f"has a limit of {limit} in the kernel, but memory_budget is {from_bytes(options.memory_budget)}"
        problems.append(Problem(host, unit, what, options.redeploy))
    if machine.caps_total > memory.limit_bytes:
        what = f"has services with caps of {from_bytes(machine.caps_total)} in all, more than its limit of {limit}"
        remedy = f"lower a <role>_memory_max or raise memory_budget in group_vars, then {options.redeploy}"
        problems.append(Problem(host, unit, what, remedy))
    return problems
