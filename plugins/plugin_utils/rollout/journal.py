"""A rollout of one release over a fleet: its waves, its failure budget, and its journal.

The journal has one JSON object a line. What a robot went through has `robot`, `phase` (pending, skipped, begun,
deployed, healthy, confirmed, rolled_back, failed or unreachable), `wave`, `from`, `to` and `reason`; what concerns
the rollout has `phase` alone: `planned`, `wave_started`, `gate`, `wave_ended`, `ended`. Every line has `time`
(ISO 8601, UTC) and `run`, which tells the runs of a command apart.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..report.plain import message

# In the rollout's directory.
JOURNAL = "journal.jsonl"
RELEASE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")

# How a rollout ends. Only the first is a success.
UPDATED, STOPPED, PAUSED, PENDING = "updated", "stopped", "paused", "pending"
# What a deadline must at least leave for the deployment, beside the bake.
DEPLOYMENT_SECONDS = 30.0
# What counts against the failure budget.
FAILURES = ("rolled_back", "failed", "unreachable")
# What a robot of a wave has behind it when the wave is judged.
JUDGED = ("healthy", "confirmed")
# What a robot is after its last phase.
STATES = {
    "skipped": "updated",
    "confirmed": "updated",
    "begun": "applying",
    "deployed": "applying",
    "healthy": "applying",
}

Line = Mapping[str, Any]


class RolloutError(Exception):
    """The rollout cannot be done as it was asked for. The text names the variable and the remedy."""


@dataclass(frozen=True)
class Wave:
    """Robots that are updated together. `number` counts from 1 and stays the same when a rollout is resumed."""

    number: int
    robots: list[str]


@dataclass
class Sorted:
    """The robots of a run: who is to be updated, who has the release, why who is not there, and what is in the way."""

    todo: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    pending: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def sort_robots(
    statuses: Mapping[str, Mapping[str, Any]], release: str, holder: str, told: Mapping[str, Line]
) -> Sorted:
    """Sort robots by what `roverwatch-release status` said there, or Ansible instead of it.

    `told` is the last line of each robot in the journal: all that is known of one that is off.
    """
    found = Sorted()
    for robot, status in statuses.items():
        if status.get("unreachable"):
            if STATES.get(str(told.get(robot, {}).get("phase"))) == UPDATED:
                found.updated.append(robot)  # that it is off does not take the release from it
            else:
                found.pending[robot] = message(status)
        elif "state" not in status:
            found.problems.append(
                f"{robot}: {message(status)}. If it has no roverwatch-release yet: ansible-playbook playbooks/site.yml "
                f"--limit {robot}"
            )
        elif (update := status["applying"]) and (update["holder"], update["id"]) != (holder, release):
            until = datetime.fromtimestamp(update["deadline"]).strftime("%H:%M:%S")
            found.problems.append(
                f"{robot} is being updated to {update['id']} by {update['holder']}, and goes back at {until} unless it "
                f"is confirmed: wait, or take it back now: ansible-playbook playbooks/rollback.yml --limit {robot}"
            )
        elif status["release"] == release and status["state"] == "confirmed" and not status["modified"]:
            found.updated.append(robot)
        else:
            found.todo.append(robot)
    return found


def check_release(release: object) -> str:
    """The release's name. Raises RolloutError."""
    if isinstance(release, str) and RELEASE_ID.fullmatch(release):
        return release
    raise RolloutError(
        f"rollout_release is {release!r}: give the release a name of letters, digits and . _ + -, at most 64 of them, "
        "and a new one for each new content: -e rollout_release=2026.11.1"
        + ("" if isinstance(release, str) else ' (a number needs quotes: -e \'{"rollout_release": "1.10"}\')')
    )


def share(value: object, robots: int, variable: str) -> float:
    """A number of robots, from a number or from a percentage of `robots`. Raises RolloutError."""
    text = str(value).strip()
    match = re.fullmatch(r"(\d+(?:\.\d+)?) *%|(\d+)", text)
    if match is None or (match[1] and float(match[1]) > 100):
        raise RolloutError(f"{variable}: {value!r} is neither a number of robots nor a percentage of them, such as 10%")
    return robots * float(match[1]) / 100 if match[1] else float(match[2])


def check_times(deadline: float, bake: float) -> None:
    """Whether a robot can be confirmed in time, in seconds. Raises RolloutError."""
    if deadline < bake + DEPLOYMENT_SECONDS:
        raise RolloutError(
            f"rollout_deadline is {deadline:g} s, and a robot is not confirmed before it was deployed and rollout_bake "
            f"({bake:g} s) is over: it would always go back. Make it longer, or the bake shorter"
        )


