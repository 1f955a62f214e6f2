"""The controller's half of `load_test`: brings the load generator, has it run slice after slice, takes it off again."""

from __future__ import annotations

import time
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.load import run as load
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.controller.terminal import tell
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.service import delivery, role_variables


class ActionModule(ActionBase):
    _requires_connection = True
    _supports_check_mode = True
    _VALID_ARGS = frozenset({"store", "version"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        self.variables = task_vars or {}
        self.host = self.variables["inventory_hostname"]
        plan = self._plan()
        about = {"unit": plan.unit, "path": plan.path, "url": plan.url}
        found = self._step("begin", **about)
        if found.get("failed"):
            return found
        result = {"changed": False, "planned": plan.describe(found["url"]), "unit": plan.unit}
        if self._task.check_mode:
            brought = delivery.bring_program(self, load.GENERATOR, self.variables)
            return brought if brought.get("failed") else result

        try:
            outcome = delivery.bring_program(self, load.GENERATOR, self.variables)
            if not outcome.get("failed"):
                tell(f"{self.host}: {result['planned']}")
                outcome = self._load(plan, found["url"], outcome["path"])
        finally:
            left = self._step("end")
        failure = next((answer for answer in (outcome, left) if answer.get("failed")), None)
        if failure:
            return failure
        total: load.Figures = outcome["total"]
        oom_kills = total.oom_kills_total - found["oom_kills_total"]
        return {**result, "figures": total.as_dict(), "oom_kills": oom_kills, "slices": outcome["slices"]}

    def _plan(self) -> load.Plan:
        asked, problems = role_variables.read(self, ["load_test"], self.variables)
        try:
            if problems:
                raise load.LoadError("; ".join(problems))
            return load.plan(asked)
        except load.LoadError as error:
            raise AnsibleActionFail(str(error)) from error

    def _load(self, plan: load.Plan, url: str, program: str) -> dict[str, Any]:
        """Load until the time is over. Between two slices the load rests for as long as a task takes."""
        total = load.Figures()
        slices: list[dict[str, Any]] = []
        start = time.monotonic()
        while (left := plan.duration - (time.monotonic() - start)) >= load.SHORTEST_SLICE_SECONDS or not slices:
            seconds = round(min(load.SLICE_SECONDS, left), 1)
            what = {"unit": plan.unit, "url": url, "connections": plan.connections, "rate": plan.rate}
            done = self._step("run", **what, program=program, seconds=seconds)
            if done.get("failed"):
                return done
            figures = load.Figures.from_dict(done["figures"])
            total.add(figures)
            elapsed = time.monotonic() - start
            tell(load.progress(self.host, elapsed, plan, figures))
            slices.append({"elapsed_seconds": round(elapsed, 1), **load.summary(figures)})
        return {"total": total, "slices": slices}

    def _step(self, step: str, **args: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self._execute_module(
            "roverwatch.fleet.load_test", module_args={"step": step, **args}, task_vars=self.variables
        )
        return answer
