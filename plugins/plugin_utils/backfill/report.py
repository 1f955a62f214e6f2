"""What a backfill found and copied: a table, a verdict, and data for programs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.backfill import gaps
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.backfill.sample_counts import Counts
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.common.problem import Problem

from ..report.plain import UNKNOWN, Line, count, message, problem_lines, sizes, table

COLUMNS = ("ROBOT", "HUB", "HISTORY", "MISSING", "IN", "COPIED", "SENT", "STILL MISSING")

Result = Mapping[str, Any]
NONE: Result = {}


@dataclass(frozen=True)
class Pair:
    """A robot and one of its hubs. Samples; None where nobody could tell."""

    robot: str
    hub: str
    history: int
    missing: int
    minutes: int
    copied: int = 0
    sent_bytes: int = 0
    still_missing: int | None = None

    def cells(self) -> Sequence[str]:
        """Its row of the table."""
        return (
            self.robot,
            self.hub,
            gaps.number(self.history),
            gaps.number(self.missing),
            f"{self.minutes} min",
            gaps.number(self.copied),
            *sizes(self.sent_bytes),
            UNKNOWN if self.still_missing is None else gaps.number(self.still_missing),
        )


@dataclass(frozen=True)
class Robot:
    """A robot, and what Ansible registered there: for the plan, the counts of its own and of the hubs, and the copy."""

    name: str
    check_mode: bool
    plan: Result
    own: Result
    before: Result
    copy: Result
    after: Result
    own_closer: Result = field(default_factory=dict)
    after_closer: Result = field(default_factory=dict)

    @cached_property
    def pairs(self) -> list[Pair]:
        """Each hub that could be compared with the robot."""
        after = {name: answer for name, answer in _by_hub(self.after) if "counts" in answer}
        closer = closer_by_hub(self.own_closer, self.after_closer)
        pairs = []
        for hub in self.copy.get("hubs", ()):
            found = {"missing": hub["missing"], "minutes": hub["missing_minutes"]}
            done = {"copied": hub["copied"], "sent_bytes": hub["sent_bytes"]}
            still: int | None = hub["missing"]
            if hub["name"] in after:
                own = Counts.decode(self.own["counts"])
                there = Counts.decode(after[hub["name"]]["counts"])
                still = gaps.compare(own, there, closer.get(hub["name"], ())).samples
            elif hub["copied"]:
                still = None
            pairs.append(Pair(self.name, hub["name"], self.own["samples"], **found, **done, still_missing=still))
        return pairs

    @property
    def quiet(self) -> bool:
        """Whether it has no samples of its own to compare."""
        return self.own.get("samples") == 0

    def problems(self, unreachable: Iterable[str]) -> list[Problem]:
        """What an operator must act on, beside the hubs that are unreachable."""
        trouble = self._trouble()
        if trouble:
            return [trouble]
        redeploy = f"ansible-playbook playbooks/site.yml --limit {self.name}"
        problems = [
            Problem(self.name, "roverwatch-vmagent", f"does not write to {hub}", redeploy)
            for hub in self.plan["strangers"]
        ]
        counted = {pair.hub: pair for pair in self.pairs}
        answers = dict(_by_hub(self.before))
        for hub in self.plan["hubs"]:
            name = hub["name"]
            if name in counted:
                problems += self._copy_problems(counted[name], hub)
            elif name in answers:
                problems.append(Problem(name, "host", f"cannot be asked: {message(answers[name])}", "see the message"))
            elif name not in unreachable:
                what = f"writes to {hub['url']}, which is no hub of the inventory"
                problems.append(Problem(self.name, "roverwatch-vmagent", what, redeploy))
        return problems

    def _trouble(self) -> Problem | None:
        """Why nothing is known of this robot."""
        again = f"run the playbook again with --limit {self.name} -v"
        for result in (self.plan, self.own, self.copy):
            if result.get("unreachable"):
                remedy = f"check its power and network, then: ansible -m ping {self.name}"
                return Problem(self.name, "host", f"unreachable: {message(result)}", remedy)
            if result.get("failed"):
                return Problem(self.name, "history", f"was not compared: {message(result)}", "see the message")
        if "hubs" not in self.plan or "counts" not in self.own:
            return Problem(self.name, "history", "was not compared", again)
        return None

    def _copy_problems(self, pair: Pair, hub: Mapping[str, Any]) -> list[Problem]:
        if self.check_mode or not pair.missing:
            return []
        result = next(item for item in self.copy["hubs"] if item["name"] == pair.hub)
        if result["problem"]:
            return [Problem(self.name, "history", f"was not copied: {result['problem']}", "see the message")]
        if gaps.waiting(hub["pending_bytes"]):
            waits = sizes(hub["pending_bytes"])[0]
            what = f"has {waits} for {pair.hub} in its queue, perhaps what is missing there, and nothing was copied"
            remedy = "vmagent sends that by itself; playbooks/health.yml says how much is left. Then run this again"
            return [Problem(self.name, "roverwatch-vmagent", what, remedy)]
        if pair.still_missing is None:
            answer = dict(_by_hub(self.after)).get(pair.hub, NONE)
            what = f"could not be counted again: {message(answer)}"
            return [Problem(pair.hub, "host", what, "run this again")]
        if pair.still_missing:
            what = f"took {count(pair.copied, 'sample')} of {self.name} and has not {gaps.number(pair.still_missing)}"
            remedy = (
                f"on {pair.hub}: journalctl -u roverwatch-victoriametrics -n 50; its victoriametrics_retention may be "
                "shorter than backfill_period"
            )
            return [Problem(pair.hub, "roverwatch-victoriametrics", what, remedy)]
        return []


@dataclass(frozen=True)
class Report:
    """The verdict on all robots and hubs; `unreachable` has the hubs that did not answer, and why."""

    robots: Sequence[Robot]
    unreachable: Mapping[str, str]
    check_mode: bool

    @property
    def pairs(self) -> list[Pair]:
        return [pair for robot in self.robots for pair in robot.pairs]

    @property
    def problems(self) -> list[Problem]:
        """What an operator must act on."""
        hubs = [
            Problem(hub, "host", f"unreachable: {why}", f"check its power and network, then: ansible -m ping {hub}")
            for hub, why in self.unreachable.items()
        ]
        own = [problem for robot in self.robots for problem in robot.problems(self.unreachable)]
        # A hub that answers nobody is told of once.
        return list(dict.fromkeys(hubs + own))

    @property
    def summary(self) -> str:
        """The verdict in one line."""
        pairs = self.pairs
        missing = sum(pair.missing for pair in pairs)
        robots = count(len({pair.robot for pair in pairs}), "robot")
        where = f"{robots} at {count(len({pair.hub for pair in pairs}), 'hub')}"
        if not pairs:
            text = "nothing was compared"
        elif not missing:
            text = f"{where}: nothing is missing"
        elif self.check_mode:
            text = f"{where}: {_samples(missing)} missing, and nothing copied in check mode"
        else:
            copied = gaps.number(sum(pair.copied for pair in pairs))
            # What cannot be told was missing before.
            left = sum(pair.missing if pair.still_missing is None else pair.still_missing for pair in pairs)
            text = f"{where}: {_samples(missing)} missing, {copied} copied, {gaps.number(left)} still missing"
        problems = self.problems
        return f"{text}, {count(len(problems), 'problem')}" if problems else text

    def lines(self) -> list[Line]:
        """All of it as text, without the summary."""
        rows = [(pair.cells(), self.check_mode or not pair.still_missing) for pair in self.pairs]
        quiet = [f"{robot.name}: has no samples of its own in this time" for robot in self.robots if robot.quiet]
        return [
            *(table(COLUMNS, rows) if rows else ()),
            Line(""),
            *(Line(text) for text in quiet),
            *(Line(text) for text in self._left_out),
            *(line for problem in self.problems for line in problem_lines(problem)),
        ]

    @property
    def _left_out(self) -> list[str]:
        """The minutes that no robot was asked for, since nobody could tell what is missing of them."""
        young = [(robot.plan["end"], robot.plan["now"]) for robot in self.robots if "now" in robot.plan]
        if not young:
            return []
        start, end = min(first for first, _ in young), max(now for _, now in young)
        return [
            f"{gaps.clock(start)} to {gaps.clock(end)} was left out: what is that young may be on its way to "
            "the hubs (vmagent_hub_delay). If something of it is missing, run this again later"
        ]

    def as_dict(self, time: str) -> dict[str, Any]:
        """Plain data for a file; `time` is when the backfill ended, in ISO 8601. Times in seconds since 1970."""
        return {
            "time": time,
            "passed": not self.problems,
            "check_mode": self.check_mode,
            "summary": self.summary,
            "problems": [asdict(problem) for problem in self.problems],
            "periods": {
                robot.name: {key: robot.plan[key] for key in ("start", "end", "now") if key in robot.plan}
                for robot in self.robots
                if "start" in robot.plan
            },
            "pairs": [asdict(pair) for pair in self.pairs],
        }


def closer_by_hub(own: Result, hubs: Result) -> dict[str, list[tuple[Counts, Counts]]]:
    """The counts of each stretch that was looked at more closely, of the robot and of a hub, by the hub's name."""
    here = [Counts.decode(text) for text in own.get("closer", ())]
    answers = {name: answer.get("closer", ()) for name, answer in _by_hub(hubs)}
    return {name: list(zip(here, map(Counts.decode, texts), strict=False)) for name, texts in answers.items()}


def _by_hub(loop: Result) -> list[tuple[str, Mapping[str, Any]]]:
    """What Ansible registered for a loop over hubs."""
    answers = loop.get("results", ())
    return [(answer["item"]["name"], answer) for answer in answers if not answer.get("skipped")]


def _samples(number: int) -> str:
    return f"{gaps.number(number)} {'sample' if number == 1 else 'samples'}"
