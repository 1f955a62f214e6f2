#!/usr/bin/python
"""The robot's half of `backfill`: which hubs there are, and a slice of a copy, of which the action plugin has many."""

from __future__ import annotations

DOCUMENTATION = r"""
module: backfill
short_description: Copy to the hubs what they lack of a robot's history
description:
  - Compares what a robot's own VictoriaMetrics has with what hubs have, by the counts of
    M(roverwatch.fleet.sample_counts), and copies
    the parts in which a hub has fewer samples, through the hub's gateway and with the robot's own credential. Prints a
    line about it every few seconds.
  - Which time is compared and how fast is copied is in the variables C(backfill_*) of the host, which
    C(docs/variables.md) explains. They are checked before the robot is asked for anything.
  - What is interrupted goes on when it is run again, since what has arrived is counted. Samples that arrive twice count
    once.
  - A copy that fails does not fail the module, so that other hubs get theirs; M(roverwatch.fleet.backfill_report)
    judges.
options:
  step:
    description:
      - With V(look), checks the variables and says which time and which hubs there are, and what waits for each in
        vmagent's queue.
      - With V(doubt), says in which stretches the robot and a hub have some samples each, and not as many, so that
        their seconds have to be counted to know what is missing.
      - With V(copy), copies.
    type: str
    choices: [look, doubt, copy]
    required: true
  plan:
    description: What V(look) returned.
    type: dict
  own:
    description: What M(roverwatch.fleet.sample_counts) returned on the robot.
    type: dict
  hubs:
    description: What M(roverwatch.fleet.sample_counts) returned on the hubs, in a loop over C(hubs) of O(plan).
    type: dict
  own_closer:
    description: What M(roverwatch.fleet.sample_counts) returned on the robot for the stretches that are in doubt.
    type: dict
    default: {}
  hubs_closer:
    description: What M(roverwatch.fleet.sample_counts) returned on the hubs for them, in a loop.
    type: dict
    default: {}
attributes:
  check_mode:
    description: Says what is missing.
    support: full
author:
  - Roverwatch (@roverwatch)
"""

EXAMPLES = r"""
- name: Look what there is to compare
  roverwatch.fleet.backfill:
    step: look
  register: __backfill_plan

- name: Copy what the hubs lack
  roverwatch.fleet.backfill:
    step: copy
    plan: "{{ __backfill_plan }}"
    own: "{{ __backfill_own }}"
    hubs: "{{ __backfill_before }}"
"""

RETURN = r"""
start:
  description: Samples after this time are compared, in seconds since 1970.
  returned: with step look
  type: int
end:
  description: Samples up to and including this time are compared, in seconds since 1970.
  returned: with step look
  type: int
bytes_per_second:
  description: How fast is copied at most.
  returned: with step look
  type: int
hubs:
  description:
    - With V(look), C(name), C(url) and C(pending_bytes) of each hub. The latter is what waits in vmagent's queue for
      it, null where vmagent does not say.
    - With V(copy), C(name) of each hub that was compared, C(missing) and C(missing_minutes), the samples that it lacked
      and the minutes that those are of, C(copied) and C(copied_minutes), C(sent_bytes), C(seconds), and C(problem), why
      not all was copied, which may be null.
  returned: always
  type: list
  elements: dict
stretches:
  description: Start and end of each stretch in doubt.
  returned: with step doubt
  type: list
  elements: list
strangers:
  description: Hubs of the inventory that the robot does not write to.
  returned: with step look
  type: list
  elements: str
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.backfill import copying, gaps
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.common import unexpected
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.query import local_database
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.service import records


def look(module: AnsibleModule, _: copying.Progress) -> dict[str, Any]:
    """Which hubs the robot has, and what waits for each."""
    return {"hubs": copying.Robot.read(module.params["robot"]).describe_hubs()}


def copy(module: AnsibleModule, progress: copying.Progress) -> dict[str, Any]:
    """Copy chunks for some seconds."""
    given = module.params
    robot = copying.Robot.read(given["robot"])
    chunks = [gaps.Chunk(*chunk) for chunk in given["chunks"]]
    target = copying.Gateway(robot, robot.hub(given["url"]), copying.Pace(given["bytes_per_second"]))
    copying.copy(robot, target, chunks, given["seconds"], progress)
    return {}


STEPS = {"look": look, "copy": copy}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            # All of it is from the action plugin.
            "step": {"type": "str", "choices": list(STEPS), "required": True},
            "robot": {"type": "str", "required": True},
            "url": {"type": "str"},
            "chunks": {"type": "list", "elements": "list"},
            "bytes_per_second": {"type": "int"},
            "seconds": {"type": "float"},
        },
        supports_check_mode=True,
    )
    progress = copying.Progress()
    try:
        found = STEPS[module.params["step"]](module, progress)
    except (copying.CopyError, local_database.DatabaseError, records.RecordError) as error:
        module.fail_json(msg=str(error), chunks=progress.chunks, sent_bytes=progress.sent_bytes)
    module.exit_json(changed=progress.chunks > 0, chunks=progress.chunks, sent_bytes=progress.sent_bytes, **found)


if __name__ == "__main__":
    unexpected.told(main)
