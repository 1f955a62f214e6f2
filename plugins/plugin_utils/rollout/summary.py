"""A rollout from its journal: what became of each wave and robot, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .journal import Line, failures, of_run, seconds

# How a rollout ends. Only the first is a success.
UPDATED, STOPPED, PAUSED, PENDING = "updated", "stopped", "paused", "pending"
# What a robot is after its last phase, where that is not the phase.
STATES = {
    "skipped": "updated",
    "confirmed": "updated",
    "begun": "applying",
    "deployed": "applying",
    "healthy": "applying",
}


def summary(lines: Sequence[Line]) -> dict[str, Any]:
    """All of a rollout for a report, from its journal. Times are seconds since the epoch, None for what is not over.

    Waves and their robots are those of the plan, of each robot what happened since it was last begun with.
    """
    plans = [line for line in lines if line["phase"] == "planned"]
    plan = plans[-1]
    ended = [line for line in of_run(lines, plan["run"]) if line["phase"] == "ended"]
    robots = _robots(lines, plan)
    return {
        "release": plan["release"],
        "from": sorted({robot["from"] for robot in robots if robot["from"]} - {plan["release"]}),
        "operator": plan["operator"],
        "started": seconds(plans[0]["time"]),
        "ended": seconds(ended[-1]["time"]) if ended else None,
        "outcome": ended[-1]["outcome"] if ended else "running",
        "reason": ended[-1]["reason"] if ended else "",
        "budget": {"allowed": plan["allowed"], "used": len(failures(lines, plan["run"]))},
        "waves": _waves(lines, plans),
        "robots": robots,
    }


def result(whole: Mapping[str, Any]) -> dict[str, Any]:
    """The outcome with its reason, and how many robots are what, from a summary."""
    states = [robot["state"] for robot in whole["robots"]]
    kept = ("release", "outcome", "reason", "started", "ended")
    return {
        **{key: whole[key] for key in kept},
        "robots": {state: states.count(state) for state in sorted(set(states))},
    }


def sentence(whole: Mapping[str, Any]) -> str:
    """The outcome in one line."""
    updated = sum(robot["state"] == "updated" for robot in whole["robots"])
    reason = f": {whole['reason']}" if whole["reason"] else ""
    return f"rollout {whole['release']}: {whole['outcome']}, {updated} of {len(whole['robots'])} robots{reason}"


def _robots(lines: Sequence[Line], plan: Line) -> list[dict[str, Any]]:
    wave_of = {robot: line["wave"] for line in lines if (robot := line.get("robot")) and line.get("wave")}
    wave_of.update({robot: wave["number"] for wave in plan["waves"] for robot in wave["robots"]})
    found = []
    for robot in plan["robots"]:
        own = [line for line in lines if line.get("robot") == robot]
        start = max((i for i, line in enumerate(own) if line["phase"] in ("begun", "pending")), default=0)
        # One that is skipped was updated in an earlier run, which is worth more than that it was skipped.
        attempt = [line for line in own[start:] if line["phase"] != "skipped"] or own[-1:]
        last = attempt[-1] if attempt else None
        found.append(
            {
                "robot": robot,
                "wave": wave_of.get(robot),
                "state": STATES.get(last["phase"], last["phase"]) if last else "waiting",
                "from": next((line["from"] for line in attempt if line.get("from")), None),
                "to": plan["release"],
                "reason": (last.get("reason") or "") if last else "",
                "phases": [
                    {"phase": line["phase"], "time": seconds(line["time"]), "reason": line.get("reason") or ""}
                    for line in attempt
                ],
            }
        )
    return found


def _waves(lines: Sequence[Line], plans: Sequence[Line]) -> list[dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    for plan in plans:
        for wave in plan["waves"]:
            found[wave["number"]] = {
                **wave, "started": None, "ended": None, "outcome": "waiting", "gates": [],
            }  # fmt: skip
        for line in of_run(lines, plan["run"]):
            wave = found.get(line.get("wave") or 0)
            if wave is None:
                continue
            if line["phase"] == "wave_started":
                wave.update(started=seconds(line["time"]), outcome="running")
            elif line["phase"] == "gate":
                wave["gates"].append({"name": line["gate"], "outcome": line["outcome"], "detail": line["reason"]})
            elif line["phase"] == "wave_ended":
                wave.update(ended=seconds(line["time"]), outcome=line["outcome"])
    return [found[number] for number in sorted(found)]
