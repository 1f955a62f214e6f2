#!/usr/bin/python
"""The robot's half of `load_test`: one slice of the load. The action plugin makes a test of many."""

from __future__ import annotations

DOCUMENTATION = r"""
module: load_test
short_description: Load one service of a robot and watch its memory
description:
  - Sends requests to a service from the robot itself, with C(hey) of the artifact store, and prints a line about them
    every few seconds. Gives back latencies, failures, and what the kernel says about the service's cgroup meanwhile.
  - What to send is in the variables C(load_test_*) of the host, which C(docs/variables.md) explains. They are checked,
    and the service must answer, before anything is brought to the robot.
  - The load generator runs in a scope with a cap of its own, outside of C(roverwatch.slice), and is removed from the
    robot at the end, also of a test that failed. Where the controller went away, a timer of the robot removes it.
  - Failed requests and OOM kills do not fail the module; M(roverwatch.fleet.load_report) judges them.
options:
  store:
    description: The artifact store on the controller; without it the variable C(artifacts_dir), or C(artifacts/).
    type: path
  version:
    description: The version of hey there, as it is pinned.
    type: str
    required: true
attributes:
  check_mode:
    description: Says what would be sent. The service is asked once.
    support: full
author:
  - Roverwatch (@roverwatch)
"""

EXAMPLES = r"""
- name: Load the sensor service
  roverwatch.fleet.load_test:
    version: 0.1.4
  register: __load_test
"""

RETURN = r"""
planned:
  description: What was to be sent, in one line.
  returned: always
  type: str
  sample: GET http://127.0.0.1:8000/metrics over 50 connections, as fast as it can, for 30 s
unit:
  description: The service whose memory was watched.
  returned: always
  type: str
figures:
  description: Requests by what became of them, latencies, memory and processor time of the service.
  returned: not in check mode
  type: dict
oom_kills:
  description: OOM kills of the service during the test.
  returned: not in check mode
  type: int
slices:
  description: For each slice of the load the time of its end, speed, latencies, failures and memory.
  returned: not in check mode
  type: list
  elements: dict
"""

import shutil
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.common import unexpected
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.load import run as load
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.service import records
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.system import cgroup, systemd, units


def begin(module: AnsibleModule) -> dict[str, Any]:
    """Find what to load, and see that it answers."""
    given = module.params
    service = load.find_service(given["unit"])
    watch = load.Watch(service)
    if watch.first is None:
        raise load.LoadError(f"{service.unit} has no cgroup in {units.SLICE}: systemctl status {service.unit}")
    url = load.find_url(service, given["path"], given["url"])
    if not module.check_mode:
        load.claim()
    return {"url": url, "oom_kills_total": watch.finish().oom_kills_total}


def run(module: AnsibleModule) -> dict[str, Any]:
    """Load it for one slice."""
    given = module.params
    load.arm(load.FOLLOWING_SECONDS)
    arguments = load.command(given["program"], given["url"], given["seconds"], given["connections"], given["rate"])
    return {"figures": load.run(arguments, load.Watch(load.find_service(given["unit"]))).as_dict()}


def end(_: AnsibleModule) -> dict[str, Any]:
    """Leave nothing behind."""
    load.disarm()
    if load.FOLDER.exists():
        shutil.rmtree(load.FOLDER)
    return {}


STEPS = {"begin": begin, "run": run, "end": end}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            # All of it is from the action plugin.
            "step": {"type": "str", "choices": list(STEPS), "required": True},
            "unit": {"type": "str"},
            "path": {"type": "str"},
            "url": {"type": "str"},
            "program": {"type": "path"},
            "seconds": {"type": "float"},
            "connections": {"type": "int"},
            "rate": {"type": "int"},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(changed=False, **STEPS[module.params["step"]](module))
    except (load.LoadError, records.RecordError, cgroup.CgroupError, systemd.SystemdError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    unexpected.told(main)
