#!/usr/bin/python
"""The robot's half of `preflight`: what a machine is, before anything on it is touched."""

from __future__ import annotations

DOCUMENTATION = r"""
module: preflight
short_description: Find everything that would stop a deployment, before anything is touched
description:
  - Looks at the machine (operating system, architecture, init, memory controller, free disk, clock) and on the
    controller at what is to be put on it (the types of the roles' variables, sizes, the sum of the caps, the
    artifacts and their checksums), and reports all that is wrong at once. Each line names the host, the variable or
    thing, and the remedy.
  - One round trip. Changes nothing.
options:
  roles:
    description:
      - The roles of the play. Their variables are checked against their C(meta/argument_specs.yml).
      - A role that sets C(<role>_memory_max) has a cap in the budget, C(<role>_instances) times. A role that sets
        C(<role>_version) needs the artifact of that version, named C(<role>_artifact) or like the role.
    type: list
    elements: str
    required: true
  memory_budget:
    description: The budget that the kernel enforces on the whole slice, such as C(300M).
    type: str
    required: true
  store:
    description: The artifact store on the controller.
    type: path
    required: true
  disk_reserve:
    description: What stays free on the disk after the artifacts have landed, such as C(256M).
    type: str
    required: true
  clock_skew_max:
    description: >-
      How many seconds the machine's clock may differ from the controller's. Samples with a wrong time are lost among
      those of other days.
    type: int
    required: true
attributes:
  check_mode:
    support: full
"""

EXAMPLES = r"""
- name: Look before touching
  preflight:
    roles: "{{ ansible_play_role_names }}"
    memory_budget: 300M
    store: artifacts
    disk_reserve: 256M
    clock_skew_max: 60
"""

RETURN = r"""
machine:
  description: What the machine is.
  type: dict
  returned: always
  contains:
    architecture: {description: As uname says., type: str}
    cgroup_version: {description: Where the memory controller is, 1 or 2; 0 where there is none., type: int}
problems:
  description: What is wrong, a line each.
  type: list
  elements: str
  returned: always
"""

import os
import platform
import shutil
import sys
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch import cgroup

TARGET = Path("/opt/roverwatch")
DEVICE_TREE_MODEL = Path("/proc/device-tree/model")


def memory_controller() -> int:
    try:
        return cgroup.find_controller().version
    except cgroup.CgroupError:
        return 0


def disk_free() -> int:
    """Bytes free on the file system that the artifacts will land on."""
    there = next(path for path in (TARGET, *TARGET.parents) if path.exists())
    return shutil.disk_usage(there).free


def main() -> None:
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    module.exit_json(
        machine={
            "architecture": platform.machine(),
            "python": ".".join(map(str, sys.version_info[:3])),
            "system": release.get("PRETTY_NAME", platform.system()).strip('"'),
            "init": Path("/proc/1/comm").read_text().strip(),
            "cgroup_version": memory_controller(),
            "model": DEVICE_TREE_MODEL.read_text().rstrip("\0") if DEVICE_TREE_MODEL.exists() else "",
            "disk_free": disk_free(),
            "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "time": time.time(),
        }
    )


if __name__ == "__main__":
    main()
