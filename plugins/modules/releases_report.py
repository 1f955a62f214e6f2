#!/usr/bin/python
"""Documentation of the action plugin `releases_report`, which does the work on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: releases_report
short_description: Print which robot runs which release
description:
  - Prints a table of every robot of the play, from what M(roverwatch.fleet.release) registered there and from what the
    hubs answered.
  - Runs on the controller and needs no connection to any host. Run it once per play.
options:
  statuses:
    description: The variable that M(roverwatch.fleet.release)'s status was registered as.
    type: str
    required: true
  hubs:
    description: The results of asking each hub for C(roverwatch_release_info).
    type: list
    elements: dict
    required: true
extends_documentation_fragment: [roverwatch.fleet.attributes]
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
author:
  - Roverwatch (@roverwatch)
"""

EXAMPLES = r"""
- name: Print the table
  roverwatch.fleet.releases_report:
    statuses: __releases
    hubs: "{{ __releases_hubs.results }}"
  run_once: true
"""

RETURN = r"""
robots:
  description: The rows of the table.
  type: list
  elements: dict
  returned: always
"""
