#!/usr/bin/python
"""Report the memory of cgroups as the kernel accounts it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cgroup_memory
short_description: Memory limit, use, peak and OOM kills of cgroups
description:
  - Reads what the kernel accounts for the cgroups of systemd units, of a process, or of a directory.
  - Works on cgroup v1, v2 and hybrid machines. It only reads, also outside of check mode.
options:
  unit:
    description:
      - systemd units or slices; a name without a suffix is a service.
      - Every one of them must be running, since a stopped unit has no cgroup.
    type: list
    elements: str
  pid:
    description: A process; the figures are those of the cgroup it runs in.
    type: int
  path:
    description: The directory of a cgroup, below the mount point of the memory controller.
    type: path
attributes:
  check_mode:
    description: Runs the same in check mode, as it changes nothing.
    support: full
author:
  - Roverwatch (@roverwatch)
"""

EXAMPLES = r"""
- name: Read the caps of two services and of their slice
  roverwatch.fleet.cgroup_memory:
    unit: [roverwatch-vmagent, roverwatch-node-exporter, roverwatch.slice]
  register: __memory

- name: The kernel enforces the budget
  ansible.builtin.assert:
    that: __memory.cgroups['roverwatch.slice'].limit_bytes == 300 * 1024 * 1024
"""

RETURN = r"""
cgroups:
  description: Figures per unit, or per the given O(pid) or O(path) as text.
  returned: success
  type: dict
  contains:
    path:
      description: Directory of the cgroup.
      type: str
      returned: always
    version:
      description: Version of the cgroup hierarchy, 1 or 2.
      type: int
      returned: always
    usage_bytes:
      description: Memory charged to the cgroup, file cache included.
      type: int
      returned: always
    working_set_bytes:
      description: Usage without the file cache that can be dropped at once; cAdvisor's definition.
      type: int
      returned: always
    peak_bytes:
      description: Highest usage so far; null where the kernel keeps none (v2 before Linux 5.19).
      type: int
      returned: always
    limit_bytes:
      description: The cap that the kernel enforces; null without one.
      type: int
      returned: always
    oom_kills:
      description: Processes killed in this cgroup since it was made; null on v1 before Linux 4.13.
      type: int
      returned: always
    inode:
      description: Inode of the directory; a restarted unit has another one.
      type: int
      returned: always
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.common import unexpected
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.system import cgroup, systemd


def directories(module: AnsibleModule) -> dict[str, Path]:
    """The directory to read for each thing that was asked for."""
    if module.params["path"]:
        return {module.params["path"]: Path(module.params["path"])}
    controller = cgroup.find_controller()
    if module.params["pid"] is not None:
        return {str(module.params["pid"]): cgroup.cgroup_of_pid(module.params["pid"], controller)}
    shown = systemd.show_many(module.params["unit"], ["ControlGroup", "ActiveState"])
    stopped = [f"{unit} is {show['ActiveState']}" for unit, show in shown.items() if not show.get("ControlGroup")]
    if stopped:
        raise cgroup.CgroupError(f"no cgroup to read: {', '.join(stopped)}")
    return {unit: controller.directory(show["ControlGroup"]) for unit, show in shown.items()}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "unit": {"type": "list", "elements": "str"},
            "pid": {"type": "int"},
            "path": {"type": "path"},
        },
        mutually_exclusive=[["unit", "pid", "path"]],
        required_one_of=[["unit", "pid", "path"]],
        supports_check_mode=True,
    )
    try:
        figures = {name: cgroup.memory(path).as_dict() for name, path in directories(module).items()}
    except (cgroup.CgroupError, systemd.SystemdError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, cgroups=figures)


if __name__ == "__main__":
    unexpected.told(main)
