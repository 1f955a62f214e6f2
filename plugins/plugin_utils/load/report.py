"""What load did to the robots: a table, a verdict, and data for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.common.problem import Problem
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.load import run

from ..report.plain import (
    UNKNOWN,
    Line,
    by_name,
    count,
    message,
    percent,
    problem_lines,
    sizes,
    table,
)

COLUMNS = ("ROBOT", "REQUESTS", "PER S", "P50", "P90", "P99", "MAX", "FAILED", "MEM", "PEAK", "CAP", "%", "OOM", "CPU")


@dataclass(frozen=True)
class Robot:
    """One robot, and what Ansible registered for load_test there, if anything."""

    name: str
    result: Mapping[str, Any] | None

    @property
    def figures(self) -> run.Figures | None:
        """What the load showed; None where there was none."""
        return run.Figures.from_dict(self.result["figures"]) if self.result and "figures" in self.result else None

    @property
    def planned(self) -> bool:
        """Whether this is check mode's word for what would be done."""
        return self.result is not None and "planned" in self.result and "figures" not in self.result

    def problems(self) -> list[Problem]:
        """What an operator must act on."""
        name, result, figures = self.name, self.result, self.figures
        if result is None:
            return [Problem(name, "host", "was not tested", f"run the playbook again with --limit {name} -v")]
        if result.get("unreachable"):
            remedy = f"check its power and network, then: ansible -m ping {name}"
            return [Problem(name, "host", f"unreachable: {message(result)}", remedy)]
        if self.planned:
            return []
        if figures is None:
            return [Problem(name, "host", f"was not tested: {message(result)}", "see the message")]
        unit = result["unit"]
        problems = []
        if figures.failed:
            reasons = sorted(figures.failures.items(), key=lambda item: -item[1])
            text = ", ".join(f"{count} x {reason}" for reason, count in reasons)
            what = f"failed {figures.failed} of {figures.requests} requests: {text}"
            problems.append(Problem(name, unit, what, f"on {name}: journalctl -u {unit} -n 50"))
        if not figures.requests:
            remedy = "set load_test_duration or load_test_rate higher"
            problems.append(Problem(name, unit, "was sent no request in all that time", remedy))
        if result["oom_kills"]:
            remedy = (
                f"raise its <role>_memory_max in group_vars, then ansible-playbook playbooks/site.yml --limit {name}"
            )
            problems.append(Problem(name, unit, f"was OOM-killed under load ({result['oom_kills']})", remedy))
        return problems

    def cells(self) -> Sequence[str]:
        """Its row of the table."""
        figures = self.figures
        if figures is None or self.result is None:
            return (self.name, *[UNKNOWN] * (len(COLUMNS) - 1))
        memory, cap = figures.working_set_bytes, figures.limit_bytes
        return (
            self.name,
            str(figures.requests),
            f"{figures.answers_per_second:.0f}",
            *(run.milliseconds(figures.percentile_ms(percent)) for percent in (50, 90, 99, 100)),
            str(figures.failed),
            *sizes(memory, figures.peak_bytes, cap),
            percent(memory, cap),
            str(self.result["oom_kills"]),
            f"{figures.cores:.2f}",
        )


@dataclass(frozen=True)
class Report:
    """The verdict on all robots."""

    robots: Sequence[Robot]

    @classmethod
    def of(cls, results: Mapping[str, Mapping[str, Any] | None]) -> Report:
        """Judge what was registered, by host."""
        return cls([Robot(name, results[name]) for name in sorted(results, key=by_name)])

    @property
    def problems(self) -> list[Problem]:
        return [problem for robot in self.robots for problem in robot.problems()]

    @property
    def summary(self) -> str:
        """The verdict in one line."""
        planned = sum(robot.planned for robot in self.robots)
        if planned:
            return f"nothing was sent: {count(planned, 'robot')} would be loaded" + self._counted_problems()
        tested = [robot.figures for robot in self.robots if robot.figures]
        requests = sum(figures.requests for figures in tested)
        failed = sum(figures.failed for figures in tested)
        where = count(len(tested), "robot")
        return f"{failed} of {requests} requests on {where} failed" + self._counted_problems()

    def _counted_problems(self) -> str:
        return f", {count(len(self.problems), 'problem')}" if self.problems else ""

    def lines(self) -> list[Line]:
        """All of it as text, without the summary."""
        plans = [
            Line(f"{robot.name}: would send {robot.result['planned']}")
            for robot in self.robots
            if robot.planned and robot.result
        ]
        rows = [(robot.cells(), not robot.problems()) for robot in self.robots if not robot.planned]
        return [
            *plans,
            *(table(COLUMNS, rows) if rows else ()),
            Line(""),
            *(line for problem in self.problems for line in problem_lines(problem)),
        ]

    def as_dict(self, time: str) -> dict[str, Any]:
        """Plain data for a file; `time` is when the test ended, in ISO 8601."""
        kept = ("planned", "unit", "oom_kills", "slices", "msg")
        return {
            "time": time,
            "passed": not self.problems,
            "summary": self.summary,
            "problems": [asdict(problem) for problem in self.problems],
            "hosts": {
                robot.name: {
                    **{key: robot.result[key] for key in kept if robot.result and key in robot.result},
                    **(run.summary(robot.figures) if robot.figures else {}),
                }
                for robot in self.robots
            },
        }
