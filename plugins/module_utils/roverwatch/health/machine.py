"""A machine as it is now, which the checks judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..system import cgroup
from .fleet import FleetView
from .options import Options, Paths
from .service import Service


@dataclass(frozen=True)
class Machine:
    """What was seen of it. `slice_memory` is None where the slice does not run."""

    options: Options
    paths: Paths
    services: Sequence[Service]
    slice_memory: cgroup.CgroupMemory | None
    fleet: FleetView

    @property
    def caps_total(self) -> int:
        """The sum of what was deployed, in bytes."""
        return sum(service.installed.memory_max for service in self.services)
