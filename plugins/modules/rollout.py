#!/usr/bin/python
"""Documentation of the action plugin `rollout`, which does the work on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rollout
short_description: The controller's steps of a rolling update
description:
  - Plans the waves of a rollout, keeps its journal, and gives the verdicts between waves. A building block of the role
    C(rollout); needs no connection to any host.
options:
  step:
    description:
      - V(plan) decides from each robot's status who is updated in which wave, and refuses what cannot work; nothing has
        been changed then. Register it as C(__rollout_plan), which the other steps read.
      - V(start_wave), V(judge) and V(end_wave) frame a wave. V(start_wave) returns who of it is there and can be
        judged, to be registered as the wave of the other steps. It and V(end_wave) fail where the rollout is to stop.
      - V(tally) returns who of a wave is how far.
      - V(note) writes what a robot went through into the journal.
      - V(end) ends the rollout. It fails unless every robot has the release.
    type: str
    choices: [plan, note, start_wave, tally, judge, end_wave, end]
    required: true
  statuses:
    description: >-
      For V(plan) and V(start_wave), the variable that M(roverwatch.fleet.release)'s status was registered as.
    type: str
  settings:
    description: For V(plan), the variables of the role C(rollout), and C(hubs).
    type: dict
  wave:
    description: The wave's C(number) and C(robots).
    type: dict
  phase:
    description: For V(note), what the robot went through.
    type: str
    choices: [deployed, healthy, failed]
  reason:
    description: For V(note), why.
    type: str
  answers:
    description: For V(start_wave) and V(judge), what M(roverwatch.fleet.promql_gate) found at each hub.
    type: list
    elements: dict
  going_on:
    description: Whether the operator goes on without the hubs' data.
    type: bool
    default: false
  verdict:
    description: For V(end_wave), what V(judge) returned.
    type: dict
attributes:
  check_mode:
    description: Plans and says so, and writes no journal.
    support: full
author:
  - Roverwatch (@roverwatch)
"""

EXAMPLES = r"""
- name: Plan the waves
  roverwatch.fleet.rollout:
    step: plan
    statuses: __rollout_status
    settings: "{{ settings }}"
  register: __rollout_plan
  run_once: true
"""

RETURN = r"""
outcome:
  description: V(pass) confirms the wave, V(fail) takes it back, V(no_data) leaves it waiting.
  type: str
  returned: for judge
reason:
  description: Why.
  type: str
  returned: for judge
waves:
  description: C(number) and C(robots) of each wave.
  type: list
  elements: dict
  returned: for plan
updating:
  description: Robots of the wave that are deployed, and not judged yet.
  type: list
  elements: str
  returned: for tally
healthy:
  description: Robots of the wave that are on the release, and well.
  type: list
  elements: str
  returned: for tally
directory:
  description: Where the journal is.
  type: str
  returned: for plan
"""
