"""The controller's part of a backfill's end: prints what was found and copied, keeps it, gives the verdict."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ansible import constants as C
from ansible.plugins.action import ActionBase
from ansible_collections.roverwatch.fleet.plugins.action.health_report import write_atomically
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.backfill import report as backfill_report
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.controller.terminal import tell
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.report import plain

# What is registered on each robot.
REGISTERED = ("plan", "own", "before", "copy", "after", "own_closer", "after_closer")


class ActionModule(ActionBase):
    _requires_connection = False
    _supports_check_mode = True
    _VALID_ARGS = frozenset({*REGISTERED, "hubs", "path"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        args = self._task.args
        variables = task_vars or {}
        robots = []
        for host in sorted(variables["ansible_play_hosts_all"], key=plain.by_name):
            known = variables["hostvars"][host]
            results = {name: known.get(args[name]) or {} for name in REGISTERED}
            robots.append(backfill_report.Robot(host, self._task.check_mode, **results))
        unreachable = {
            answer["item"]: plain.message(answer) for answer in args["hubs"]["results"] if "ping" not in answer
        }
        verdict = backfill_report.Report(robots, unreachable, self._task.check_mode)
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
