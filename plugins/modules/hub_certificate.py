#!/usr/bin/python
"""Documentation of the action plugin `hub_certificate`, which does the work on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: hub_certificate
short_description: A hub's certificate, of an authority for the whole fleet
description:
  - Has the authority (C(ca.key), C(ca.pem), ten years) and the host's key and certificate (C(<host>.key),
    C(<host>.pem), 397 days) in a directory of the controller, and makes what is missing.
  - A certificate is made anew in its last thirty days, when a name changes, and when its key or the authority does.
  - C(ca.key) may be kept elsewhere. It is needed, and missed loudly, when something has to be signed.
options:
  directory:
    description: The directory, which only its owner can read.
    type: path
    required: true
  names:
    description: The DNS names and IP addresses that clients use.
    type: list
    elements: str
    required: true
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
- name: Have the hub's certificate on the controller
  roverwatch.fleet.hub_certificate:
    directory: "{{ inventory_dir }}/pki"
    names: [hub-1.example, 10.20.0.5]
"""

RETURN = "#"
