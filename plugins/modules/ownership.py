#!/usr/bin/python
"""Whether a machine is one that Roverwatch was put onto, before anything is taken off it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ownership
short_description: Say what of a machine Roverwatch made
description:
  - A machine is Roverwatch's if it has the account that a deployment made, or the record that one left. What other
    machines have under the same names is somebody else's.
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
- name: Look whether Roverwatch was put onto this machine
  roverwatch.fleet.ownership:
  register: found
"""

RETURN = r"""
machine:
  description: Whether Roverwatch was put onto this machine.
  type: bool
  returned: always
deployed_as:
  description: The name that the last run deployed the machine under; empty where none is known.
  type: str
  returned: always
account:
  description: Whether the account C(roverwatch) is the one that it made.
  type: bool
  returned: always
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.base import ownership
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.common import unexpected


def main() -> None:
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    found = ownership.account(ownership.USER)
    module.exit_json(
        machine=ownership.machine_is_ours(ownership.USER),
        deployed_as=(ownership.record() or {}).get("name", ""),
        account=found is not None and ownership.is_ours(found, ownership.USER),
    )


if __name__ == "__main__":
    unexpected.told(main)
