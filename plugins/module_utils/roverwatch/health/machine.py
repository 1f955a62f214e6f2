"""Every check of one machine: what runs, whether it answers, and what the kernel says about its memory.

First the machine is looked at, all at once, and the figures judge nothing. Then `checks` find what an operator must act
on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..common.problem import Problem
from ..service import records
from ..system import cgroup, systemd
from . import checks
from .fleet import Fleet, FleetView
from .options import PATHS, Options, Paths
from .service import NOT_FOUND, UNIT_PROPERTIES, Service, Services, directory, memory_or_none


@dataclass(frozen=True)
class Machine:
    """A machine as it is now."""

    options: Options
    paths: Paths
    services: Sequence[Service]
    slice_memory: cgroup.CgroupMemory | None
    fleet: FleetView

    @property
    def caps_total(self) -> int:
        """The sum of what was deployed, in bytes."""
        return sum(service.installed.memory_max for service in self.services)

    def problems(self) -> list[Problem]:
        """What an operator must act on."""
        return [
            *(problem for check in checks.OF_DEPLOYMENT for problem in check(self)),
            *(
                problem
                for service in self.services
                for check in _checks_of(service)
                for problem in check(service, self.options)
            ),
            *(problem for check in checks.OF_MACHINE for problem in check(self)),
        ]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for the module's result."""
        return {
            "services": [service.as_dict() for service in self.services],
            "slice": {
                "unit": self.options.slice_unit,
                "memory": self.slice_memory.as_dict() if self.slice_memory else None,
                "caps_total_bytes": self.caps_total,
                "budget_bytes": self.options.memory_budget,
            },
            "uptime_seconds": float((self.paths.proc / "uptime").read_text().split()[0]),
            **self.fleet.as_dict(),
            "problems": [asdict(problem) for problem in self.problems()],
        }


def _checks_of(service: Service) -> Sequence[checks.OfService]:
    if service.state == NOT_FOUND:
        return checks.OF_SERVICE_WITHOUT_UNIT
    return checks.OF_SERVICE if service.active else checks.OF_STOPPED_SERVICE


def look(options: Options, paths: Paths = PATHS) -> Machine:
    """Look at the machine.

    Takes little longer than `ready_timeout_seconds`, however many services hang, or `hub_timeout_seconds` where hubs
    do. Raises records.RecordError, cgroup.CgroupError or systemd.SystemdError where it cannot be looked at.
    """
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
