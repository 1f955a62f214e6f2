"""The page of a fleet's health: what is wrong and what to do, then every machine."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ..report.document import render

# As the dashboards judge the same figure.
NEARLY_FULL_PERCENT, FULL_PERCENT = 80, 95

# Up to this many machines show all of their services at once.
FEW = 12

# The commands in a remedy, apart from the words around them.
_COMMAND = re.compile(
    r"(ansible-playbook playbooks/\w+\.yml(?: -\S+ \S*[^\s;,.])*"
    r"|ansible -m ping \S+"
    r"|journalctl(?: -\w \S+)+"
    r"|systemctl (?:revert|restart) \S+"
    r"|systemctl status(?: roverwatch\S*[^\s;,.])+)"
)


def draw(found: Mapping[str, Any]) -> str:
    """The page, from what `report.Report.as_dict` gives: the content of reports/health.json."""
    return render("health.html.j2", fleet=Fleet(found), few=FEW, parts_of=parts_of)


@dataclass(frozen=True)
class Bar:
    """Memory of a service or slice against its limit; sizes in bytes."""

    used: int
    peak: int | None
    limit: int | None

    @property
    def percent(self) -> float | None:
        """How much of the limit is used; None where the kernel has none."""
        return 100 * self.used / self.limit if self.limit else None

    @property
    def peak_percent(self) -> float | None:
        """The same of the highest usage so far, which counts the file cache, too."""
        return None if self.peak is None or not self.limit else min(100.0, 100 * self.peak / self.limit)

    @property
    def level(self) -> str:
        """`ok`, `near` to the limit, or `full`."""
        percent = self.percent or 0
        return "full" if percent >= FULL_PERCENT else "near" if percent >= NEARLY_FULL_PERCENT else "ok"

    @classmethod
    def of(cls, memory: Mapping[str, Any] | None) -> Bar | None:
        """None for a service that does not run."""
        if memory is None:
            return None
        return cls(memory["working_set_bytes"], memory["peak_bytes"], memory["limit_bytes"])


@dataclass(frozen=True)
class Service:
    """One service, as fleet_health describes it, and whether there is something to act on."""

    found: Mapping[str, Any]
    well: bool

    @property
    def name(self) -> str:
        """Its unit without what all of them have in common."""
        return str(self.found["unit"]).removeprefix("roverwatch-")

    @property
    def bar(self) -> Bar | None:
        """Its memory."""
        return Bar.of(self.found["memory"])

    @property
    def state(self) -> str:
        """What systemd and its readiness URL say, in words."""
        if self.found["state"] != "active":
            return f"{self.found['state']}/{self.found['sub_state']}"
        return f"ready in {self.found['ready_ms']:.0f} ms" if self.found["ready"] else "not ready"


@dataclass(frozen=True)
class Machine:
    """One machine and what there is to act on; `anchor` is the id of its place in the page."""

    anchor: str
    name: str
    is_robot: bool
    found: Mapping[str, Any]
    problems: Sequence[Mapping[str, Any]]
    sample_age: float | None
    has_sample_age: bool

    @property
    def checked(self) -> bool:
        """Whether its services could be looked at."""
        return "services" in self.found

    @property
    def state(self) -> str:
        """`well`, `wrong`, or `silent`."""
        return "silent" if not self.checked else "wrong" if self.problems else "well"

    @property
    def services(self) -> list[Service]:
        """Its services, with what is known of each."""
        troubled = {problem["service"] for problem in self.problems}
        return [Service(found, found["unit"] not in troubled) for found in self.found.get("services", ())]

    @property
    def slice_bar(self) -> Bar | None:
        """Memory of all services together."""
        return Bar.of(self.found["slice"]["memory"])

    @property
    def hubs(self) -> Sequence[Mapping[str, Any]]:
        """The hubs that it writes to, as it sees them."""
        hubs: Sequence[Mapping[str, Any]] = self.found.get("hubs", ())
        return hubs

    @property
    def queued(self) -> int | None:
        """Bytes that wait for its hubs; None if it has none, or did not say."""
        pending = [hub["pending_bytes"] for hub in self.hubs if hub["pending_bytes"] is not None]
        return sum(pending) if pending else None

    @property
    def heard_of(self) -> Mapping[str, int] | None:
        """Of a hub that answered, the robots that it has samples of, with how many of their targets are up."""
        answer = self.found.get("hub")
        if not answer or "error" in answer:
            return None
        return {robot: answer["targets_up"].get(robot, 0) for robot in answer["newest_sample_age_seconds"]}

    def total(self, key: str) -> int:
        """The sum of a figure of its services."""
        return sum(service.found[key] for service in self.services)

    @property
    def certificate_days(self) -> float | None:
        """Of its certificates, the days of the one that expires first."""
        days = [service.found["certificate_days_left"] for service in self.services]
        return min((one for one in days if one is not None), default=None)


@dataclass(frozen=True)
class Extreme:
    """The machine that stands out in something."""

    value: float
    machine: Machine
    what: str = ""


class Fleet:
    """All of it, as the template shows it."""

    def __init__(self, found: Mapping[str, Any]) -> None:
        self.found = found
        self.asked = datetime.fromisoformat(found["time"])
        ages = found["sample_age_seconds"]
        self.machines = [
            Machine(
                anchor=f"machine-{number}",
                name=name,
                is_robot=host["robot"],
                found=host,
                problems=[problem for problem in found["problems"] if problem["host"] == name],
                sample_age=ages.get(name),
                has_sample_age=name in ages,
            )
            for number, (name, host) in enumerate(found["hosts"].items(), 1)
        ]
        self.robots = [machine for machine in self.machines if machine.is_robot]
        self.hubs = [machine for machine in self.machines if not machine.is_robot]

    @property
    def troubled(self) -> list[Machine]:
        """Machines with something to act on."""
        return [machine for machine in self.machines if machine.problems]

    @property
    def fullest(self) -> Extreme | None:
        """The service that is closest to its cap."""
        return _highest(
            Extreme(service.bar.percent, machine, service.name)
            for machine in self.machines
            for service in machine.services
            if service.bar and service.bar.percent is not None
        )

    @property
    def queued(self) -> Extreme | None:
        """The robot with most that waits for its hubs."""
        return _highest(Extreme(one.queued, one) for one in self.robots if one.queued is not None)

    @property
    def queued_total(self) -> int:
        """Bytes that wait on all robots."""
        return sum(robot.queued or 0 for robot in self.robots)

    @property
    def stalest(self) -> Extreme | None:
        """The robot whose newest sample at a hub is oldest, of those that hubs have heard of."""
        return _highest(Extreme(one.sample_age, one) for one in self.robots if one.sample_age is not None)

    @property
    def unheard(self) -> list[Machine]:
        """Robots that a hub has no sample of."""
        return [one for one in self.robots if one.has_sample_age and one.sample_age is None]

    @property
    def first_certificate(self) -> Extreme | None:
        """The machine whose certificate expires first."""
        days = (Extreme(-one.certificate_days, one) for one in self.machines if one.certificate_days is not None)
        first = _highest(days)
        return Extreme(-first.value, first.machine) if first else None

    def total(self, key: str) -> int:
        """The sum of a figure of all services."""
        return sum(machine.total(key) for machine in self.machines)

    @property
    def versions(self) -> list[tuple[str, list[tuple[str, list[Machine]]]]]:
        """Per service its versions, the one on most machines first, each with the machines that have it."""
        where: dict[str, dict[str, list[Machine]]] = {}
        for machine in self.machines:
            for service in machine.services:
                where.setdefault(service.name, {}).setdefault(service.found["version"], []).append(machine)
        return [(name, sorted(found.items(), key=lambda item: -len(item[1]))) for name, found in sorted(where.items())]

    @property
    def troubled_services(self) -> list[tuple[str, int]]:
        """What the problems are about, and how many there are of each, the most first."""
        return Counter(problem["service"] for problem in self.found["problems"]).most_common()


def parts_of(remedy: str) -> list[tuple[str, bool]]:
    """A remedy cut into words and commands; true for a command."""
    return [(part, bool(number % 2)) for number, part in enumerate(_COMMAND.split(remedy)) if part]


def _highest(candidates: Iterable[Extreme]) -> Extreme | None:
    return max(candidates, key=lambda one: one.value, default=None)
