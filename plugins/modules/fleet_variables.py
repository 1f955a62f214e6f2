#!/usr/bin/python
"""Documentation of the action plugin `fleet_variables`, which does the work on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_variables
short_description: Refuse variables that no role knows
description:
  - Looks at the names of all variables that the robots and the hubs of the play have, and the controller. One that
    starts with the name of a role of this collection and is in no role's C(meta/argument_specs.yml) is most often
    misspelt, and would do nothing; it is refused with the name that is nearest.
  - Checks the values of the variables of some roles by their specs as well, those that can be computed.
  - Runs on the controller and needs no connection to any host. Run it once per play, before anything else.
options:
  roles:
    description: The roles whose variables the playbook reads.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: Does the same in check mode.
    support: full
author:
  - Roverwatch (@roverwatch)
"""

EXAMPLES = r"""
- name: Check that every variable of the fleet is one
  roverwatch.fleet.fleet_variables:
    roles: [health]
  run_once: true
"""

RETURN = r""" # """
