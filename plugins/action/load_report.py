"""The controller's part of a load test: prints what load_test found on all hosts, keeps it, gives the verdict."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ansible import constants as C
from ansible.plugins.action import ActionBase
from ansible_collections.roverwatch.fleet.plugins.action.health_report import write_atomically
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.controller.terminal import tell
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.load import report


class ActionModule(ActionBase):
    _requires_connection = False
    _supports_check_mode = True
    _VALID_ARGS = frozenset({"results", "path"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        args = self._task.args
        variables = task_vars or {}
        hosts = variables["ansible_play_hosts_all"]
        verdict = report.Report.of({host: variables["hostvars"][host].get(args["results"]) for host in hosts})
        for line in verdict.lines():
            tell(line.text, color=None if line.healthy is None else _colour(line.healthy))
        tell(verdict.summary, color=_colour(not verdict.problems))
        if not self._task.check_mode:
            now = datetime.now(timezone.utc).isoformat(timespec="seconds")
            write_atomically(Path(args["path"]), json.dumps(verdict.as_dict(now), indent=2) + "\n")
        return {"changed": False, "failed": bool(verdict.problems), "msg": verdict.summary}


def _colour(healthy: bool) -> str:
    colour: str = C.COLOR_OK if healthy else C.COLOR_ERROR
    return colour
