#!/usr/bin/python
"""The hub's half of `hub_restore`: one step of a restore. The action plugin makes a restore of them."""

from __future__ import annotations

DOCUMENTATION = r"""
module: hub_restore
short_description: Put a backup in the place of a hub's history
description:
  - Has C(vmrestore) of the artifact store bring a backup into a directory beside the data, while the hub goes on. Then
    VictoriaMetrics is stopped, the directories change places, and it is started. The old data is kept.
  - Which backup, and all else, is in the variables C(backup_*) and C(restore_*) of the host, which C(docs/runbook.md)
    explains. They are checked, and so are the backup, the disk and what the hub has, before anything is done.
  - It runs as the transient unit C(roverwatch-restore), in the slice and under a cap. One that was cut off goes on from
    what is there already when the module runs again.
  - Where VictoriaMetrics does not start on what was restored, it gets its old data back.
options:
  store:
    description: The artifact store on the controller; without it the variable C(artifacts_dir), or C(artifacts/).
    type: path
  version:
    description: The version of vmrestore there, as it is pinned.
    type: str
    required: true
attributes:
  check_mode:
    description: Says what would be restored, and whether it can be.
    support: full
author:
  - Roverwatch (@roverwatch)
"""

EXAMPLES = r"""
- name: Restore the history
  roverwatch.fleet.hub_restore:
    version: 1.150.0
"""

RETURN = r"""
about:
  description: What is restored, in one line.
  returned: always
  type: str
figures:
  description: Bytes of the backup and of what this run brought of it, and seconds.
  returned: not in check mode
  type: dict
restored:
  description: Series and samples that the hub has now, the time of the newest, and where the old data is.
  returned: not in check mode
  type: dict
"""

import subprocess
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.backup import steps
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.backup.request import Plan
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.common import unexpected
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.common.sizes import from_bytes
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.service import records
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.system import disk, systemd


def begin(_: AnsibleModule, plan: Plan) -> dict[str, Any]:
    """See that it can be done, and whether it is being done."""
    url = records.database_url()
    place = steps.RESTORE.place
    follows = steps.RESTORE.is_active and place.exists() and place.read_text() == plan.place()
    if not follows:
        steps.check_alone()
        steps.check_budget(plan)
    steps.check_directories()
    had = steps.history(url)
    if had and not plan.replace:
        raise steps.BackupError(
            f"this hub has a history, {had}. To put the backup in its place: -e restore_replace=yes. The old one is "
            f"kept in {steps.KEPT}"
        )
    about = plan.place()
    if plan.scheme == "fs":
        size = steps.check_source(plan)
        steps.check_space(size - steps.size_of(steps.STAGING), steps.DATA, "the backup")
        about = f"{from_bytes(size)} from {about}"
    else:
        steps.check_storage(plan)
    instead = f"in the place of a history, {had}" if had else "into a hub without history"
    return {"about": f"{about} {instead}", "follows": follows}


def start(module: AnsibleModule, plan: Plan) -> dict[str, Any]:
    """Start it."""
    given = module.params
    steps.make_staging(plan)
    steps.start(steps.RESTORE, plan, given["program"], records.database_url(), given["credentials"])
    return {}


def poll(_: AnsibleModule, plan: Plan) -> dict[str, Any]:
    """See how far it is, and that there is room for the rest: how much it is, vmrestore alone says."""
    run = steps.RESTORE
    state = steps.poll(run)
    if not state["active"]:
        try:
            state["figures"] = steps.judge(run, plan, state["result"])
        except steps.BackupError:
            if not (steps.STAGING / "data").exists():
                disk.remove(steps.STAGING)
            raise
    elif state["progress"]:
        try:
            steps.check_space(state["progress"]["total"] - state["progress"]["done"], steps.DATA, "the backup")
        except steps.BackupError:
            subprocess.run(["systemctl", "stop", run.unit], check=False)
            disk.remove(steps.STAGING)
            raise
    return state


def swap(_: AnsibleModule, __: Plan) -> dict[str, Any]:
    """Have the hub run on it."""
    return {**steps.swap(records.database_url()), "way_back": steps.way_back()}


STEPS = {"begin": begin, "start": start, "poll": poll, "swap": swap}


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
