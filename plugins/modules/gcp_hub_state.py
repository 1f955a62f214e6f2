#!/usr/bin/python
"""Documentation of the action plugin `gcp_hub_state`, which runs on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gcp_hub_state
short_description: What there is of a hub's VM in Google Cloud, and what is to be done
description:
  - Reads the VM, its data disk and its address, and says what is to be made or may go. It writes nothing; the modules
    of C(google.cloud) do.
  - Fails where something with a name that is needed is not ours, before anything was changed.
options:
  command:
    description:
      - V(plan) says what is to be made, and warns of what is there and is not as asked for.
      - V(removal) says what may go.
      - V(ready) waits until the VM says that its data disk is mounted.
      - V(host_key) gives the SSH host key that the VM has published.
    type: str
    choices: [plan, removal, ready, host_key]
    required: true
  project:
    description: The project.
    type: str
    required: true
  zone:
    description: The zone of the VM and its disk; the address is in its region.
    type: str
    required: true
  name:
    description: The name of the VM and of its address. Its data disk is called the same with C(-data).
    type: str
    required: true
  auth_kind:
    description: How to log in, as for the modules of C(google.cloud).
    type: str
    choices: [application, serviceaccount, accesstoken, machineaccount]
    required: true
  service_account_file:
    description: The key file of a service account.
    type: path
  access_token:
    description: A token.
    type: str
  machine_type:
    description: For V(plan), the VM's type.
    type: str
  disk_gb:
    description: For V(plan), the size of the data disk.
    type: int
  site:
    description: For V(plan), the label C(site).
    type: str
  fleet:
    description: For V(plan), the label C(fleet).
    type: str
  ssh_user:
    description: For V(plan), the user that the operator logs in as.
    type: str
  ssh_public_key:
    description: For V(plan), the file of that user's public key.
    type: path
  startup_script:
    description: For V(plan), what the VM runs at each start.
    type: str
  with_disk:
    description: For V(removal), whether the data disk goes, too.
    type: bool
  seconds:
    description: For V(ready), how long to wait.
    type: int
attributes:
  check_mode:
    description: Says in check mode what would be made or removed, as a change.
    support: full
author:
  - Roverwatch (@roverwatch)
"""

EXAMPLES = r"""
- name: Look
  roverwatch.fleet.gcp_hub_state:
    command: host_key
    project: my-project
    zone: europe-west3-c
    name: hub-1
    auth_kind: application
  register: __key
"""

RETURN = r"""
make:
  description: What is to be made, of address, disk and instance, in this order.
  type: list
  returned: plan
remove:
  description: What may go, in this order.
  type: list
  returned: removal
found:
  description: What the API has, by kind; null for what it has not.
  type: dict
  returned: plan and removal
description:
  description: The description that the address and the disk are known by.
  type: str
  returned: plan
labels:
  description: The VM's labels.
  type: dict
  returned: plan
metadata:
  description: The VM's metadata.
  type: dict
  returned: plan
will_tell:
  description: Whether the VM says when its data disk is mounted, so that V(ready) may wait for it.
  type: bool
  returned: plan
key:
  description: The SSH host key, as in known_hosts without the name; empty if the VM has published none.
  type: str
  returned: host_key
"""
