"""The health of a fleet from the results of its machines: a table, a verdict, and data for programs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any

from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.common.problem import Problem
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.health import holes

from ..report.plain import UNKNOWN, Line, by_name, count, message, percent, problem_lines, sizes, table

# Alerts of this severity are problems, the others are warnings.
CRITICAL, WARNING = "critical", "warning"
# The rule for a robot of which a hub hears nothing.
ROBOT_GONE = "RobotGone"

SERVICE_COLUMNS = (
    "ROBOT",
    "SERVICE",
    "STATE",
    "READY",
    "RESTARTS",
    "MEM",
    "PEAK",
    "CAP",
    "%",
    "OOM",
)
SLICE_COLUMNS = ("ROBOT", "SLICE", "CAPS", "MEM", "PEAK", "BUDGET", "%", "QUEUE", "SAMPLE AGE AT HUB")


@dataclass(frozen=True)
class Machine:
    """One machine that was asked, and what Ansible registered for fleet_health there, if anything."""

    name: str
    is_robot: bool
    result: Mapping[str, Any] | None
    expected_units: Sequence[str] = ()

    @property
    def checked(self) -> bool:
        """Whether its services could be looked at."""
        return self.result is not None and "services" in self.result

    @property
    def services(self) -> Sequence[Mapping[str, Any]]:
        """Its services, as fleet_health describes them."""
        services: Sequence[Mapping[str, Any]] = self.result["services"] if self.result and self.checked else ()
        return services

    @property
    def hubs(self) -> Sequence[Mapping[str, Any]]:
        """The hubs that it writes to, as it sees them."""
        hubs: Sequence[Mapping[str, Any]] = (self.result or {}).get("hubs", ())
        return hubs

    def misses(self, hub: str) -> bool:
        """Whether it says itself why its samples do not get to this hub."""
        return any(known["name"] == hub and not known["accepted"] for known in self.hubs)


@dataclass(frozen=True)
class Report:
    """The verdict on the fleet."""

    machines: Sequence[Machine]
    problems: Sequence[Problem]
    sample_ages: Mapping[str, float | None]
    services_healthy: int
    services_total: int
    # To look at; alone, they are no reason to call a fleet unhealthy.
    warnings: Sequence[Problem] = ()

    @property
    def healthy(self) -> bool:
        """Whether there is nothing to act on."""
        return not self.problems

    @property
    def summary(self) -> str:
        """The verdict in one line."""
        robots = sum(machine.is_robot for machine in self.machines)
        hubs = len(self.machines) - robots
        where = " and ".join(count(number, noun) for number, noun in ((robots, "robot"), (hubs, "hub")) if number)
        counted = f"{self.services_healthy} of {self.services_total} services on {where} healthy"
        found = [count(len(self.problems), "problem")] if self.problems else []
        found += [count(len(self.warnings), "warning")] if self.warnings else []
        return ", ".join([counted, *found])

    def lines(self) -> list[Line]:
        """All of it as text, without the summary."""
        troubled = {(problem.host, problem.service) for problem in self.problems}
        services = [row for machine in self.machines for row in _service_rows(machine, troubled)]
        slices = [
            _slice_row(machine, self.sample_ages.get(machine.name), troubled)
            for machine in self.machines
            if machine.checked
        ]
        return [
            *table(SERVICE_COLUMNS, services),
            Line(""),
            *(table(SLICE_COLUMNS, slices) if slices else ()),
            *((Line(""),) if slices else ()),
            *(line for problem in self.problems for line in problem_lines(problem)),
            *(line for warning in self.warnings for line in problem_lines(warning, healthy=None)),
        ]

    def as_dict(self, time: str) -> dict[str, Any]:
        """Plain data for a file; `time` is when the fleet was asked, in ISO 8601."""
        kept = ("services", "slice", "hub", "hubs", "uptime_seconds", "msg")
        return {
            "time": time,
            "healthy": self.healthy,
            "summary": self.summary,
            "services_healthy": self.services_healthy,
            "services_total": self.services_total,
            "problems": [asdict(problem) for problem in self.problems],
            "warnings": [asdict(warning) for warning in self.warnings],
            "sample_age_seconds": dict(self.sample_ages),
            "hosts": {
                machine.name: {
                    "robot": machine.is_robot,
                    **{key: machine.result[key] for key in kept if machine.result and key in machine.result},
                }
                for machine in self.machines
            },
        }


def build(machines: Sequence[Machine], max_sample_age_seconds: float, now: float | None = None) -> Report:
    """Judge a fleet. Every hub among the machines must have a fresh sample of every robot among them.

    `now` is in seconds since 1970.
    """
    machines = sorted(machines, key=lambda machine: (not machine.is_robot, by_name(machine.name)))
    ages: dict[str, float | None] = {}
    problems = [problem for machine in machines for problem in _own_problems(machine)]
    for hub, seen in _hubs(machines):
        for machine in machines:
            if not machine.is_robot:
                continue
            age = seen.get(machine.name)
            # Of several hubs the one that lags most counts; never seen lags more than any age.
            known = ages.get(machine.name, 0.0)
            ages[machine.name] = None if age is None or known is None else max(age, known)
            # What a robot in a dead zone says of itself is the cause, and the age of its samples the consequence.
            if (age is None or age > max_sample_age_seconds) and not machine.misses(hub):
                problems.append(_stale(machine.name, hub, age, max_sample_age_seconds))
    newest = (datetime.now(timezone.utc).timestamp() if now is None else now) - max_sample_age_seconds
    problems += _holes(machines, newest)
    fires = _alerts(machines, max_sample_age_seconds)
    problems += [problem for severity, problem in fires if severity == CRITICAL]
    warnings = [problem for severity, problem in fires if severity != CRITICAL]
    troubled = {(problem.host, problem.service) for problem in problems}
    present = [(machine.name, service["unit"]) for machine in machines for service in machine.services]
    wanted = {(machine.name, unit) for machine in machines for unit in machine.expected_units}
    return Report(
        machines=machines,
        problems=problems,
        sample_ages=ages,
        services_healthy=sum(item not in troubled for item in present),
        services_total=len(wanted | set(present)),
        warnings=[*warnings, *_unasked(machines)],
    )


def _own_problems(machine: Machine) -> list[Problem]:
    """What a machine says of itself, or that it says nothing."""
    name, result = machine.name, machine.result
    if result is None:
        return [Problem(name, "host", "was not checked", f"run the playbook again with --limit {name} -v")]
    if result.get("unreachable"):
        remedy = f"check its power and network, then: ansible -m ping {name}"
        return [Problem(name, "host", f"unreachable: {message(result)}", remedy)]
    if not machine.checked:
        return [Problem(name, "host", f"cannot be checked: {message(result)}", "see the message")]
    problems = [Problem(name, item["service"], item["what"], item["remedy"]) for item in result["problems"]]
    if not machine.services and not problems:
        remedy = f"ansible-playbook playbooks/site.yml --limit {name}"
        problems.append(Problem(name, "host", "has no services", remedy))
    return problems


def _hubs(machines: Iterable[Machine]) -> list[tuple[str, Mapping[str, float]]]:
    """The hubs that answered, each with the ages of the samples it has."""
    answers = [(machine.name, (machine.result or {}).get("hub") or {}) for machine in machines]
    return [(name, answer["newest_sample_age_seconds"]) for name, answer in answers if "error" not in answer and answer]


def _holes(machines: Sequence[Machine], newest: float) -> list[Problem]:
    """What a hub lacks of the robots' samples before `newest`. It costs nobody a question: each said what it has."""
    found = []
    for hub in machines:
        there = (hub.result or {}).get("minutes", {})
        for robot in machines if not hub.is_robot and "robots" in there else ():
            here = (robot.result or {}).get("minutes", {})
            writes_there = any(known["name"] == hub.name for known in robot.hubs)
            hole = holes.compare(robot.name, here, there, newest) if writes_there and "robots" in here else None
            if hole:
                first = datetime.fromtimestamp(hole.first, timezone.utc).strftime("%H:%M UTC")
                what = (
                    f"on {hub.name} lacks {hole.seconds / 60:.1f} min of what {robot.name} measured in the last hours, "
                    f"from {first} on; {robot.name} has them"
                )
                remedy = f"ansible-playbook playbooks/backfill.yml --limit {robot.name}"
                found.append(Problem(robot.name, "history", what, remedy))
    return found


