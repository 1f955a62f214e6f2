#!/usr/bin/python
"""Count the samples that a machine's VictoriaMetrics has of a robot."""

from __future__ import annotations

DOCUMENTATION = r"""
module: sample_counts
short_description: Count the samples of a robot for each series and minute, or second
description:
  - Asks the VictoriaMetrics of the machine, a robot's own or a hub's, how many samples each series of a robot has in
    each minute from O(start) to O(end), or in each second of O(stretches). Counts of two machines show what one of them
    lacks.
  - The module only reads.
options:
  robot:
    description: The robot, as the label C(robot) of its series says.
    type: str
    required: true
  start:
    description: Samples after this time are counted, in seconds since 1970; a whole minute.
    type: int
  end:
    description: Samples up to and including this time are counted, in seconds since 1970; a whole minute.
    type: int
  at_least:
    description: >-
      So many samples should be there. A database that was just restarted, or is busy, may not show all that it has
      taken: while there are fewer they are counted again, three times at most.
    type: int
    default: 0
  stretches:
    description: Start and end of each stretch in which the seconds are counted, as above.
    type: list
    elements: list
attributes:
  check_mode:
    description: Runs the same in check mode, as it changes nothing.
    support: full
author:
  - Roverwatch (@roverwatch)
"""

EXAMPLES = r"""
- name: Count what the hub has of this robot
  roverwatch.fleet.sample_counts:
    robot: "{{ inventory_hostname }}"
    start: "{{ __backfill_plan.start }}"
    end: "{{ __backfill_plan.end }}"
  delegate_to: hub-1
  register: __counts
"""

RETURN = r"""
counts:
  description: The counts, in the form of C(module_utils/roverwatch/backfill/sample_counts.py).
  returned: with O(start)
  type: str
samples:
  description: How many samples that are.
  returned: with O(start)
  type: int
series:
  description: How many series have any.
  returned: with O(start)
  type: int
closer:
  description: The counts of each stretch, in that form.
  returned: with O(stretches)
  type: list
  elements: str
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.backfill import sample_counts
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.common import unexpected
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.query import local_database
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.service import records


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "robot": {"type": "str", "required": True},
            "start": {"type": "int"},
            "end": {"type": "int"},
            "at_least": {"type": "int", "default": 0},
            "stretches": {"type": "list", "elements": "list"},
        },
        required_together=[("start", "end")],
        required_one_of=[("start", "stretches")],
        mutually_exclusive=[("start", "stretches")],
        supports_check_mode=True,
    )
    try:
        found = count(records.database_url(), module.params)
    except (local_database.DatabaseError, records.RecordError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, **found)


def count(url: str, given: dict[str, Any]) -> dict[str, Any]:
    robot = given["robot"]
    if given["stretches"] is not None:
        seconds = sample_counts.CLOSER_WINDOW_SECONDS
        stretches = [(int(start), int(end)) for start, end in given["stretches"]]
        return {"closer": [sample_counts.count(url, robot, *stretch, seconds).encode() for stretch in stretches]}
    counts = sample_counts.count_patiently(url, robot, given["start"], given["end"], given["at_least"])
    return {"counts": counts.encode(), "samples": counts.samples, "series": len(counts.series)}


if __name__ == "__main__":
    unexpected.told(main)
