#!/usr/bin/python
"""A program of the artifact store on a machine; for action plugins, which bring it (plugin_utils/service/delivery)."""

from __future__ import annotations

DOCUMENTATION = r"""
module: artifact
short_description: Put a verified program of the store onto a machine
description:
  - Says what the machine lacks, and puts in place what was brought. The machine itself compares the sha256 of what
    arrived with the manifest before that. The binary lands beside those of other versions, in
    C(/opt/roverwatch/<name>/<version>/<name>); nothing that runs is touched.
  - No task calls it. M(roverwatch.fleet.hub_backup) and M(roverwatch.fleet.load_test) have it bring their programs.
options:
  name:
    description: The artifact's name in the store.
    type: str
    required: true
  candidates:
    description: The manifest's entries of the artifact, by its name and by architecture.
    type: dict
    required: true
  staged:
    description: The path of the file that was brought, by the artifact's name.
    type: dict
    default: {}
extends_documentation_fragment: [roverwatch.fleet.attributes]
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
author:
  - Roverwatch (@roverwatch)
"""

EXAMPLES = r"""
# As the action plugins call it, which know what the store has.
- name: Have the load generator
  roverwatch.fleet.artifact:
    name: hey
    candidates:
      hey:
        x86_64: "{{ entry }}"
"""

RETURN = r"""
version:
  description: The version that the artifact really is.
  type: str
  returned: success
path:
  description: Where the binary is on the machine.
  type: str
  returned: success
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.artifact import installed
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.common import unexpected
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.service import deployment


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "candidates": {"type": "dict", "required": True},
            "staged": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    params = module.params

    def work() -> dict[str, Any]:
        properties, brought = installed.ensure(params["candidates"], params["staged"], None, module.check_mode)
        return {"changed": bool(brought), **properties[params["name"]]}

    deployment.run(module, work)


if __name__ == "__main__":
    unexpected.told(main)
