#!/usr/bin/python
"""Documentation of the action plugin `release`, which has the robot's own tool do the work."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release
short_description: Begin, confirm or take back a release on a robot
description:
  - Runs C(roverwatch-release), which the role C(release) installs, on the robot, and writes what came of it into the
    journal of the rollout.
  - A robot that has begun and is not confirmed in time goes back by itself.
options:
  command:
    description: What the robot is to do. V(status) changes nothing.
    type: str
    choices: [begin, confirm, rollback, status]
    required: true
  id:
    description:
      - The release. Required for V(begin) and V(confirm); with V(rollback), the robot refuses unless it has this
        release or is on its way to it.
    type: str
  deadline:
    description: Seconds after V(begin) at which the robot goes back by itself.
    type: int
  holder:
    description: Who begins. Nobody else can while the robot waits for its confirmation.
    type: str
  reason:
    description: Why it goes back, for the robot's journal and the rollout's.
    type: str
  journal:
    description: Whether to write into the journal of the rollout that C(__rollout_plan) is about.
    type: bool
    default: false
  wave:
    description: The wave of the rollout, for its journal.
    type: dict
attributes:
  check_mode:
    description: V(status) alone runs in check mode, with C(check_mode=false).
    support: partial
author:
  - Roverwatch (@roverwatch)
"""

EXAMPLES = r"""
- name: What does it run?
  roverwatch.fleet.release:
    command: status
  register: __status
"""

RETURN = r"""
release:
  description: The release that the robot has; null before its first one.
  type: str
  returned: success
previous:
  description: The release that V(rollback) would go back to.
  type: str
  returned: success
state:
  description: unreleased, applying, rolling_back, confirmed, rolled_back, or failed (back, and not well).
  type: str
  returned: success
since:
  description: When that began, in seconds since the epoch.
  type: float
  returned: success
reason:
  description: Why it went back last.
  type: str
  returned: success
applying:
  description: C(id), C(holder), C(begun) and C(deadline) while it waits for a confirmation.
  type: dict
  returned: success
modified:
  description: Whether something else than a release has changed the robot since.
  type: bool
  returned: success
"""
