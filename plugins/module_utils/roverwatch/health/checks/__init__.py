"""The checks of a machine, a file each. A check says what an operator must act on, as Problems; it changes nothing.

A new check is a file here, its line in one of these lists, and its test. Problems are told in this order.
"""

from __future__ import annotations

from typing import Callable, List

from ...common.problem import Problem
from ..options import Options
from ..service import Service
from . import (
    budget,
    caps,
    certificate,
    deployed,
    disks,
    firewall,
    hub_queries,
    hubs,
    limits,
    oom_kills,
    program,
    readiness,
    restarts,
    running,
    strangers,
    unknown,
)

OfService = Callable[[Service, Options], List[Problem]]

# Of the machine, first: whether its services are there at all.
OF_DEPLOYMENT = (deployed.check,)
# Of each service that runs.
OF_SERVICE = (
    unknown.check,
    strangers.check,
    readiness.check,
    program.check,
    certificate.check,
    caps.check,
    oom_kills.check,
    restarts.check,
)
# What does not run has no cap, no version and no answer: one cause, one line.
OF_STOPPED_SERVICE = (running.check, strangers.check, oom_kills.check, restarts.check)
OF_SERVICE_WITHOUT_UNIT = (running.check,)
# Of the machine as a whole.
OF_MACHINE = (
    budget.check,
    firewall.check,
    disks.check,
    hub_queries.check,
    limits.check,
    hubs.check,
)
