#!/usr/bin/python
"""Documentation of the action plugin `load_report`, which does the work on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: load_report
short_description: Print what load did to the robots, keep it, and fail unless all went well
description:
  - Collects the results that M(roverwatch.fleet.load_test) registered on every host of the play, prints a table of them
    and below it
    what an operator must act on.
  - Fails when a request failed, a service was OOM-killed, or a host was not tested.
  - Runs on the controller and needs no connection to any host. Run it once per play.
options:
  results:
    description: Name of the variable that M(roverwatch.fleet.load_test) was registered as.
    type: str
    required: true
  path:
    description: JSON file on the controller to write the same to, atomically. Not written in check mode.
    type: path
    required: true
attributes:
  check_mode:
    description: Prints what would be sent.
    support: full
author:
  - Roverwatch (@roverwatch)
"""

EXAMPLES = r"""
- name: Give the verdict
  roverwatch.fleet.load_report:
    results: __load_test
    path: reports/load_test.json
  run_once: true
"""

RETURN = r"""
msg:
  description: The verdict in one line.
  returned: always
  type: str
  sample: 0 of 44310 requests on 1 robot failed
"""
