"""The controller's steps of a rollout: the plan, the journal, the verdicts. plugin_utils/rollout decides."""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ansible import constants as C
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.roverwatch.fleet.plugins.action.health_report import write_atomically
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.common import durations
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.controller.terminal import tell
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.report import plain
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.rollout import claim, journal, judging, planning, summary

DURATIONS = ("rollout_deadline", "rollout_bake", "rollout_gate_patience")
NOT_THERE = "cannot be reached"
FOLLOWER = "roverwatch.fleet.rollout"


class ActionModule(ActionBase):
    _requires_connection = False
    _supports_check_mode = True
    _VALID_ARGS = frozenset(
        {"step", "phase", "wave", "reason", "statuses", "answers", "settings", "going_on", "verdict"}
    )

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        self.variables = task_vars or {}
        self.args = self._task.args
        self.current: dict[str, Any] = self.variables.get("__rollout_plan", {})
        steps: Mapping[str, Callable[[], dict[str, Any]]] = {
            "plan": self.plan,
            "note": self.note,
            "start_wave": self.start_wave,
            "tally": self.tally,
            "judge": self.judge,
            "end_wave": self.end_wave,
            "end": self.end,
        }
        try:
            return {"changed": False, **steps[self.args["step"]]()}
        except planning.RolloutError as error:
            raise AnsibleActionFail(f"nothing was changed: {error}") from error

    # before the first wave

    def plan(self) -> dict[str, Any]:
        """Decide who is updated when, from what each robot says of itself."""
        if FOLLOWER not in C.CALLBACKS_ENABLED:
            raise planning.RolloutError(
                f"the callback plugin {FOLLOWER}, which notes who gets lost on the way and how the update ends, is not "
                "enabled. Name it last in callbacks_enabled of your ansible.cfg, or in the environment: "
                f"ANSIBLE_CALLBACKS_ENABLED=roverwatch.fleet.preload,{FOLLOWER}"
            )
        settings = self.args["settings"]
        release = planning.check_release(settings["rollout_release"])
        times = {name: _seconds(settings, name) for name in DURATIONS}
        planning.check_times(times["rollout_deadline"], times["rollout_bake"])
        robots = sorted(self.variables["ansible_play_hosts_all"], key=plain.by_name)
        folder = Path(settings["rollout_dir"]) / release
        holder = _holder(folder.parent)

        statuses = {robot: self.variables["hostvars"][robot].get(self.args["statuses"]) or {} for robot in robots}
        found = planning.sort_robots(
            statuses, release, holder, journal.last_phases(journal.read(folder / journal.JOURNAL))
        )
        if found.problems:
            raise planning.RolloutError("\n".join(found.problems))
        if settings["rollout_gates"] and not settings["hubs"]:
            raise planning.RolloutError(
                "rollout_gates ask a hub how the updated robots do, and the inventory has no host in the group hubs: "
                "add one, or go without: -e '{\"rollout_gates\": []}'"
            )
        waves = planning.waves(
            settings["rollout_waves"], settings["rollout_canaries"], found.todo, found.updated, found.pending
        )
        allowed = int(planning.share(settings["rollout_failure_budget"], len(robots), "rollout_failure_budget"))

        run = f"{time.time():.3f}-{os.getppid()}"
        plan = {
            "release": release,
            "holder": holder,
            "run": run,
            "directory": str(folder.resolve()),
            "waves": [{"number": wave.number, "robots": wave.robots} for wave in waves],
            "allowed": allowed,
            "first": not found.updated,
            "check_mode": self._task.check_mode,
            # Whom a hub may know something of.
            "robots": [*found.updated, *found.todo],
            **{name.removeprefix("rollout_"): seconds for name, seconds in times.items()},
        }
        if not self._task.check_mode:
            self._open(plan, robots, found)
        self._say_plan(plan, found)
        return plan

    def _open(self, plan: dict[str, Any], robots: list[str], found: planning.Sorted) -> None:
        """Begin the journal of this run, unless another run on this controller is about the same robots."""
        claim.claim(Path(plan["directory"]).parent, os.getppid(), plan["release"], robots)
        self.current = plan
        self._journal(
            phase="planned", robots=robots, **{key: plan[key] for key in ("waves", "allowed", "holder")},
            release=plan["release"], operator=plan["holder"].partition(" ")[0],
        )  # fmt: skip
        for robot, why in found.pending.items():
            self._journal(robot=robot, phase="pending", to=plan["release"], reason=f"{NOT_THERE}: {why}")
        for robot in found.updated:
            self._journal(robot=robot, phase="skipped", to=plan["release"], reason="has this release")
        # What stays true of a run whose controller is killed.
        cut_off = {"release": plan["release"], "outcome": summary.STOPPED, "reason": "the run has not come to its end"}
        write_atomically(Path(plan["directory"]) / "result.json", json.dumps(cut_off, indent=2) + "\n")

    def _say_plan(self, plan: dict[str, Any], found: planning.Sorted) -> None:
        tell(f"rollout {plan['release']}: journal in {plan['directory']}/journal.jsonl")
        for wave in plan["waves"]:
            tell(f"  wave {wave['number']}: {plain.count(len(wave['robots']), 'robot')}: {_some(wave['robots'])}")
        for words, robots, colour in (
            ("has it", found.updated, C.COLOR_OK),
            ("pending", list(found.pending), C.COLOR_WARN),
        ):
            if robots:
                tell(f"  {words}: {plain.count(len(robots), 'robot')}: {_some(robots)}", color=colour)

    # one wave

    def note(self) -> dict[str, Any]:
        """Write down what a robot went through."""
        robot = self.variables["inventory_hostname"]
        self._journal(
            robot=robot, phase=self.args["phase"], wave=self.args["wave"]["number"], to=self.current["release"],
            reason=self.args.get("reason") or "",
        )  # fmt: skip
        return {}

    def start_wave(self) -> dict[str, Any]:
        """See who of the wave is there and can be judged; the others are pending, which is no failure."""
        wave = self._wave()
        statuses = {robot: self.variables["hostvars"][robot].get(self.args["statuses"]) or {} for robot in wave.robots}
        robots, pending, found = judging.admit(wave, statuses, [_answer(answer) for answer in self.args["answers"]])
        self._journal(phase="wave_started", wave=wave.number, reason="")
        last = self.current["waves"][-1]["number"]
        tell(f"wave {wave.number} of {last}: {plain.count(len(robots), 'robot')}: {_some(robots)}")
        for robot, why in pending.items():
            self._journal(robot=robot, phase="pending", wave=wave.number, to=self.current["release"], reason=why)
            tell(f"  {robot}: pending: {why}", color=C.COLOR_WARN)
        if found.outcome != "pass":
            return self._pause(wave, summary.PAUSED, f"was not begun, as nobody could judge it: {found.reason}")
        if not robots and self._first(wave):
            why = f"none of the first wave can be updated now ({_some(list(pending))}); rollout_canaries names others"
            return self._pause(wave, summary.PENDING, why)
        return {"number": wave.number, "robots": robots}

    def _pause(self, wave: planning.Wave, outcome: str, why: str) -> dict[str, Any]:
        self._journal(phase="wave_ended", wave=wave.number, outcome="paused", reason=why)
        return self._finish(judging.Verdict(outcome, f"wave {wave.number}: {why}"))

    def tally(self) -> dict[str, Any]:
        """Who of the wave is how far, from the journal: asking each robot's variables takes far longer."""
        lines, robots = journal.read(self._path()), self._wave().robots
        return {
            key: journal.at_phase(lines, self.current["run"], robots, phase)
            for key, phase in (("updating", "deployed"), ("healthy", "healthy"))
        }

    def judge(self) -> dict[str, Any]:
        """What becomes of the wave: the failure budget first, then what the hubs say."""
        wave = self._wave()
        lines = journal.read(self._path())
        found = judging.judge_budget(lines, self.current["run"], wave, self.current["allowed"], self._first(wave))
        answers = [_answer(answer) for answer in self.args["answers"]]
        for answer in answers:
            for gate in answer["gates"]:
                self._journal(
                    phase="gate", wave=wave.number, gate=f"{answer['hub']}: {gate['name']}", outcome=gate["outcome"],
                    reason=gate["detail"],
                )  # fmt: skip
                tell(
                    f"  {answer['hub']}: {gate['name']}: {gate['outcome'].replace('_', ' ')}: {gate['detail']}",
                    color={"pass": C.COLOR_OK, "fail": C.COLOR_ERROR}.get(gate["outcome"], C.COLOR_WARN),
                )
        if found.outcome == "pass":
            found = judging.judge_hubs(answers)
        if found.outcome == "no_data" and self.args.get("going_on"):
            found = judging.Verdict("pass", f"the operator goes on without data: {found.reason}")
            self._journal(phase="gate", wave=wave.number, gate="operator", outcome="pass", reason=found.reason)
        return {"outcome": found.outcome, "reason": found.reason}

    def end_wave(self) -> dict[str, Any]:
        """Close the wave, and end the rollout unless it passed."""
        wave, verdict = self._wave(), self.args["verdict"]
        found = judging.Verdict(verdict["outcome"], verdict["reason"])
        if found.outcome == "pass":  # robots may have got lost since, on their confirmation
            lines = journal.read(self._path())
            found = judging.judge_budget(lines, self.current["run"], wave, self.current["allowed"], self._first(wave))
        ended = {"pass": "passed", "fail": "failed", "no_data": "paused"}[found.outcome]
        self._journal(phase="wave_ended", wave=wave.number, outcome=ended, reason=found.reason)
        if found.outcome == "pass":
            return {}
        outcome = summary.PAUSED if found.outcome == "no_data" else summary.STOPPED
        return self._finish(judging.Verdict(outcome, f"wave {wave.number}: {found.reason}"))

    def end(self) -> dict[str, Any]:
        """The end after the last wave."""
        return self._finish(judging.judge_rollout(journal.read(self._path())))

    def _finish(self, found: judging.Verdict) -> dict[str, Any]:
        self._journal(phase="ended", outcome=found.outcome, reason=found.reason)
        return {"failed": found.outcome != summary.UPDATED, "msg": f"{found.outcome}: {found.reason}"}

    # what all of them need

    def _path(self) -> Path:
        return Path(self.current["directory"]) / journal.JOURNAL

    def _journal(self, **line: Any) -> None:
        if not self._task.check_mode:
            journal.append(self._path(), {"run": self.current["run"], **line})

    def _wave(self) -> planning.Wave:
        return planning.Wave(self.args["wave"]["number"], self.args["wave"]["robots"])

    def _first(self, wave: planning.Wave) -> bool:
        return bool(self.current["first"]) and wave.number == self.current["waves"][0]["number"]


