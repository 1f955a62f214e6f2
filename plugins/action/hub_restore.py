"""The controller's half of `hub_restore`: vmrestore fills a staging directory, then the hub runs on that."""

from __future__ import annotations

from typing import Any

from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.common.sizes import from_bytes
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.backup.hub_run import HubRun


class ActionModule(HubRun):
    module = "hub_restore"
    program = "vmrestore"
    roles = ("backup", "restore")

    def work(self) -> dict[str, Any]:
        found = self.step("begin")
        program = self.bring()
        if self._task.check_mode:
            self.say(f"would restore {found['about']}")
            return {"changed": True, "about": found["about"]}

        self.say(f"restores {found['about']}")
        if not found["follows"]:
            self.step("start", program=program, credentials=self.credentials)
        figures = self.follow()
        self.say(f"{from_bytes(figures['bytes'])} are there, {from_bytes(figures['sent_bytes'])} of it by this run")
        now = self.step("swap")
        self.say(
            f"runs on what was restored: {now['series']} series, {now['samples']} samples, the newest of "
            f"{now['newest']}"
        )
        if now["kept"]:
            self.say(f"the old history is kept. To remove it: rm -rf {now['kept']}")
            self.say(f"to go back to it: {now['way_back']}")
        self.say(
            f"what robots sent after {now['newest']} is in their own history: playbooks/backfill.yml brings it back"
        )
        return {"changed": True, "about": found["about"], "figures": figures, "restored": now}
