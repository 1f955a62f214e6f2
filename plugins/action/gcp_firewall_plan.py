"""The controller's half of the role gcp_firewall: what is to change at GCP. What it decides is in plugin_utils/gcp."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.firewall import rules as firewall
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.controller.terminal import tell
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.gcp import vpc
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.gcp.vpc import Json, Plan, Settings
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.service.role_defaults import service_ports

LIST = "google.cloud.gcp_compute_firewall_info"
EMPTY = (
    "firewall_rules has no rule, so all that Roverwatch made at GCP would go, and no port be closed there: look at the "
    "inventory that this runs with; if it is meant, run the removal"
)


class ActionModule(ActionBase):
    _requires_connection = False
    _supports_check_mode = True
    _VALID_ARGS = frozenset({"step", "state", "rules", "settings", "auth", "error"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        args = self._task.args
        targets = {str(group): str(target or "") for group, target in args["settings"]["targets"].items()}
        self.settings = Settings(**{**args["settings"], "targets": targets})
        if args["step"] == "explain":
            return self._failed(f"GCP refused:\n{self._reason(args['error'])}")
        absent = args.get("state", "present") == "absent"
        wanted, problems = ([], []) if absent else self._wanted(args["rules"], task_vars or {})
        problems = vpc.check(self.settings) + problems
        if problems:
            return self._failed(_listed("Nothing was changed at GCP", problems))

        asked = {**args["auth"], "project": self.settings.project}
        found = self._execute_module(LIST, module_args=asked, task_vars=task_vars)
        if found.get("failed"):
            before = "Nothing was changed at GCP" if args["step"] == "plan" else "GCP's rules were changed, not checked"
            again = bool(re.search(vpc.BUSY, _said(found)))
            return self._failed(f"{before}: {self._reason(found)}", again)
        plan = vpc.plan(found["resources"], wanted, self.settings)
        if plan.problems:
            return self._failed(_listed("Nothing was changed at GCP", plan.problems))
        if args["step"] == "verify":
            return self._verified(plan)
        return self._planned(plan)

    def _wanted(self, listed: object, variables: Mapping[str, Any]) -> tuple[list[Json], list[str]]:
        rules, problems = firewall.parse(
            listed, variables.get("groups", {}), service_ports(variables, firewall.SERVICES, self._templar.template)
        )
        wanted, more = vpc.render(rules, self.settings)
        if not rules and not problems:
            problems = [EMPTY]
        return wanted, problems + more

    def _planned(self, plan: Plan) -> dict[str, Any]:
        if self._task.check_mode:
            for step in plan.steps:
                tell(f"GCP project {self.settings.project}: would {step.what}")
        return {
            # What is changed is changed by the tasks after this one. A diff is shown of what is changed alone.
            "changed": bool(plan.steps) and bool(self._task.check_mode or self._task.diff),
            "steps": [{"what": step.what, "arguments": step.arguments()} for step in plan.steps],
            "busy": vpc.BUSY,
            "diff": [
                {
                    "before_header": f"{(change.before or change.after)['name']} (project {self.settings.project})",
                    "after_header": f"{(change.after or change.before)['name']} (project {self.settings.project})",
                    "before": _shown(change.before),
                    "after": _shown(change.after),
                }
                for change in plan.changes
            ],
        }

    def _verified(self, plan: Plan) -> dict[str, Any]:
        if not plan.steps:
            return {"changed": False}
        lines = [f"still to do: {step.what}" for step in plan.steps]
        lines.append("somebody may have changed them at the same time: look at them, then run this again")
        return self._failed(_listed("GCP's rules are not what they should be after the run", lines))

    def _reason(self, result: Mapping[str, Any]) -> str:
        """Of a module that failed, or of a loop of it, of which the last one did."""
        last = next((one for one in result.get("results", []) if one.get("failed")), result)
        reason = vpc.explain(_said(last), self.settings, self._task.args["auth"]["auth_kind"])
        step = last.get(last.get("ansible_loop_var", "item"))
        return f"{step['what']}: {reason}" if isinstance(step, Mapping) else reason

    @staticmethod
    def _failed(message: str, again: bool = False) -> dict[str, Any]:
        return {"changed": False, "failed": True, "msg": message, "again": again}


def _said(result: Mapping[str, Any]) -> str:
    return str(result.get("msg") or result.get("exception") or result)


def _listed(title: str, lines: list[str]) -> str:
    return f"{title}:\n" + "\n".join(f"- {line}" for line in lines)


def _shown(rule: Json) -> str:
    """A rule as a diff shows it: a line for each field, and for each item of a list."""
    lines = []
    for field in vpc.FIELDS:
        value = rule.get(field)
        if field in ("allowed", "denied") and value:
            value = [f"{one['IPProtocol']} {port}" for one in value for port in one.get("ports", ["all"])]
        if isinstance(value, list):
            lines += [f"{field}: {one}" for one in sorted(value)]
        elif isinstance(value, dict):
            lines += [f"{field}.{name}: {one}" for name, one in sorted(value.items())]
        elif value not in (None, ""):
            lines.append(f"{field}: {value}")
    return "".join(f"{line}\n" for line in lines)