def _alerts(machines: Sequence[Machine], max_sample_age_seconds: float) -> list[tuple[str, Problem]]:
    """What fires on the hubs about these machines, with its severity; what several hubs say alike is said once."""
    names = {machine.name for machine in machines}
    ages = dict(_hubs(machines))
    hubs: dict[tuple[str, str, str, str, str], list[str]] = {}
    for machine in machines:
        for alert in (machine.result or {}).get("alerts", {}).get("firing", ()):
            about = alert["robot"] or machine.name
            if about not in names:
                continue
            severity, action = alert["severity"], alert["action"]
            age = ages.get(machine.name, {}).get(about)
            # The rules see samples later than this look does.
            if alert["name"] == ROBOT_GONE and age is not None and age <= max_sample_age_seconds:
                severity, action = (
                    WARNING,
                    f"nothing: its newest sample is {age:.0f} s old, so this ends within a minute",
                )
            key = (about, severity, alert["name"], alert["summary"], action)
            hubs.setdefault(key, []).append(machine.name)
    return [
        (severity, Problem(about, "alert", f"{name} fires on {', '.join(sorted(seen))}: {summary}", action))
        for (about, severity, name, summary, action), seen in hubs.items()
    ]


def _unasked(machines: Sequence[Machine]) -> list[Problem]:
    """Hubs that did not say what fires and what they lack; what is wrong there is a problem of its own."""
    found = []
    for machine in machines:
        if machine.is_robot:
            continue
        said = machine.result or {}
        for name, what in (("alerts", "what fires there"), ("minutes", "what it lacks of the robots")):
            answer = said.get(name, {"error": "it was not checked"} if not machine.checked else {})
            if "error" in answer:
                remedy = f"ansible-playbook playbooks/health.yml --limit {machine.name}, once it answers"
                found.append(Problem(machine.name, "hub", f"does not say {what}: {answer['error']}", remedy))
    known = {hub["name"] for machine in machines for hub in machine.hubs}
    absent = sorted(known - {machine.name for machine in machines})
    if absent:
        names = ", ".join(absent)
        what = f"{'was' if len(absent) == 1 else 'were'} not asked what fires and what is missing there of these robots"
        found.append(Problem(names, "hub", what, f"name {names.replace(' ', '')} in --limit, too"))
    return found


