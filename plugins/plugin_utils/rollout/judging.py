"""The verdicts of a rollout: who of a wave can be updated now, whether its update went well, and how all of it ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..report.plain import message
from .journal import FAILURES, Line, failures, last_phases, of_run, told
from .planning import Wave
from .summary import PENDING, UPDATED, summary

# What a robot of a wave has behind it when the wave is judged.
JUDGED = ("healthy", "confirmed")


@dataclass(frozen=True)
class Verdict:
    """What becomes of a wave: `pass` confirms its robots, `fail` takes them back, `no_data` leaves them waiting."""

    outcome: str
    reason: str = ""


def judge_budget(lines: Sequence[Line], run: str, wave: Wave, allowed: int, first: bool) -> Verdict:
    """Whether the rollout may go on after the failures so far. The first wave, and a wave without success, may not."""
    phases = last_phases(of_run(lines, run))
    without = [robot for robot in wave.robots if phases.get(robot, {}).get("phase") not in (*FAILURES, *JUDGED)]
    if without:  # never to be taken for well
        return Verdict("fail", f"nothing is known of {', '.join(without[:5])}, see the messages above")
    failed = failures(lines, run)
    here = [line for line in failed if line["robot"] in wave.robots]
    if not wave.robots:
        return Verdict("pass", "nobody of the wave could be updated now")
    if here and first:
        return Verdict("fail", f"none may fail in the first wave: {told(here)}")
    if len(here) == len(wave.robots):
        return Verdict("fail", f"no robot of the wave was updated: {told(here)}")
    if len(failed) > allowed:
        return Verdict("fail", f"{len(failed)} robots failed, rollout_failure_budget allows {allowed}: {told(failed)}")
    return Verdict("pass")


def admit(
    wave: Wave, statuses: Mapping[str, Mapping[str, Any]], answers: Sequence[Mapping[str, Any]]
) -> tuple[list[str], dict[str, str], Verdict]:
    """Who of a wave can be updated now, why the others cannot, and whether anybody could judge the update.

    `statuses` are as for sort_robots, of this moment. `answers` are what promql_gate found at each hub, with
    `judgeable`; there are none where nothing is asked of the hubs.
    """
    pending = {robot: message(statuses[robot]) for robot in wave.robots if statuses[robot].get("unreachable")}
    able = {robot for answer in answers for robot in answer["judgeable"]}
    if answers and not able:
        return [], pending, judge_hubs([{**answer, "outcome": "no_data"} for answer in answers])
    silent = [robot for robot in wave.robots if robot not in pending and answers and robot not in able]
    pending |= dict.fromkeys(silent, "no hub has fresh samples of it, so nobody could judge its update")
    return [robot for robot in wave.robots if robot not in pending], pending, Verdict("pass")


def judge_hubs(answers: Sequence[Mapping[str, Any]]) -> Verdict:
    """One verdict of what promql_gate found at each hub: `hub`, `outcome`, `reason`.

    A hub that sees something wrong decides; otherwise one that has all the data is enough.
    """
    failing = [answer for answer in answers if answer["outcome"] == "fail"]
    if failing:
        return Verdict("fail", "; ".join(f"{answer['hub']}: {answer['reason']}" for answer in failing))
    if not answers or any(answer["outcome"] == "pass" for answer in answers):
        return Verdict("pass")
    return Verdict("no_data", "; ".join(f"{answer['hub']}: {answer['reason']}" for answer in answers))


def judge_rollout(lines: Sequence[Line]) -> Verdict:
    """How a rollout whose waves are all done ends."""
    behind = [robot for robot in summary(lines)["robots"] if robot["state"] != "updated"]
    if not behind:
        return Verdict(UPDATED)
    named = ", ".join(f"{robot['robot']} ({robot['state'].replace('_', ' ')})" for robot in behind[:10])
    more = f" and {len(behind) - 10} more" if len(behind) > 10 else ""
    return Verdict(PENDING, f"{named}{more}: the same command updates those when they can be reached")
