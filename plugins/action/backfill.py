"""The controller's half of `backfill`: finds what each hub lacks of a robot, and has it copied slice after slice."""

from __future__ import annotations

import time
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.backfill import gaps
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.backfill.sample_counts import Counts
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.common import durations
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.backfill import report
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.base import capacity
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.controller.terminal import tell
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.report.plain import message
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.service import role_variables


class ActionModule(ActionBase):
    _requires_connection = True
    _supports_check_mode = True
    _VALID_ARGS = frozenset({"step", "plan", "own", "hubs", "own_closer", "hubs_closer"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        _, args = self.validate_argument_spec(
            {
                "step": {"type": "str", "choices": ["look", "doubt", "copy"], "required": True},
                "plan": {"type": "dict"},
                "own": {"type": "dict"},
                "hubs": {"type": "dict"},
                "own_closer": {"type": "dict", "default": {}},
                "hubs_closer": {"type": "dict", "default": {}},
            },
            required_if=[("step", "doubt", ("own", "hubs")), ("step", "copy", ("plan", "own", "hubs"))],
        )
        self.variables = task_vars or {}
        self.host = self.variables["inventory_hostname"]
        if args["step"] == "look":
            return self._look()
        own = Counts.decode(args["own"]["counts"])
        answers = [answer for answer in args["hubs"]["results"] if "counts" in answer]
        if args["step"] == "doubt":
            stretches = gaps.doubtful(own, [Counts.decode(answer["counts"]) for answer in answers])
            return {"changed": False, "stretches": [list(stretch) for stretch in stretches]}
        closer = report.closer_by_hub(args["own_closer"], args["hubs_closer"])
        compared = []
        for answer in answers:
            there = Counts.decode(answer["counts"])
            missing = gaps.compare(own, there, closer.get(answer["item"]["name"], ()))
            filled = self._fill(args["plan"], answer["item"], missing)
            compared.append({**filled, "expected": there.samples + filled["copied"]})
        to_do = "missing" if self._task.check_mode else "copied"
        return {"changed": any(hub[to_do] for hub in compared), "hubs": compared}

    def _look(self) -> dict[str, Any]:
        asked, problems = role_variables.read(self, ["backfill"], self.variables)
        try:
            if problems:
                raise gaps.BackfillError("; ".join(problems))
            delay = self._templar.template(self.variables.get("vmagent_hub_delay", f"{capacity.LONGEST_DELAY}s"))
            now = time.time()
            plan = gaps.plan(asked, now, durations.to_seconds(delay))
        except (gaps.BackfillError, ValueError) as error:
            raise AnsibleActionFail(str(error)) from error
        found = self._step("look")
        if found.get("failed"):
            return found
        known = {hub["name"] for hub in found["hubs"]}
        strangers = [hub for hub in self.variables["groups"].get("hubs", []) if hub not in known]
        times = {"start": plan.start, "end": plan.end, "bytes_per_second": plan.bytes_per_second}
        # An end that was asked for leaves nothing out.
        young = {} if asked["backfill_end"] else {"now": int(now)}
        return {"changed": False, **times, **young, "hubs": found["hubs"], "strangers": strangers}

    def _fill(self, plan: dict[str, Any], hub: dict[str, Any], missing: gaps.Missing) -> dict[str, Any]:
        """Copy what one hub lacks, unless it waits in the queue for that hub or this is check mode."""
        copied = gaps.Copied()
        started = time.monotonic()
        waits = gaps.waiting(hub["pending_bytes"])
        if missing.parts and not waits and not self._task.check_mode:
            copied = self._copy(plan["bytes_per_second"], hub, missing)
        done = missing.before(copied.chunks)
        return {
            "name": hub["name"],
            "missing": missing.samples,
            "missing_minutes": missing.minutes,
            "copied": done.samples,
            "copied_minutes": done.minutes,
            "sent_bytes": copied.sent_bytes,
            "seconds": round(time.monotonic() - started, 1),
            "problem": copied.problem,
        }

    def _copy(self, bytes_per_second: int, hub: dict[str, Any], missing: gaps.Missing) -> gaps.Copied:
        """Copy until all is copied or it cannot go on."""
        copied = gaps.Copied()
        while copied.chunks < len(missing.parts) and not copied.problem:
            chunks = [list(chunk) for chunk in missing.chunks[copied.chunks :][: gaps.CHUNKS_PER_SLICE]]
            limits = {"bytes_per_second": bytes_per_second, "seconds": gaps.SLICE_SECONDS}
            answer = self._step("copy", url=hub["url"], chunks=chunks, **limits)
            copied.chunks += answer.get("chunks", 0)
            copied.sent_bytes += answer.get("sent_bytes", 0)
            if answer.get("failed"):
                copied.problem = message(answer)
            else:
                tell(gaps.progress(self.host, hub["name"], missing.before(copied.chunks), missing))
        return copied

    def _step(self, step: str, **args: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self._execute_module(
            "roverwatch.fleet.backfill",
            module_args={"step": step, "robot": self.host, **args},
            task_vars=self.variables,
        )
        return answer
