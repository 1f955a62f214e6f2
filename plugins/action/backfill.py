"""The controller's half of `backfill`: finds what each hub lacks of a robot, and has it copied slice after slice."""

from __future__ import annotations

import time
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch import (
    backfill,
    backfill_report,
    capacity,
    durations,
)
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.report import message
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.sample_counts import Counts
from ansible_collections.roverwatch.fleet.plugins.plugin_utils import role_variables
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.terminal import tell


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
            stretches = backfill.doubtful(own, [Counts.decode(answer["counts"]) for answer in answers])
            return {"changed": False, "stretches": [list(stretch) for stretch in stretches]}
        closer = backfill_report.closer_by_hub(args["own_closer"], args["hubs_closer"])
        compared = []
        for answer in answers:
            there = Counts.decode(answer["counts"])
            missing = backfill.compare(own, there, closer.get(answer["item"]["name"], ()))
            filled = self._fill(args["plan"], answer["item"], missing)
            compared.append({**filled, "expected": there.samples + filled["copied"]})
        to_do = "missing" if self._task.check_mode else "copied"
        return {"changed": any(hub[to_do] for hub in compared), "hubs": compared}

    def _look(self) -> dict[str, Any]:
        asked, problems = role_variables.read(self, ["backfill"], self.variables)
        try:
            if problems:
                raise backfill.BackfillError("; ".join(problems))
            delay = self._templar.template(self.variables.get("vmagent_hub_delay", f"{capacity.LONGEST_DELAY}s"))
            now = time.time()
            plan = backfill.plan(asked, now, durations.to_seconds(delay))
        except (backfill.BackfillError, ValueError) as error:
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

    def _fill(self, plan: dict[str, Any], hub: dict[str, Any], missing: backfill.Missing) -> dict[str, Any]:
        """Copy what one hub lacks, unless it waits in the queue for that hub or this is check mode."""
        copied = backfill.Copied()
        started = time.monotonic()
        waits = backfill.waiting(hub["pending_bytes"])
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

    def _copy(self, bytes_per_second: int, hub: dict[str, Any], missing: backfill.Missing) -> backfill.Copied:
        """Copy until all is copied or it cannot go on."""
        copied = backfill.Copied()
        while copied.chunks < len(missing.parts) and not copied.problem:
            chunks = [list(chunk) for chunk in missing.chunks[copied.chunks :][: backfill.CHUNKS_PER_SLICE]]
            limits = {"bytes_per_second": bytes_per_second, "seconds": backfill.SLICE_SECONDS}
            answer = self._step("copy", url=hub["url"], chunks=chunks, **limits)
            copied.chunks += answer.get("chunks", 0)
            copied.sent_bytes += answer.get("sent_bytes", 0)
            if answer.get("failed"):
                copied.problem = message(answer)
            else:
                tell(backfill.progress(self.host, hub["name"], missing.before(copied.chunks), missing))
        return copied

    def _step(self, step: str, **args: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self._execute_module(
            "roverwatch.fleet.backfill",
            module_args={"step": step, "robot": self.host, **args},
            task_vars=self.variables,
        )
        return answer
