"""Judge updated robots by what a hub's VictoriaMetrics has of them, beside the robots that are not updated yet.

A gate is a query with one value for each robot, and limits. Three outcomes: `pass`, `fail`, and `no_data` where nobody
can tell. What is missing is no reason to go on, and none to take an update back.
"""

from __future__ import annotations

import json
import math
import re
import statistics
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..common import durations, sizes
from ..query import probe, promql

PASS, FAIL, NO_DATA = "pass", "fail", "no_data"
WORST_FIRST = (FAIL, NO_DATA, PASS)

UNITS = ("", "ratio", "bytes", "seconds")
# VictoriaMetrics refuses a query of more than 16 KiB (-search.maxQueryLen). Names have up to 63 characters, and
# a query may name the robots several times.
ROBOTS_PER_QUERY = 50
PAUSE_SECONDS = 2.0

# The start of a QueryError's text where VictoriaMetrics answers, but not such a query.
_REFUSED = ("HTTP 400", "HTTP 422")
_BEFORE_REASON = re.compile(r".* for \(time=\d+, step=\d+\): ", re.DOTALL)
_PLACEHOLDER = re.compile(r"\$(window|robots)\b")
_PLAIN = re.compile(r"[\w-]")


class GateError(Exception):
    """A gate is defined wrongly; the text names it and says what to write instead."""


@dataclass(frozen=True)
class Gate:
    """What is asked of each robot, and what it may answer. `max` and `min` are in base units; one of them is set."""

    name: str
    query: str
    max: float | None = None
    min: float | None = None
    unit: str = ""
    tolerance: float = 1.5
    when_common: str = PASS

    @property
    def allowed(self) -> str:
        """The limits as a person says them."""
        limits = []
        if self.max is not None:
            limits.append("at most " + self.tell(self.max))
        if self.min is not None:
            limits.append("at least " + self.tell(self.min))
        return " and ".join(limits)

    def tell(self, value: float) -> str:
        """A value in its unit."""
        if math.isinf(value):
            return "infinitely much" if value > 0 else "infinitely little"
        if self.unit == "bytes" and value >= 0:
            return sizes.from_bytes(value)
        if self.unit == "ratio":
            return "{} %".format(_number(100 * value))
        if self.unit == "seconds":
            return durations.from_seconds(value) if value >= 2 * durations.MINUTE else "{} s".format(_number(value))
        return _number(value)

    def excess(self, value: float) -> float:
        """How far beyond a limit a value is, in the unit; 0 for what is allowed."""
        above = 0.0 if self.max is None else value - self.max
        below = 0.0 if self.min is None else self.min - value
        return max(above, below, 0.0)

    def is_common(self, value: float, median: float) -> bool:
        """Whether the robots that are not updated are beyond the same limit, and nearly as far."""
        if self.max is not None and value > self.max:
            return median > self.max and value <= self.tolerance * median
        return self.min is not None and median < self.min and self.tolerance * value >= median


@dataclass(frozen=True)
class Verdict:
    """What a gate says. `values` are those of the updated robots, `baseline` is the median of the others."""

    name: str
    outcome: str
    detail: str
    values: Mapping[str, float | None]
    baseline: float | None = None

    def as_result(self) -> dict[str, Any]:
        """In JSON, which has no infinity: the largest number stands for it."""
        return {
            "name": self.name,
            "outcome": self.outcome,
            "detail": self.detail,
            "values": {robot: _finite(value) for robot, value in self.values.items()},
            "baseline": _finite(self.baseline),
        }


@dataclass(frozen=True)
class Request:
    """What to ask, of whom, and where."""

    url: str
    gates: Sequence[Gate]
    updated: Sequence[str]
    baseline: Sequence[str]
    window_seconds: int
    timeout_seconds: float = 5.0
    settle_seconds: float = 0.0


# --- definitions


def read_gates(definitions: Iterable[object]) -> list[Gate]:
    """The gates that an operator defined. Raises GateError."""
    gates: list[Gate] = []
    for number, definition in enumerate(definitions, 1):
        gate = _read_gate(number, definition)
        if any(gate.name == other.name for other in gates):
            raise GateError(f"gate {number}: another one is named {gate.name}, too; give each a name of its own")
        gates.append(gate)
    return gates