def _stale(robot: str, hub: str, age: float | None, limit: float) -> Problem:
    what = f"has no sample on {hub} in the last day" if age is None else f"newest sample on {hub} is {age:.0f} s old"
    allowed = "" if age is None else f" (health_max_sample_age_seconds is {limit:g})"
    remedy = f"on {robot}: journalctl -u roverwatch-vmagent -n 50 shows why remote write to {hub} fails"
    return Problem(robot, "roverwatch-vmagent", f"{what}{allowed}", remedy)


def _service_rows(machine: Machine, troubled: set[tuple[str, str]]) -> list[tuple[Sequence[str], bool]]:
    if not machine.checked:
        state = "unreachable" if machine.result and machine.result.get("unreachable") else "not checked"
        return [((machine.name, UNKNOWN, state, *[UNKNOWN] * (len(SERVICE_COLUMNS) - 3)), False)]
    rows: list[tuple[Sequence[str], bool]] = [
        (_service_cells(machine.name, service), (machine.name, service["unit"]) not in troubled)
        for service in machine.services
    ]
    present = {service["unit"] for service in machine.services}
    rows += [
        ((machine.name, unit, "missing", *[UNKNOWN] * (len(SERVICE_COLUMNS) - 3)), False)
        for unit in machine.expected_units
        if unit not in present
    ]
    return rows


def _service_cells(host: str, service: Mapping[str, Any]) -> tuple[str, ...]:
    memory = service["memory"] or {}
    return (
        host,
        service["unit"],
        service["state"],
        f"{service['ready_ms']:.0f} ms" if service["ready"] else "no",
        str(service["restarts"]),
        *sizes(memory.get("working_set_bytes"), memory.get("peak_bytes"), memory.get("limit_bytes")),
        percent(memory.get("working_set_bytes"), memory.get("limit_bytes")),
        str(service["oom_kills_total"]),
    )


def _slice_row(machine: Machine, age: float | None, troubled: set[tuple[str, str]]) -> tuple[Sequence[str], bool]:
    assert machine.result is not None
    slice_ = machine.result["slice"]
    memory = slice_["memory"] or {}
    cells = (
        machine.name,
        slice_["unit"],
        *sizes(
            slice_["caps_total_bytes"],
            memory.get("working_set_bytes"),
            memory.get("peak_bytes"),
            memory.get("limit_bytes"),
        ),
        percent(memory.get("working_set_bytes"), memory.get("limit_bytes")),
        *sizes(_queued(machine)),
        UNKNOWN if age is None else f"{age:.0f} s",
    )
    return cells, (machine.name, slice_["unit"]) not in troubled


def _queued(machine: Machine) -> int | None:
    """Bytes that wait on a robot for its hubs; None if it has none, or did not say."""
    pending = [hub["pending_bytes"] for hub in machine.hubs if hub["pending_bytes"] is not None]
    return sum(pending) if pending else None
