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
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch import (
    backup,
    disk,
    health,
    systemd,
    unexpected,
)
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.backup_plan import Plan
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.sizes import from_bytes


def begin(_: AnsibleModule, plan: Plan) -> dict[str, Any]:
    """See that it can be done, and whether it is being done."""
    url = backup.service_url()
    place = backup.RESTORE.place
    follows = backup.RESTORE.is_active and place.exists() and place.read_text() == plan.place()
    if not follows:
        backup.check_alone()
        backup.check_budget(plan)
    backup.check_directories()
    had = backup.history(url)
    if had and not plan.replace:
        raise backup.BackupError(
            f"this hub has a history, {had}. To put the backup in its place: -e restore_replace=yes. The old one is "
            f"kept in {backup.KEPT}"
        )
    about = plan.place()
    if plan.scheme == "fs":
        size = backup.check_source(plan)
        backup.check_space(size - backup.size_of(backup.STAGING), backup.DATA, "the backup")
        about = f"{from_bytes(size)} from {about}"
    else:
        backup.check_storage(plan)
    instead = f"in the place of a history, {had}" if had else "into a hub without history"
    return {"about": f"{about} {instead}", "follows": follows}


def start(module: AnsibleModule, plan: Plan) -> dict[str, Any]:
    """Start it."""
    given = module.params
    backup.make_staging(plan)
    backup.start(backup.RESTORE, plan, given["program"], backup.service_url(), given["credentials"])
    return {}


def poll(_: AnsibleModule, plan: Plan) -> dict[str, Any]:
    """See how far it is, and that there is room for the rest: how much it is, vmrestore alone says."""
    run = backup.RESTORE
    state = backup.poll(run)
    if not state["active"]:
        try:
            state["figures"] = backup.judge(run, plan, state["result"])
        except backup.BackupError:
            if not (backup.STAGING / "data").exists():
                disk.remove(backup.STAGING)
            raise
    elif state["progress"]:
        try:
            backup.check_space(state["progress"]["total"] - state["progress"]["done"], backup.DATA, "the backup")
        except backup.BackupError:
            subprocess.run(["systemctl", "stop", run.unit], check=False)
            disk.remove(backup.STAGING)
            raise
    return state


def swap(_: AnsibleModule, __: Plan) -> dict[str, Any]:
    """Have the hub run on it."""
    return {**backup.swap(backup.service_url()), "way_back": backup.way_back()}


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
    except (backup.BackupError, health.HealthError, systemd.SystemdError) as error:
        module.fail_json(msg=f"{plan.hub}: {error}")


if __name__ == "__main__":
    unexpected.told(main)
