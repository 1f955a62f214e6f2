"""The controller's half of `hub_backup`: brings vmbackup, starts it, follows it."""

from __future__ import annotations

from typing import Any

from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.common.sizes import from_bytes
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.backup.hub_run import HubRun


class ActionModule(HubRun):
    module = "hub_backup"
    program = "vmbackup"
    roles = ("backup",)

    def work(self) -> dict[str, Any]:
        found = self.step("begin")
        program = self.bring()
        if self._task.check_mode:
            self.say(f"would back up {found['about']}")
            return {"changed": True, "about": found["about"]}

        self.say(f"backs up {found['about']}")
        self.step("start", program=program, credentials=self.credentials)
        figures = self.follow()
        copied = f", {from_bytes(figures['copied_bytes'])} copied by the storage" if figures["copied_bytes"] else ""
        self.say(
            f"backed up {from_bytes(figures['bytes'])} in {figures['seconds']:.1f} s: "
            f"{from_bytes(figures['sent_bytes'])} sent{copied}; {self.plan.place()}"
        )
        if found["same_disk"]:
            self.say("the backup is on the disk of the data, and is lost with it: copy it elsewhere")
        return {"changed": True, "about": found["about"], "place": self.plan.place(), "figures": figures}
