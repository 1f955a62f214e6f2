"""The controller's half of `machine_files`: reads the files, and sends them to machines that do not have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.base import same_machine
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.system.machine_files import MODULE, File, MachineFiles

SPEC = {
    "directories": {"type": "list", "elements": "path", "default": []},
    "files": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "path": {"type": "path", "required": True},
            "mode": {"type": "str", "default": "0644"},
        },
    },
    "enabled": {"type": "list", "elements": "str", "default": []},
}


class ActionModule(ActionBase):
    _requires_connection = True
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        same_machine.refuse((task_vars or {})["inventory_hostname"])
        _, args = self.validate_argument_spec(SPEC)
        files = [File(file["path"], self._content(Path(file["path"]).name), file["mode"]) for file in args["files"]]
        wanted = MachineFiles(args["directories"], files, args["enabled"])

        found: dict[str, Any] = self._execute_module(MODULE, module_args=wanted.to_look_for(), task_vars=task_vars)
        if found.get("failed") or found.get("unreachable"):
            return found
        differences = found.pop("differences")
        diff = wanted.diffs(differences)
        if diff and not self._task.check_mode:
            found = self._execute_module(MODULE, module_args=wanted.to_apply(), task_vars=task_vars)
        return {**found, "changed": bool(diff), "diff": diff}

    def _content(self, name: str) -> str:
        return Path(self._find_needle("files", name)).read_text()
