#!/usr/bin/python
"""Ask a hub whether updated robots look well."""

from __future__ import annotations

DOCUMENTATION = r"""
module: promql_gate
short_description: Judge updated robots by what a hub has of them
description:
  - Runs the queries of gates at the VictoriaMetrics of a hub, on the hub, and compares the value of each updated robot
    with limits, and with the robots that are not updated yet.
  - The outcome is V(pass); V(fail), where an updated robot is beyond a limit; or V(no_data), where nobody can tell,
    as VictoriaMetrics does not answer or has no value of an updated robot.
  - The module only reads. It fails where a gate is defined wrongly, and never because of what the robots do.
options:
  url:
    description: Base URL of VictoriaMetrics.
    type: str
    default: http://127.0.0.1:8428
  gates:
    description: What is asked. Without any, the outcome is V(pass).
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: What reports call the gate. No two may have the same.
        type: str
        required: true
      query:
        description:
          - MetricsQL or PromQL, with one value for each robot, by its label C(robot).
          - C($window) becomes the time since the update, such as V(45s). C($robots) becomes a regular expression of the
            robots' names for use in quotes, as in C(up{robot=~"$robots"}), so that nothing is computed for others.
          - It is asked for up to 50 robots at a time, so it must not compare robots with each other.
        type: str
        required: true
      max:
        description: The highest value allowed, in base units. O(gates[].max), O(gates[].min) or both must be given.
        type: float
      min:
        description: The lowest value allowed, in base units.
        type: float
      unit:
        description: How details show values. A V(ratio) of 0.05 is shown as 5 %.
        type: str
        choices: [ratio, bytes, seconds]
      tolerance:
        description:
          - A value beyond a limit is excused where the median of O(baseline) is beyond it, too, and the value is worse
            than that by this factor at most. Then all robots have it, and the update is not the cause.
        type: float
        default: 1.5
      when_common:
        description:
          - The outcome of what is excused so. V(no_data) is for what keeps the other gates from saying anything, such
            as a network that lets no sample through.
        type: str
        choices: [pass, no_data]
        default: pass
  updated:
    description:
      - The robots that were updated. If this is empty, it is looked whether each gate has a value for any robot of
        O(baseline), which says beforehand whether an update can be judged.
    type: list
    elements: str
    required: true
  baseline:
    description: Robots to compare with, not updated yet and online.
    type: list
    elements: str
    default: []
  window_seconds:
    description: How long all robots of O(updated) have been running what they are judged for.
    type: int
    required: true
  timeout_seconds:
    description: Time for the answer to one query.
    type: float
    default: 5
  settle_seconds:
    description:
      - For how long to ask again, every 2 s, while the outcome is V(no_data) or a robot of O(updated) is not among
        RV(judgeable), as samples arrive late. The window gets longer by what was waited.
    type: float
    default: 0
attributes:
  check_mode:
    description: Runs the same in check mode, as it changes nothing.
    support: full
author:
  - Roverwatch (@roverwatch)
"""

EXAMPLES = r"""
- name: Look whether robot-1 is well after 5 minutes
  roverwatch.fleet.promql_gate:
    updated: [robot-1]
    baseline: [robot-2, robot-3]
    window_seconds: 300
    settle_seconds: 30
    gates:
      - name: free disk
        query: min by (robot) (node_filesystem_avail_bytes{robot=~"$robots", mountpoint="/"})
        min: 500000000
        unit: bytes
  delegate_to: hub-1
  register: __gates
"""

RETURN = r"""
outcome:
  description: V(fail) if any gate fails, else V(no_data) if any has no data, else V(pass).
  returned: success
  type: str
reason:
  description: Name and detail of the first gate that decided so; empty if all passed.
  returned: success
  type: str
  sample: "source failures: robot-4 has 45.5 %, allowed is at most 5 %; median of those not updated yet: 0 %"
gates:
  description: What each gate says, in the order of O(gates).
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Name of the gate.
      type: str
      returned: always
    outcome:
      description: V(pass), V(fail) or V(no_data).
      type: str
      returned: always
    detail:
      description: The worst robot with its value, what is allowed, and how the others are; or why nobody can tell.
      type: str
      returned: always
    values:
      description: The value of each robot of O(updated), or null. The largest number stands for infinity.
      type: dict
      returned: always
    baseline:
      description: Median of the robots of O(baseline), or null.
      type: float
      returned: always
judgeable:
  description:
    - The robots of O(updated) and O(baseline) that are within the limits of each gate whose O(gates[].when_common) is
      V(no_data). Of the others, the hub has nothing fresh, as of one that comes out of a dead zone with a full queue.
  returned: success
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.common import unexpected
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.rollout import promql_gate


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "default": "http://127.0.0.1:8428"},
            # What is in a gate is read by promql_gate, whose errors name the gate.
            "gates": {"type": "list", "elements": "dict", "required": True},
            "updated": {"type": "list", "elements": "str", "required": True},
            "baseline": {"type": "list", "elements": "str", "default": []},
            "window_seconds": {"type": "int", "required": True},
            "timeout_seconds": {"type": "float", "default": 5.0},
            "settle_seconds": {"type": "float", "default": 0.0},
        },
        supports_check_mode=True,
    )
    params = module.params
    if params["window_seconds"] < 1:
        module.fail_json(msg=f"window_seconds is {params['window_seconds']}; write 1 or more")
    try:
        found = promql_gate.evaluate(
            promql_gate.Request(
                url=params["url"],
                gates=promql_gate.read_gates(params["gates"]),
                updated=params["updated"],
                baseline=params["baseline"],
                window_seconds=params["window_seconds"],
                timeout_seconds=params["timeout_seconds"],
                settle_seconds=params["settle_seconds"],
            )
        )
    except promql_gate.GateError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, **found)


if __name__ == "__main__":
    unexpected.told(main)
