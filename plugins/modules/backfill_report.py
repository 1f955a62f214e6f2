#!/usr/bin/python
"""Documentation of the action plugin `backfill_report`, which does the work on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: backfill_report
short_description: Print what a backfill found and copied, keep it, and fail unless all went well
description:
  - Collects the results that were registered on every robot of the play, prints a table of what each hub lacked
    and got, and below it what an operator must act on.
  - Fails when a robot or a hub could not be compared, when a copy broke off or was left to the queue, and when samples
    that were copied did not arrive. In check mode, samples that are missing are no failure.
  - Runs on the controller and needs no connection to any host. Run it once per play.
options:
  plan:
    description: Name of the variable that M(roverwatch.fleet.backfill) with C(step=look) was registered as.
    type: str
    required: true
  own:
    description: Name of the variable that M(roverwatch.fleet.sample_counts) on the robot was registered as.
    type: str
    required: true
  before:
    description: Name of the variable that M(roverwatch.fleet.sample_counts) on the hubs, in a loop, was registered as.
    type: str
    required: true
  copy:
    description: Name of the variable that M(roverwatch.fleet.backfill) with C(step=copy) was registered as.
    type: str
    required: true
  after:
    description: >-
      Name of the variable that M(roverwatch.fleet.sample_counts) on the hubs after the copy, in a loop, was registered
      as.
    type: str
    required: true
  own_closer:
    description: >-
      Name of the variable that M(roverwatch.fleet.sample_counts) on the robot, for the stretches in doubt, was
      registered as.
    type: str
    required: true
  after_closer:
    description: Name of the variable that the same on the hubs after the copy, in a loop, was registered as.
    type: str
    required: true
  hubs:
    description: What M(ansible.builtin.ping) returned in a loop over the names of the hubs.
    type: dict
    required: true
  path:
    description: JSON file on the controller to write the same to, atomically. Not written in check mode.
    type: path
    required: true
attributes:
  check_mode:
    description: Gives the verdict on what is missing.
    support: full
author:
  - Roverwatch (@roverwatch)
"""

EXAMPLES = r"""
- name: Give the verdict
  roverwatch.fleet.backfill_report:
    plan: __backfill_plan
    own: __backfill_own
    before: __backfill_before
    copy: __backfill_copy
    after: __backfill_after
    own_closer: __backfill_own_closer
    after_closer: __backfill_after_closer
    hubs: "{{ __backfill_hubs }}"
    path: reports/backfill.json
  run_once: true
"""

RETURN = r"""
msg:
  description: The verdict in one line.
  returned: always
  type: str
  sample: "3 robots at 1 hub: 264,000 samples missing, 264,000 copied, 0 still missing"
"""
