#!/usr/bin/python
"""Documentation of the action plugin `gcp_firewall_plan`, which does the work on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gcp_firewall_plan
short_description: What is to change at GCP for the list of rules to be in effect
description:
  - Makes VPC firewall rules of the list of rules, asks GCP for those that are there, and says which calls of
    M(google.cloud.gcp_compute_firewall) lead from the ones to the others. A building block of the role C(gcp_firewall).
  - Changes nothing. What is wrong with the list or the settings is said before GCP is asked for anything.
  - Works on the controller, with the modules of google.cloud.
options:
  step:
    description:
      - V(plan) says what is to be done, in an order that never shuts out a source that is to be let in. In check mode
        it is changed if there is anything, says so in a line each, and has a diff.
      - V(verify) fails if anything is still to be done.
      - V(explain) fails with what an error of the modules means, and the remedy.
    type: str
    choices: [plan, verify, explain]
    required: true
  state:
    description: V(absent) takes all rules away that are ours; the list and the targets are not looked at.
    type: str
    choices: [present, absent]
    default: present
  rules:
    description: The list of rules, as in C(group_vars/all/firewall.yml).
    type: list
    elements: dict
    default: []
  settings:
    description: >-
      The variables of the role C(gcp_firewall): C(project), C(network), C(prefix), C(targets), C(priority),
      C(deny_priority), C(logging), C(logging_metadata).
    type: dict
    required: true
  auth:
    description: Who asks, as M(google.cloud.gcp_compute_firewall_info) takes it.
    type: dict
    required: true
  error:
    description: For V(explain), the result that failed.
    type: dict
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
- name: Plan what is to change at GCP
  roverwatch.fleet.gcp_firewall_plan:
    step: plan
    rules: "{{ firewall_rules }}"
    settings: "{{ settings }}"
    auth: {auth_kind: application}
  register: planned
"""

RETURN = r"""
steps:
  description: In this order, C(what) is to be done, for the operator to read, and the C(arguments) of the module.
  type: list
  elements: dict
  returned: for plan
again:
  description: Whether an error is one that may be gone in a moment.
  type: bool
  returned: on failure
busy:
  description: What an error of the modules has in it that may be gone in a moment, as a regular expression.
  type: str
  returned: for plan
"""
