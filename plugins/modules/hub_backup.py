#!/usr/bin/python
"""The hub's half of `hub_backup`: one step of a backup. The action plugin makes a backup of them."""

from __future__ import annotations

DOCUMENTATION = r"""
module: hub_backup
short_description: Back up the VictoriaMetrics of a hub
description:
  - Has C(vmbackup) of the artifact store make a backup from an instant snapshot, while the hub goes on. It runs as the
    transient unit C(roverwatch-backup), in the slice and under a cap, and goes on when the controller goes away.
  - Where to, and all else, is in the variables C(backup_*) of the host, which C(docs/variables.md) explains. They are
    checked, and the storage is asked whether it is there, before anything is done.
  - A second backup at the same time is refused.
  - After a success node_exporter tells when it was, as C(roverwatch_backup_last_success_timestamp_seconds).
options:
  store:
    description: The artifact store on the controller; without it the variable C(artifacts_dir), or C(artifacts/).
    type: path
  version:
    description: The version of vmbackup there, as it is pinned.
    type: str
    required: true
attributes:
  check_mode:
    description: Says what would be backed up, and whether it can be.
    support: full
author:
  - Roverwatch (@roverwatch)
"""

EXAMPLES = r"""
- name: Back up the history
  roverwatch.fleet.hub_backup:
    version: 1.150.0
"""

RETURN = r"""
about:
  description: What is backed up, and where to, in one line.
  returned: always
  type: str
place:
  description: Where the backup is, as vmrestore wants it.
  returned: not in check mode
  type: str
  sample: s3://backups/roverwatch/hub-1/latest
figures:
  description: Bytes of the backup, of what was sent and of what the storage copied itself, and seconds.
  returned: not in check mode
  type: dict
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.backup import steps
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.backup.request import Plan
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.common import unexpected
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.common.sizes import from_bytes
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.query import probe
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.service import records
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.system import systemd


def begin(module: AnsibleModule, plan: Plan) -> dict[str, Any]:
    """See that it can be done."""
    url = records.database_url()
    steps.check_alone()
    steps.check_budget(plan)
    status, reason = probe.http_get(url + "/health", steps.ANSWER_TIMEOUT_SECONDS)
    if not probe.is_ready(status):
        raise steps.BackupError(
            f"VictoriaMetrics does not answer ({probe.describe(status, reason)}), and makes no snapshot: see "
            f"journalctl -u {steps.SERVICE}"
        )
    if plan.scheme == "fs":
        steps.check_directory(plan, make=not module.check_mode)
    else:
        steps.check_storage(plan)
    if not module.check_mode:
        steps.clear_snapshot(steps.BACKUP, url)
    return {
        "about": f"{from_bytes(steps.size_of(steps.DATA))} to {plan.place()}",
        "same_disk": steps.is_on_disk_of_data(plan),
    }


def start(module: AnsibleModule, plan: Plan) -> dict[str, Any]:
    """Start it."""
    given = module.params
    steps.start(steps.BACKUP, plan, given["program"], records.database_url(), given["credentials"])
    return {}


def poll(_: AnsibleModule, plan: Plan) -> dict[str, Any]:
    """See how far it is."""
    state = steps.poll(steps.BACKUP)
    if not state["active"]:
        state["figures"] = steps.judge(steps.BACKUP, plan, state["result"])
    return state


STEPS = {"begin": begin, "start": start, "poll": poll}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            # All of it is from the action plugin.
            "step": {"type": "str", "choices": list(STEPS), "required": True},
            "plan": {"type": "dict", "required": True},
            "program": {"type": "path"},
            "credentials": {"type": "str", "no_log": True, "default": ""},
        },
        supports_check_mode=True,
    )
    plan = Plan(**module.params["plan"])
    try:
        module.exit_json(changed=False, **STEPS[module.params["step"]](module, plan))
    except (steps.BackupError, records.RecordError, systemd.SystemdError) as error:
        module.fail_json(msg=f"{plan.hub}: {error}")


if __name__ == "__main__":
    unexpected.told(main)