def _read_gate(number: int, definition: object) -> Gate:
    if not isinstance(definition, Mapping) or not str(definition.get("name") or "").strip():
        raise GateError(f"gate {number} has no name: write name, query, and max or min")
    given = {key: value for key, value in definition.items() if value is not None}
    name = str(given["name"])
    known = list(Gate.__dataclass_fields__)
    unknown = [str(key) for key in given if key not in known]
    if unknown:
        raise GateError(f"gate {name} has no option {', '.join(unknown)}; its options are {', '.join(known)}")
    if not str(given.get("query") or "").strip():
        raise GateError(f"gate {name} has no query: write one with one value for each robot, such as up by (robot)")
    if "max" not in given and "min" not in given:
        raise GateError(f"gate {name} has no limit: write max, min or both")
    gate = Gate(
        name=name,
        query=str(given["query"]),
        max=_limit(name, given, "max"),
        min=_limit(name, given, "min"),
        unit=_choice(name, given, "unit", UNITS, ""),
        tolerance=_read_number(name, "tolerance", given.get("tolerance", 1.5)),
        when_common=_choice(name, given, "when_common", (PASS, NO_DATA), PASS),
    )
    if gate.max is not None and gate.min is not None and gate.min > gate.max:
        raise GateError(f"gate {name}: min {gate.min:g} is above max {gate.max:g}, which no value can meet")
    if gate.tolerance < 1:
        raise GateError(f"gate {name}: tolerance is {gate.tolerance:g}; write 1 or more, 1.5 is half as much again")
    return gate


def _limit(name: str, given: Mapping[str, Any], key: str) -> float | None:
    return _read_number(name, key, given[key]) if key in given else None


def _read_number(name: str, key: str, value: object) -> float:
    try:
        number = float(str(value))  # by its text, in which true is no number
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise GateError(f"gate {name}: {key} is {value!r}; write a number in base units, such as 0.05 for 5 %")
    return number


def _choice(name: str, given: Mapping[str, Any], key: str, choices: Sequence[str], default: str) -> str:
    value = str(given.get(key, default))
    if value not in choices:
        allowed = ", ".join(filter(None, choices))
        raise GateError(f"gate {name}: {key} is {value!r}; write one of {allowed}")
    return value


# --- asking