def _seconds(settings: Mapping[str, Any], name: str) -> float:
    try:
        return durations.to_seconds(settings[name])
    except ValueError as error:
        raise planning.RolloutError(f"{name}: {error}") from error


def _holder(rollouts: Path) -> str:
    """Who updates: the same for each run from this checkout, so that a run resumes what another has left."""
    place = hashlib.sha256(str(rollouts.resolve()).encode()).hexdigest()[:8]
    return f"{getpass.getuser()}@{socket.gethostname()} {place}"


def _answer(answer: Mapping[str, Any]) -> dict[str, Any]:
    """What promql_gate found at a hub; a hub that could not be asked has no data."""
    if "outcome" in answer:
        return {"hub": answer["item"], **{k: answer[k] for k in ("outcome", "reason", "gates", "judgeable")}}
    if not answer.get("unreachable"):
        raise AnsibleActionFail(f"{answer['item']}: {plain.message(answer)}")
    reason = f"{NOT_THERE}: {plain.message(answer)}"
    gates = [{"name": "hub", "outcome": "no_data", "detail": reason}]
    return {"hub": answer["item"], "outcome": "no_data", "reason": reason, "gates": gates, "judgeable": []}


def _some(robots: list[str]) -> str:
    return " ".join(robots[:8]) + (f" and {len(robots) - 8} more" if len(robots) > 8 else "")