def waves(
    sizes: Sequence[object],
    canaries: Sequence[str],
    todo: Sequence[str],
    updated: Iterable[str],
    pending: Iterable[str],
) -> list[Wave]:
    """Split the robots that are to be updated into waves.

    Each of `sizes` says how many robots of the fleet have the release after that wave, so a wave that was reached
    before is left out. `todo` is who is to be updated, in this order; `updated` has the release, and `pending` is
    not there. Named canaries are the first wave. Raises RolloutError.
    """
    if not sizes:
        raise RolloutError("rollout_waves is empty: name at least one wave, such as [1, 10%, 50%, 100%]")
    done, absent = set(updated), set(pending)
    everybody = [*done, *todo, *absent]
    unknown = sorted(set(canaries) - set(everybody))
    if unknown:
        raise RolloutError(f"rollout_canaries: {', '.join(unknown)} is not among the robots of this run (see --limit)")
    if canaries and set(canaries) <= absent:
        raise RolloutError(
            f"rollout_canaries: {', '.join(canaries)} cannot be reached: name canaries that are there, or wait for them"
        )
    marks = [math.ceil(share(size, len(everybody), "rollout_waves") - 1e-9) for size in sizes]
    if canaries:
        marks = [len(canaries), *(max(mark, len(canaries)) for mark in marks[1:])]
    marks[-1] = len(everybody)  # whatever the last size says, nobody is forgotten
    order = [*(robot for robot in canaries if robot in todo), *(robot for robot in todo if robot not in canaries)]
    found, position, reached = [], 0, len(done)
    for number, mark in enumerate(sorted(set(marks)), 1):
        size = min(mark - reached, len(order) - position)
        if size > 0:
            found.append(Wave(number, order[position : position + size]))
            position, reached = position + size, reached + size
    return found


# --- one at a time ------------------------------------------------------------------------------------------------


def claim(rollouts: Path, pid: int, release: str, robots: Sequence[str]) -> None:
    """Write down that this process updates these robots. Raises RolloutError while another one updates any of them.

    This keeps apart what runs on one controller. A robot itself refuses whoever comes from another one.
    """
    folder = rollouts / ".running"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for path in folder.glob("*.json"):
            other = json.loads(path.read_text())
            if _started(other["pid"]) != other["started"]:
                path.unlink()  # it was killed
            elif shared := sorted(set(other["robots"]) & set(robots)):
                raise RolloutError(
                    f"release {other['release']} is being rolled out to {', '.join(shared[:5])} by process "
                    f"{other['pid']} of this controller: wait until it ends, then run this again"
                )
        claimed = {"pid": pid, "started": _started(pid), "release": release, "robots": list(robots)}
        (folder / f"{pid}.json").write_text(json.dumps(claimed))


def disclaim(rollouts: Path, pid: int) -> None:
    """Take back what claim() wrote down."""
    (rollouts / ".running" / f"{pid}.json").unlink(missing_ok=True)


def _started(pid: int) -> str | None:
    """When a process started, in the kernel's ticks, which tells it from a later one of the same id."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except FileNotFoundError:
        return None


# --- the journal ---------------------------------------------------------------------------------------------


def now() -> str:
    """This moment as the journal writes it."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def seconds(time: str) -> float:
    """Seconds since the epoch of a time in the journal."""
    return datetime.fromisoformat(time).timestamp()


def append(path: Path, line: Line) -> None:
    """Add a line, which is on the disk when this returns. Lines of several processes do not mix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"time": now(), **line}, ensure_ascii=False) + "\n"
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.lseek(descriptor, 0, os.SEEK_END)
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            text = "\n" + text  # after a line that was cut off
        os.write(descriptor, text.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(path: Path) -> list[dict[str, Any]]:
    """Every line. One that the end of a controller cut off is left out, as what it tells of was not finished."""
    if not path.exists():
        return []
    found = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(text))
        except ValueError:
            continue
    return found


def of_run(lines: Iterable[Line], run: str) -> list[Line]:
    """The lines of one run."""
    return [line for line in lines if line["run"] == run]


def last_phases(lines: Iterable[Line]) -> dict[str, Line]:
    """The last line of each robot."""
    return {line["robot"]: line for line in lines if line.get("robot")}


def failures(lines: Iterable[Line], run: str) -> list[Line]:
    """The last line of each robot that failed in this run."""
    return [line for line in last_phases(of_run(lines, run)).values() if line["phase"] in FAILURES]


def at_phase(lines: Iterable[Line], run: str, robots: Sequence[str], phase: str) -> list[str]:
    """Those of the robots whose last phase in this run is that one."""
    phases = last_phases(of_run(lines, run))
    return [robot for robot in robots if phases.get(robot, {}).get("phase") == phase]


def told(lines: Sequence[Line]) -> str:
    """Who failed and why, in a line for a person."""
    named = [
        f"{line['robot']} {line['phase'].replace('_', ' ')}: {line.get('reason') or 'no reason'}" for line in lines
    ]
    return "; ".join(named[:3]) + (f"; and {len(named) - 3} more" if len(named) > 3 else "")


# --- the verdict of a wave --------------------------------------------------------------------------------------


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


# --- the summary ------------------------------------------------------------------------------------------------


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


def verdict(lines: Sequence[Line]) -> Verdict:
    """How a rollout whose waves are all done ends."""
    behind = [robot for robot in summary(lines)["robots"] if robot["state"] != "updated"]
    if not behind:
        return Verdict(UPDATED)
    named = ", ".join(f"{robot['robot']} ({robot['state'].replace('_', ' ')})" for robot in behind[:10])
    more = f" and {len(behind) - 10} more" if len(behind) > 10 else ""
    return Verdict(PENDING, f"{named}{more}: the same command updates those when they can be reached")


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
