"""The page and the table of a rollout: how it ended, how far it came, and when what happened on which robot.

A summary is plain data; times are seconds of the Unix epoch, and null for what has not begun or not ended:

    release, operator, reason: str      from: list[str]      started, ended: float
    outcome: updated | stopped | paused | pending | running
    budget: {allowed: int, used: int}
    waves: [{number: int, robots: list[str], started, ended,
             outcome: passed | failed | paused | running | waiting,
             gates: [{name, outcome: pass | fail | no_data, detail}]}]
    robots: [{robot, wave: int, from, to, reason,
              state: updated | rolled_back | failed | unreachable | pending | waiting | applying,
              phases: [{time, reason, phase: begun | deployed | healthy | confirmed | rolled_back | failed |
                        unreachable | pending | skipped}]}]
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.common.durations import DAY, HOUR, MINUTE

from ..report import plain
from ..report.document import clock, date, duration, render

# More robots than this are drawn as thin lines, of which only those that failed have a name.
FEW = 40
# Of more gates than this after a wave, those that passed are one mark of the timeline.
FEW_GATES = 4
# So many names of robots that were not touched stand below a wave; the table has all of them.
NAMED = 12

COLUMNS = ("WAVE", "STATE", "ROBOTS", "UPDATED", "ROLLED BACK", "FAILED", "UNREACHABLE", "PENDING", "GATES", "DURATION")
WAVE_JUDGED = {"passed": True, "failed": False}

# States in the order in which they are counted, with their words and signs.
STATES = {
    "updated": ("updated", "✓", "ok"),
    "applying": ("being updated", "▶", ""),
    "rolled_back": ("rolled back", "↩", "bad"),
    "failed": ("failed", "✗", "bad"),
    "unreachable": ("unreachable", "⊘", "bad"),
    "pending": ("pending", "○", "near"),
    "waiting": ("not reached", "·", ""),
}
FAILED_STATES = ("rolled_back", "failed", "unreachable")
OUTCOMES = {
    "updated": ("Updated", "✓", "ok"),
    "stopped": ("Stopped", "✗", "bad"),
    "paused": ("Paused", "‖", "near"),
    "pending": ("Updated, except robots that are pending", "○", "near"),
    "running": ("Running", "▶", ""),
}
# What to do next, where that is always the same.
NEXT = {"paused": "The same command resumes it."}
WAVE_OUTCOMES = {
    "passed": ("passed", "✓", "ok"),
    "failed": ("failed", "✗", "bad"),
    "paused": ("paused", "‖", "near"),
    "running": ("running", "▶", ""),
    "waiting": ("not reached", "·", ""),
}
GATES = {"pass": ("pass", "✓", "ok"), "fail": ("fail", "✗", "bad"), "no_data": ("no data", "?", "near")}

# What a robot is busy with after a phase, until the next; after any other phase it is with nothing.
ACTIVITIES = {
    "begun": "deploying",
    "deployed": "baking",
    "healthy": "judging",
    "failed": "returning",
    "unreachable": "lost",
}
ACTIVITY_WORDS = {
    "deploying": "deploying",
    "baking": "health checks and bake time",
    "judging": "waiting for the gates",
    "returning": "rolling back",
    "lost": "silent",
}
# How the last phase stands in the timeline.
SIGNS = {
    "confirmed": ("✓", "ok"),
    "rolled_back": ("↩", "bad"),
    "failed": ("✗", "bad"),
    "unreachable": ("⊘", "bad"),
}

# A time in which nothing happened is cut out of the timeline if it is this long, and many times all shorter ones.
CUT_FROM_SECONDS = HOUR
CUT_FACTOR = 3
CUT_PERCENT = 5.0

TICKS = 9
TICK_STEPS = (
    *(1, 2, 5, 10, 15, 30),
    *(number * MINUTE for number in (1, 2, 5, 10, 15, 30)),
    *(number * HOUR for number in (1, 2, 3, 6, 12)),
    *(number * DAY for number in (1, 2, 7, 14, 28)),
)


def draw(summary: Mapping[str, Any]) -> str:
    """The page."""
    return render(
        "rollout.html.j2",
        rollout=Rollout(summary),
        STATES=STATES,
        OUTCOMES=OUTCOMES,
        WAVE_OUTCOMES=WAVE_OUTCOMES,
        GATES=GATES,
        NEXT=NEXT,
        SIGNS=SIGNS,
        ACTIVITY_WORDS=ACTIVITY_WORDS,
        NAMED=NAMED,
    )


def lines(summary: Mapping[str, Any]) -> list[plain.Line]:
    """The same for a terminal: a line for each wave, then what went wrong."""
    found = Rollout(summary)
    rows = [(_wave_cells(wave), True) for wave in found.waves]
    heading, *lines = plain.table(COLUMNS, rows)
    judged = [
        replace(line, healthy=WAVE_JUDGED.get(wave.outcome)) for line, wave in zip(lines, found.waves, strict=True)
    ]
    failed = [plain.Line(f"{one.name}: {one.words}", healthy=False) for one in found.failed]
    gates = [
        plain.Line(
            f"wave {wave.number}: gate {gate['name']}: {GATES[gate['outcome']][0]}: {gate['detail']}", healthy=False
        )
        for wave, gate in found.gates_not_passed
    ]
    pending = [plain.Line(f"{one.name}: {one.words}") for one in found.pending]
    below = [*gates, *failed, *pending]
    return [heading, *judged, *([plain.Line(""), *below] if below else ())]


def _wave_cells(wave: Wave) -> tuple[str, ...]:
    counted = ("updated", "rolled_back", "failed", "unreachable", "pending")
    return (
        str(wave.number) if wave.number is not None else plain.UNKNOWN,
        WAVE_OUTCOMES[wave.outcome][0] if wave.number is not None else plain.UNKNOWN,
        str(len(wave.robots)),
        *(str(wave.states[state]) for state in counted),
        wave.gate_words or plain.UNKNOWN,
        plain.UNKNOWN if wave.seconds is None else duration(wave.seconds),
    )


@dataclass(frozen=True)
class Segment:
    """What a robot was busy with; places in percent of the timeline."""

    activity: str
    left: float
    width: float
    text: str


@dataclass(frozen=True)
class Mark:
    """A sign in the timeline."""

    sign: str
    level: str
    left: float
    text: str


@dataclass(frozen=True)
class Robot:
    """One robot of a rollout."""

    found: Mapping[str, Any]
    wave: int | None

    @property
    def name(self) -> str:
        """Its name in the inventory."""
        return str(self.found["robot"])

    @property
    def state(self) -> str:
        """A key of STATES."""
        return str(self.found["state"])

    @property
    def phases(self) -> Sequence[Mapping[str, Any]]:
        """What happened to it and when, in the order of time."""
        timed = [phase for phase in self.found["phases"] if phase.get("time") is not None]
        return sorted(timed, key=lambda phase: phase["time"])

    @property
    def touched(self) -> bool:
        """Whether anything was begun on it."""
        return any(phase["phase"] in ACTIVITIES for phase in self.phases)

    @property
    def seconds(self) -> float | None:
        """From the first thing that happened to it to the last."""
        times = [phase["time"] for phase in self.phases]
        return times[-1] - times[0] if self.touched else None

    @property
    def reasons(self) -> list[str]:
        """Why it is in this state, and what its phases say beyond that."""
        found: list[str] = []
        for one in (self.found, *self.found["phases"]):
            reason = one.get("reason") or ""
            if not any(reason in known for known in ("", *found)):
                found.append(reason)
        return found

    @property
    def words(self) -> str:
        """Its state and why."""
        return ": ".join([STATES[self.state][0], *self.reasons[:1]])


class Wave:
    """Robots that are updated together; `number` is None for those that are in no wave."""

    def __init__(self, found: Mapping[str, Any], robots: Sequence[Robot]) -> None:
        self.number: int | None = found["number"]
        self.outcome: str = found["outcome"]
        self.gates: Sequence[Mapping[str, Any]] = found["gates"]
        self.started: float | None = found.get("started")
        # One that is begun again has still the end of the time before.
        self.ended: float | None = None if self.outcome == "running" else found.get("ended")
        self.robots = robots
        self.states = Counter(robot.state for robot in robots)

    @property
    def seconds(self) -> float | None:
        """How long it took, once it has ended."""
        return None if self.started is None or self.ended is None else self.ended - self.started

    @property
    def passed_gates(self) -> list[Mapping[str, Any]]:
        """Gates that are drawn as one mark."""
        return [gate for gate in self.gates if gate["outcome"] == "pass"] if len(self.gates) > FEW_GATES else []

    @property
    def drawn_gates(self) -> list[Mapping[str, Any]]:
        """Gates that are drawn with a mark each."""
        return [gate for gate in self.gates if gate not in self.passed_gates]

    @property
    def gate_words(self) -> str:
        """How many gates had which outcome."""
        counted = Counter(gate["outcome"] for gate in self.gates)
        return ", ".join(f"{counted[outcome]} {GATES[outcome][0]}" for outcome in GATES if counted[outcome])

    @property
    def touched(self) -> list[Robot]:
        """The robots of the timeline, in the order in which they were begun."""
        begun = [robot for robot in self.robots if robot.touched]
        return sorted(begun, key=lambda robot: robot.phases[0]["time"])

    @property
    def untouched(self) -> list[tuple[str, list[Robot]]]:
        """The others, by their state."""
        others = [robot for robot in self.robots if not robot.touched]
        grouped = [(state, [robot for robot in others if robot.state == state]) for state in STATES]
        return [(state, robots) for state, robots in grouped if robots]


@dataclass(frozen=True)
class Piece:
    """A part of the timeline: from when to when, and from where to where in percent."""

    start: float
    end: float
    left: float
    right: float
    cut: bool


class Axis:
    """The time axis. A long time in which nothing happened, such as a night between two runs, is cut out."""

    def __init__(self, times: Iterable[float]) -> None:
        moments = sorted(set(times))
        gaps = [(one, other) for one, other in pairwise(moments)] or [(moments[0], moments[0] + 1)]
        cuts = _cuts(gaps)
        shown = sum(end - start for start, end in gaps) - sum(end - start for start, end in cuts)
        percent = (100 - CUT_PERCENT * len(cuts)) / shown
        self.pieces: list[Piece] = []
        left = 0.0
        for start, end in gaps:
            is_cut = (start, end) in cuts
            right = left + (CUT_PERCENT if is_cut else (end - start) * percent)
            self.pieces.append(Piece(start, end, left, right, is_cut))
            left = right
        self.seconds = shown

    def at(self, time: float) -> float:
        """Where a time is, in percent. It is between the first and the last."""
        piece = next((piece for piece in self.pieces if time <= piece.end), self.pieces[-1])
        share = (time - piece.start) / (piece.end - piece.start)
        return round(piece.left + (piece.right - piece.left) * share, 3)

    @property
    def cuts(self) -> list[Piece]:
        """The parts that are cut out."""
        return [piece for piece in self.pieces if piece.cut]

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Places and their times; the first of each day says which, if there are several days."""
        step = next((step for step in TICK_STEPS if self.seconds / step <= TICKS), TICK_STEPS[-1])
        first, last = self.pieces[0].start, self.pieces[-1].end
        several_days = date(first) != date(last)
        found: list[tuple[float, str]] = []
        day = ""
        time = -(-first // step) * step
        while time <= last:
            piece = next(piece for piece in self.pieces if time <= piece.end)
            if piece.cut:
                # On to the first tick after it.
                time = max(time + step, -(-piece.end // step) * step)
                continue
            text = clock(time) if step < MINUTE else clock(time)[:5]
            found.append((self.at(time), f"{date(time)} {text}" if several_days and date(time) != day else text))
            day = date(time)
            time += step
        return found


def _cuts(gaps: Sequence[tuple[float, float]]) -> set[tuple[float, float]]:
    shorter = 0.0
    for number, (start, end) in enumerate(ordered := sorted(gaps, key=lambda gap: gap[1] - gap[0])):
        if end - start >= CUT_FROM_SECONDS and end - start > CUT_FACTOR * shorter > 0:
            return set(ordered[number:])
        shorter += end - start
    return set()


class Rollout:
    """All of it, as the template shows it."""

    def __init__(self, summary: Mapping[str, Any]) -> None:
        self.found = summary
        wave_of = {name: wave["number"] for wave in summary["waves"] for name in wave["robots"]}
        self.robots = [Robot(found, wave_of.get(found["robot"])) for found in summary["robots"]]
        self.states = Counter(robot.state for robot in self.robots)
        nowhere: dict[str, Any] = {"number": None, "outcome": "waiting", "gates": []}
        waves = [Wave(wave, [one for one in self.robots if one.wave == wave["number"]]) for wave in summary["waves"]]
        rest = [robot for robot in self.robots if robot.wave is None]
        self.waves = [*waves, Wave(nowhere, rest)] if rest else waves

    @property
    def failed(self) -> list[Robot]:
        """Robots that count against the budget."""
        return [robot for robot in self.robots if robot.state in FAILED_STATES]

    @property
    def gates_not_passed(self) -> list[tuple[Wave, Mapping[str, Any]]]:
        """Gates that failed or had no data, each with the wave before it."""
        return [(wave, gate) for wave in self.waves for gate in wave.gates if gate["outcome"] != "pass"]

    @property
    def pending(self) -> list[Robot]:
        """Robots that a later run of the same release updates."""
        return [robot for robot in self.robots if robot.state == "pending"]

    @property
    def counts(self) -> str:
        """How many robots are in which state."""
        counted = [f"{number} {STATES[state][0]}" for state in STATES if (number := self.states[state])]
        return f"{plain.count(len(self.robots), 'robot')}: {', '.join(counted)}" if counted else "no robots"

    @property
    def passed(self) -> int:
        """How many waves have passed."""
        return sum(wave.outcome == "passed" for wave in self.waves)

    @property
    def thin(self) -> bool:
        """Whether there are too many robots for a line with a name each."""
        return sum(robot.touched for robot in self.robots) > FEW

    @cached_property
    def times(self) -> list[float]:
        """All that is known, in order."""
        given = [self.found.get("started"), self.found.get("ended")]
        given += [time for wave in self.waves for time in (wave.started, wave.ended)]
        given += [phase["time"] for robot in self.robots for phase in robot.phases]
        return sorted(time for time in given if time is not None)

    @property
    def seconds(self) -> float | None:
        """How long it took, or has taken as far as is known."""
        return self.times[-1] - self.times[0] if self.times else None

    @cached_property
    def axis(self) -> Axis:
        """The time axis of all that is known."""
        return Axis(self.times)

    @property
    def ended(self) -> float | None:
        """When it ended."""
        ended: float | None = self.found.get("ended")
        return ended

    def when(self, time: float | None) -> str:
        """A time in a table: that of the day, with the day if there are several."""
        if time is None:
            return plain.UNKNOWN
        several_days = date(self.times[0]) != date(self.times[-1])
        return f"{date(time)} {clock(time)}" if several_days else clock(time)

    def segments(self, robot: Robot) -> list[Segment]:
        """What a robot was busy with, and when."""
        found = []
        starts = [phase["time"] for phase in robot.phases]
        # What it is still busy with goes on to the end.
        last = self.times[-1] if robot.state in ("applying", "unreachable") else starts[-1]
        for phase, (start, end) in zip(robot.phases, pairwise([*starts, last]), strict=True):
            activity = ACTIVITIES.get(phase["phase"])
            if activity is None or start == end:
                continue
            left = self.axis.at(start)
            said = f"{robot.name}: {ACTIVITY_WORDS[activity]} for {duration(end - start)} from {clock(start)}"
            text = f"{said}: {phase['reason']}" if phase.get("reason") else said
            found.append(Segment(activity, left, round(self.axis.at(end) - left, 3), text))
        return found

    def mark(self, robot: Robot) -> Mark | None:
        """How it ended for a robot; None while it goes on."""
        last = robot.phases[-1]
        if last["phase"] not in SIGNS:
            return None
        sign, level = SIGNS[last["phase"]]
        place = self.times[-1] if last["phase"] in ACTIVITIES and robot.state == "unreachable" else last["time"]
        said = f"{robot.name}: {last['phase'].replace('_', ' ')} at {clock(last['time'])}"
        return Mark(sign, level, self.axis.at(place), f"{said}: {last['reason']}" if last.get("reason") else said)

    def gates_at(self, wave: Wave) -> float:
        """Where the gates of a wave are in the timeline: where it ended."""
        return self.axis.at(self.times[-1] if wave.ended is None else wave.ended)
