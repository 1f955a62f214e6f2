"""Every check of one machine: what runs, whether it answers, and what the kernel says about its memory.

First the machine is looked at, all at once, and the figures judge nothing. Then `checks` find what an operator must act
on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ..common.problem import Problem
from ..service import records
from ..system import cgroup, systemd
from . import checks
from .fleet import Fleet
from .machine import Machine
from .options import PATHS, Options, Paths
from .service import NOT_FOUND, UNIT_PROPERTIES, Service, Services, directory, memory_or_none


def examine(options: Options, paths: Paths = PATHS) -> dict[str, Any]:
    """The module's result: what was seen, and `problems`.

    Takes little longer than `ready_timeout_seconds`, however many services hang, or `hub_timeout_seconds` where hubs
    do. Raises records.RecordError, cgroup.CgroupError or systemd.SystemdError where it cannot be looked at.
    """
    machine = look(options, paths)
    return {
        "services": [service.as_dict() for service in machine.services],
        "slice": {
            "unit": options.slice_unit,
            "memory": machine.slice_memory.as_dict() if machine.slice_memory else None,
            "caps_total_bytes": machine.caps_total,
            "budget_bytes": options.memory_budget,
        },
        "uptime_seconds": float((paths.proc / "uptime").read_text().split()[0]),
        **machine.fleet.as_dict(),
        "problems": [asdict(problem) for problem in problems(machine)],
    }


def look(options: Options, paths: Paths) -> Machine:
    """Ask all that there is to be asked."""
    installed = records.read(paths.services)
    # All that can hang starts first and runs beside the rest.
    services = Services(installed, options.ready_timeout_seconds, paths)
    fleet = Fleet(installed, options)
    shown = systemd.show_many([options.slice_unit, *(item.unit for item in installed)], UNIT_PROPERTIES)
    controller = cgroup.find_controller(paths.proc / "self" / "mountinfo")
    slice_directory = directory(controller, shown[options.slice_unit])
    return Machine(
        options,
        paths,
        services.collect(shown, controller, slice_directory),
        memory_or_none(slice_directory),
        fleet.collect(),
    )


def problems(machine: Machine) -> list[Problem]:
    """What an operator must act on."""
    return [
        *(problem for check in checks.OF_DEPLOYMENT for problem in check(machine)),
        *(
            problem
            for service in machine.services
            for check in _checks_of(service)
            for problem in check(service, machine.options)
        ),
        *(problem for check in checks.OF_MACHINE for problem in check(machine)),
    ]


def _checks_of(service: Service) -> Sequence[checks.OfService]:
    if service.state == NOT_FOUND:
        return checks.OF_SERVICE_WITHOUT_UNIT
    return checks.OF_SERVICE if service.active else checks.OF_STOPPED_SERVICE
