"""The controller's half of `release`: has the robot do it, and writes into the journal what came of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ansible import constants as C
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.controller.terminal import tell
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.rollout import journal

TOOL = "/usr/local/sbin/roverwatch-release"
# What the tool exits with when the robot is back on the old version, which is not well.
UNHEALTHY = 3
PHASES = {"applying": "begun", "confirmed": "confirmed", "rolled_back": "rolled_back", "failed": "failed"}


class ActionModule(ActionBase):
    _requires_connection = True
    _supports_check_mode = True
    _VALID_ARGS = frozenset({"command", "id", "deadline", "holder", "reason", "journal", "wave"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        args, variables = self._task.args, task_vars or {}
        if self._task.check_mode and args["command"] != "status":
            return {"changed": False, "skipped": True, "msg": "not in check mode"}
        argv = [TOOL, args["command"]]
        for option in ("id", "deadline", "holder", "reason"):
            if option in args:
                argv += [f"--{option}", str(args[option])]
        answer = self._execute_module("ansible.legacy.command", module_args={"argv": argv}, task_vars=variables)
        if answer.get("unreachable"):
            return dict(answer)
        if answer.get("rc") not in (0, UNHEALTHY):
            reason = answer.get("stderr", "").strip() or answer.get("msg", "no answer")
            if args["command"] != "begin":  # that is the business of who asked for it
                self._journal(variables, "failed", reason)
            return {"failed": True, "changed": False, "msg": reason}
        status: dict[str, Any] = json.loads(answer["stdout"])
        if args["command"] != "status":
            robot = variables["inventory_hostname"]
            self._journal(variables, PHASES[status["state"]], self._reason(status), status)
            if args["command"] == "rollback":
                good = status["state"] == "rolled_back"
                on = f"on {status['release']}" if status["release"] else "on what it had before its first release"
                text = f"{robot}: {status['state'].replace('_', ' ')}, {on}: {self._reason(status)}"
                tell(text, color=C.COLOR_WARN if good else C.COLOR_ERROR)
                # Back, and not well: whoever asked has to know. The reason is the robot's.
                status |= {"failed": not good, "msg": self._reason(status)}
        return status

    def _reason(self, status: dict[str, Any]) -> str:
        asked = self._task.args.get("reason", "")
        return asked if status["state"] != "failed" else f"{asked}; went back and is not well: {status['reason']}"

    def _journal(
        self, variables: dict[str, Any], phase: str, reason: str, status: dict[str, Any] | None = None
    ) -> None:
        if not boolean(self._task.args.get("journal", False)):
            return
        plan, wave = variables["__rollout_plan"], self._task.args.get("wave") or {}
        came_from = status["release"] if status and phase == "begun" else None
        journal.append(
            Path(plan["directory"]) / journal.JOURNAL,
            {
                "run": plan["run"],
                "robot": variables["inventory_hostname"],
                "phase": phase,
                "wave": wave.get("number"),
                "to": plan["release"],
                "reason": reason,
                **({"from": came_from} if came_from else {}),
            },
        )
