#!/usr/bin/python
"""Documentation of the action plugin `health_report`, which does the work on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: health_report
short_description: Print the fleet's health, keep it, and fail unless all is well
description:
  - Collects the results that M(roverwatch.fleet.fleet_health) registered on every host of the play, prints a table of
    all
    services and below it what an operator must act on.
  - Runs on the controller and needs no connection to any host. Run it once per play.
  - Hosts without a result are a problem, as is a robot that a hub among the hosts has not heard of lately.
options:
  results:
    description: Name of the variable that M(roverwatch.fleet.fleet_health) was registered as.
    type: str
    required: true
  path:
    description: JSON file on the controller to write the same to, atomically. Not written in check mode.
    type: path
    required: true
  page:
    description: HTML file on the controller to write the same to for people, likewise.
    type: path
  max_sample_age_seconds:
    description: How old a robot's newest sample on a hub may be.
    type: float
    default: 60
  robots_group:
    description: Inventory group of the robots; other hosts are hubs.
    type: str
    default: robots
notes:
  - Reads the variable C(health_expected_units) of each host to count the services of silent ones.
attributes:
  check_mode:
    description: Gives the same verdict in check mode.
    support: full
author:
  - Roverwatch (@roverwatch)
"""

EXAMPLES = r"""
- name: Give the verdict
  roverwatch.fleet.health_report:
    results: __health
    path: reports/health.json
    page: reports/health.html
  run_once: true
"""

RETURN = r"""
msg:
  description: The verdict in one line.
  returned: always
  type: str
  sample: 12 of 12 services on 3 robots healthy
"""