def evaluate(
    request: Request,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """The outcome of all gates, as the module returns it.

    Asks again for `settle_seconds` while there is no data, or none that is fresh of an updated robot. Raises GateError.
    """
    started = clock()
    while True:
        # The window begins where it began: it gets longer by what was waited.
        window_seconds = request.window_seconds + int(clock() - started)
        asked = [(gate, *_ask(request, gate, window_seconds)) for gate in request.gates]
        verdicts = [verdict for _, verdict, _ in asked]
        outcome = worst(verdict.outcome for verdict in verdicts)
        able = judgeable(((gate, values) for gate, _, values in asked), [*request.updated, *request.baseline])
        settled = outcome != NO_DATA and set(request.updated) <= set(able)
        if settled or clock() - started + PAUSE_SECONDS > request.settle_seconds:
            return {
                "outcome": outcome,
                "reason": _reason(verdicts, outcome),
                "gates": [verdict.as_result() for verdict in verdicts],
                "judgeable": able,
            }
        sleep(PAUSE_SECONDS)


def substitute(query: str, robots: Iterable[str], window_seconds: int) -> str:
    """A query with its placeholders filled in."""
    filled = {"window": f"{window_seconds}s", "robots": "|".join(map(_escape, robots))}
    return _PLACEHOLDER.sub(lambda found: filled[found[1]], query)


def _escape(name: str) -> str:
    """A name for a regular expression within either kind of quotes: what is special by its number."""
    return "".join(char if _PLAIN.fullmatch(char) else rf"\\x{{{ord(char):x}}}" for char in name)


def _ask(request: Request, gate: Gate, window_seconds: int) -> tuple[Verdict, Mapping[str, float] | None]:
    """What a gate says, and the values of all robots; None where VictoriaMetrics does not answer."""
    robots = [*request.updated, *request.baseline]
    values: dict[str, float] = {}
    try:
        for first in range(0, len(robots), ROBOTS_PER_QUERY):
            some = robots[first : first + ROBOTS_PER_QUERY]
            expression = substitute(gate.query, some, window_seconds)
            values.update(_by_robot(gate, promql.query(request.url, expression, request.timeout_seconds)))
    except promql.QueryError as error:
        if str(error).startswith(_REFUSED):
            why = _why_refused(request, expression) or str(error)
            raise GateError(f"gate {gate.name}: VictoriaMetrics refuses the query {gate.query}: {why}") from error
        detail = f"{request.url} does not answer: {error}"
        return Verdict(gate.name, NO_DATA, detail, dict.fromkeys(request.updated)), None
    return judge(gate, values, request.updated, request.baseline), values


def _why_refused(request: Request, expression: str) -> str:
    """The reason alone: in an answer it stands behind the query, where a QueryError is cut off."""
    arguments = urllib.parse.urlencode({"query": expression})
    _, body = probe.http_get(f"{request.url.rstrip('/')}/api/v1/query?{arguments}", request.timeout_seconds)
    try:
        return _BEFORE_REASON.sub("", json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return ""


def _by_robot(gate: Gate, samples: Iterable[promql.Sample]) -> dict[str, float]:
    values: dict[str, float] = {}
    for sample in samples:
        robot = sample.labels.get("robot")
        if robot is None:
            raise GateError(
                f"gate {gate.name}: the query has a value without the label robot; "
                'select with {robot=~"$robots"} and aggregate with by (robot)'
            )
        if robot in values:
            raise GateError(f"gate {gate.name}: the query has several values for {robot}; aggregate with by (robot)")
        values[robot] = sample.value
    return values


# --- judging


def worst(outcomes: Iterable[str]) -> str:
    """The one that decides: `fail`, else `no_data`, else `pass`."""
    return min(outcomes, key=WORST_FIRST.index, default=PASS)


def judgeable(asked: Iterable[tuple[Gate, Mapping[str, float] | None]], robots: Sequence[str]) -> list[str]:
    """The robots that can be judged: of none if there is no answer, and of those within the limits of each gate whose
    `when_common` is `no_data`, without which the other gates say nothing.
    """
    found = list(robots)
    for gate, values in asked:
        if values is None:
            return []
        if gate.when_common == NO_DATA:
            found = [r for r in found if r in values and not math.isnan(values[r]) and gate.excess(values[r]) == 0]
    return found


def judge(gate: Gate, values: Mapping[str, float], updated: Sequence[str], baseline: Sequence[str]) -> Verdict:
    """What a gate says of the updated robots. `values` may lack robots; NaN is no value.

    Without updated robots, whether it could say anything of the others.
    """
    known = {robot: value for robot, value in values.items() if not math.isnan(value)}
    compared = [known[robot] for robot in baseline if robot in known]
    median = statistics.median(compared) if compared else None
    found = {robot: known.get(robot) for robot in updated}

    def verdict(outcome: str, detail: str) -> Verdict:
        return Verdict(gate.name, outcome, detail, found, median)

    if not updated:
        return verdict(*_judge_nobody(gate, median))
    beside = _beside(gate, median, baseline)
    there = {robot: value for robot, value in found.items() if value is not None}
    beyond = {robot: value for robot, value in there.items() if gate.excess(value) > 0}
    failing = {r: v for r, v in beyond.items() if median is None or not gate.is_common(v, median)}
    missing = [robot for robot in updated if robot not in there]

    if failing:
        return verdict(FAIL, f"{_worst_of(gate, failing)}, allowed is {gate.allowed}; {beside}")
    if missing:
        return verdict(NO_DATA, f"no value for {missing[0]}{_more(len(missing) - 1)}")
    if beyond:
        cause = "not the update's doing" if gate.when_common == PASS else "nobody can tell what the update did"
        text = f"{_worst_of(gate, beyond)}, allowed is {gate.allowed}; so have the others, {cause}: {beside}"
        return verdict(gate.when_common, text)
    return verdict(PASS, f"{_worst_of(gate, there)}, allowed is {gate.allowed}; {beside}")


def _judge_nobody(gate: Gate, median: float | None) -> tuple[str, str]:
    if median is None:
        return NO_DATA, "no value for any robot"
    text = f"nothing is updated yet; median of the robots: {gate.tell(median)}, allowed is {gate.allowed}"
    return (gate.when_common if gate.excess(median) > 0 else PASS), text


def _worst_of(gate: Gate, values: Mapping[str, float]) -> str:
    """The robot that is farthest beyond a limit, or nearest to it."""

    def badness(robot: str) -> tuple[float, float]:
        return gate.excess(values[robot]), values[robot] if gate.max is not None else -values[robot]

    robot = max(values, key=badness)
    return f"{robot}{_more(sum(gate.excess(v) > 0 for v in values.values()) - 1)} has {gate.tell(values[robot])}"


def _more(count: int) -> str:
    return f" (and {count} more)" if count > 0 else ""


def _beside(gate: Gate, median: float | None, baseline: Sequence[str]) -> str:
    if median is not None:
        return f"median of those not updated yet: {gate.tell(median)}"
    return "no value of those not updated yet" if baseline else "no robot is left to compare with"


def _reason(verdicts: Iterable[Verdict], outcome: str) -> str:
    """Why it did not pass; empty if it did."""
    if outcome == PASS:
        return ""
    return next(f"{verdict.name}: {verdict.detail}" for verdict in verdicts if verdict.outcome == outcome)


def _number(value: float) -> str:
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return text if abs(value) >= 0.01 or value == 0 else f"{value:.2g}"


def _finite(value: float | None) -> float | None:
    return value if value is None else max(-sys.float_info.max, min(value, sys.float_info.max))
