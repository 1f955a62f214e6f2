#!/usr/bin/python
"""The robot's half of `machine_files`: looks, and in a second call makes it so."""

from __future__ import annotations

DOCUMENTATION = r"""
module: machine_files
short_description: Directories, files and units that a machine has beside its services
description:
  - One round trip where all is as it should be. A machine is only sent the files if one of them is not.
  - Each file lands as a whole, and is on the disk when the task ends. systemd reads its units again if one of them
    changed, or if a run before was cut off before it did.
  - The options of the files that are not here are what the action plugin hands over.
options:
  directories:
    description: Directories with mode 0755, and those above them that are missing.
    type: list
    elements: path
    default: []
  files:
    description: Files; what is in one is what the role has in C(files/) under the same name.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Where the file goes.
        type: path
        required: true
      mode:
        description: Its permissions, in octal.
        type: str
        default: "0644"
  enabled:
    description: Units that are enabled, and started if they are not active.
    type: list
    elements: str
    default: []
extends_documentation_fragment: [roverwatch.fleet.attributes]
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
author:
  - Roverwatch (@roverwatch)
"""

EXAMPLES = r"""
- name: Have the tool, and the unit that runs it when the machine starts
  roverwatch.fleet.machine_files:
    files:
      - {path: /usr/local/sbin/tool, mode: "0755"}
      - {path: /etc/systemd/system/tool.service}
    enabled: [tool.service]
"""

RETURN = "#"

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.common import unexpected
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.system import machine_files, systemd


def main() -> None:
    module = AnsibleModule(
        argument_spec={**machine_files.SPEC, "apply": {"type": "bool", "default": False}}, supports_check_mode=True
    )

    def systemctl(*arguments: str) -> None:
        rc, _, err = module.run_command(["systemctl", *arguments])
        if rc != 0:
            module.fail_json(msg="systemctl {}: {}".format(" ".join(arguments), err.strip()))

    try:
        if module.params["apply"]:
            machine_files.apply(module.params, systemctl)
            module.exit_json(changed=True)
        module.exit_json(differences=machine_files.look(module.params))
    except systemd.SystemdError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    unexpected.told(main)
