"""The plan of a rollout: which robots are updated in which wave. What cannot work is refused before that."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ..report.plain import message
from .journal import Line
from .summary import STATES, UPDATED

RELEASE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
# What a deadline must at least leave for the deployment, beside the bake.
DEPLOYMENT_SECONDS = 30.0


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
