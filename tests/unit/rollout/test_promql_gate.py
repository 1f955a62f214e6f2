"""Gates of an update: what is judged, what is asked, and the fleet's own gates at a real VictoriaMetrics."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import binaries
import loopback
import pytest
import yaml
from ansible.module_utils.testing import patch_module_args
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.backfill import remote_write
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.rollout import promql_gate
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.rollout.promql_gate import (
    FAIL,
    NO_DATA,
    PASS,
    Gate,
    GateError,
    Request,
)

ROOT = Path(__file__).resolve().parents[3]
MODULE = ROOT / "plugins" / "modules" / "promql_gate.py"
# One follows from the delay of samples; as it is by default.
DEFAULTS = [
    gate | ({"max": 60} if gate["name"] == "sample age" else {})
    for gate in yaml.safe_load((ROOT / "group_vars" / "all" / "gates.yml").read_text())["rollout_gates"]
]

ERRORS = Gate("errors", "q", max=0.05, unit="ratio")
UP = Gate("up", "q", min=0.9, unit="ratio")
AGE = Gate("age", "q", max=30, unit="seconds", when_common=NO_DATA)


# --- judging


@pytest.mark.parametrize(
    ("gate", "values", "outcome", "detail"),
    [
        (
            ERRORS,
            {"new": 0.02, "old-1": 0.01, "old-2": 0.03},
            PASS,
            "new has 2 %, allowed is at most 5 %; median of those not updated yet: 2 %",
        ),
        (ERRORS, {"new": 0.05, "old-1": 0.0}, PASS, "new has 5 %, allowed is at most 5 %"),
        (
            ERRORS,
            {"new": 0.48, "old-1": 0.0, "old-2": 0.0},
            FAIL,
            "new has 48 %, allowed is at most 5 %; median of those not updated yet: 0 %",
        ),
        (ERRORS, {"new": 0.0501}, FAIL, "new has 5.01 %, allowed is at most 5 %; no value of those not updated yet"),
        (ERRORS, {"new": math.inf, "old-1": 0.1}, FAIL, "new has infinitely much, allowed"),
        (ERRORS, {"new": -math.inf}, PASS, "new has infinitely little, allowed"),
        (ERRORS, {"new": math.nan, "old-1": 0.0}, NO_DATA, "no value for new"),
        (ERRORS, {"old-1": 0.0}, NO_DATA, "no value for new"),
        (ERRORS, {}, NO_DATA, "no value for new"),
        (UP, {"new": 0.75, "old-1": 1.0}, FAIL, "new has 75 %, allowed is at least 90 %"),
        (UP, {"new": 0.9, "old-1": 1.0}, PASS, "new has 90 %, allowed is at least 90 %"),
        (
            Gate("range", "q", min=10, max=20),
            {"new": 9.0},
            FAIL,
            "new has 9, allowed is at most 20 and at least 10",
        ),
        (Gate("range", "q", min=10, max=20), {"new": 21.0}, FAIL, "new has 21"),
        (Gate("range", "q", min=10, max=20), {"new": 20.0}, PASS, "new has 20"),
        (Gate("size", "q", max=1 << 20, unit="bytes"), {"new": 3.0 * (1 << 19)}, FAIL, "new has 1.5M, allowed"),
        (Gate("days", "q", max=60, unit="seconds"), {"new": 7200.0}, FAIL, "new has 2 hours, allowed is at most 60 s"),
        (Gate("small", "q", max=0.001), {"new": 0.0012}, FAIL, "new has 0.0012, allowed is at most 0.001"),
    ],
)  # fmt: skip
def test_a_robot_is_judged_by_its_value(gate, values, outcome, detail):
    found = promql_gate.judge(gate, values, ["new"], ["old-1", "old-2"])
    assert (found.outcome, found.name) == (outcome, gate.name)
    assert found.detail.startswith(detail)
    value = values.get("new", math.nan)
    assert found.values == {"new": None if math.isnan(value) else value}


@pytest.mark.parametrize(
    ("gate", "new", "others", "outcome"),
    [
        (ERRORS, 0.15, [0.10], PASS),  # 1.5 times the median
        (ERRORS, 0.151, [0.10], FAIL),
        (ERRORS, 0.06, [0.05], FAIL),  # the others are within the limit
        (ERRORS, 0.06, [0.06, 0.0, 0.0], FAIL),
        (ERRORS, 0.06, [0.06, 0.07, 0.0], PASS),
        (ERRORS, 0.06, [math.nan, 0.07], PASS),
        (ERRORS, math.inf, [math.inf], PASS),
        (ERRORS, 0.06, [math.inf], PASS),
        (ERRORS, 0.06, [], FAIL),
        (UP, 0.5, [0.75], PASS),
        (UP, 0.49, [0.75], FAIL),
        (UP, 0.8, [0.9], FAIL),
        (UP, 0.0, [0.0], PASS),
        (AGE, 60.0, [50.0], NO_DATA),
        (AGE, 80.0, [50.0], FAIL),
        (Gate("wide", "q", max=0.05, tolerance=3), 0.3, [0.1], PASS),
        (Gate("strict", "q", max=0.05, tolerance=1), 0.11, [0.1], FAIL),
        (Gate("range", "q", min=10, max=20), 9.0, [25.0], FAIL),  # beyond the other limit
        (Gate("range", "q", min=10, max=20), 21.0, [5.0], FAIL),
    ],
)
def test_what_the_others_have_nearly_as_much_is_not_the_updates_doing(gate, new, others, outcome):
    old = [f"old-{number}" for number in range(len(others))]
    found = promql_gate.judge(gate, {"new": new, **dict(zip(old, others, strict=True))}, ["new"], old)
    assert found.outcome == outcome


def test_details_say_what_all_have_in_common():
    excused = promql_gate.judge(ERRORS, {"new": 0.1, "old": 0.08}, ["new"], ["old"])
    assert excused.detail == (
        "new has 10 %, allowed is at most 5 %; so have the others, not the update's doing: "
        "median of those not updated yet: 8 %"
    )
    unclear = promql_gate.judge(AGE, {"new": 45.0, "old": 40.0}, ["new"], ["old"])
    assert "nobody can tell what the update did: median of those not updated yet: 40 s" in unclear.detail


def test_the_worst_robot_is_named_and_the_others_are_counted():
    values = {"a": 0.06, "b": 0.5, "c": 0.0, "d": 0.07}
    found = promql_gate.judge(ERRORS, values, ["a", "b", "c", "d"], [])
    assert found.detail == "b (and 2 more) has 50 %, allowed is at most 5 %; no robot is left to compare with"
    assert found.values == values
    assert promql_gate.judge(UP, {"a": 0.95, "b": 1.0}, ["a", "b"], []).detail.startswith("a has 95 %")
    assert promql_gate.judge(UP, {}, ["a", "b"], []).detail == "no value for a (and 1 more)"


def test_a_failing_robot_fails_the_gate_whatever_the_others_lack():
    assert promql_gate.judge(ERRORS, {"a": 0.5}, ["a", "b"], []).outcome == FAIL
    assert promql_gate.judge(ERRORS, {"a": 0.0}, ["a", "b"], []).outcome == NO_DATA
    # One excused, one without a value: nobody can tell.
    assert promql_gate.judge(ERRORS, {"a": 0.1, "old": 0.1}, ["a", "b"], ["old"]).outcome == NO_DATA


@pytest.mark.parametrize(
    ("gate", "values", "outcome"),
    [
        (ERRORS, {"a": 0.0}, PASS),
        (ERRORS, {"a": 0.5, "b": 0.5}, PASS),  # the fleet has errors anyway
        (ERRORS, {"a": math.nan}, NO_DATA),
        (ERRORS, {}, NO_DATA),
        (AGE, {"a": 500.0, "b": 500.0}, NO_DATA),
        (AGE, {"a": 5.0, "b": 5.0}, PASS),
    ],
)
def test_before_an_update_it_says_whether_one_could_be_judged(gate, values, outcome):
    assert promql_gate.judge(gate, values, [], ["a", "b"]).outcome == outcome


@pytest.mark.parametrize(
    ("outcomes", "outcome"),
    [
        ([], PASS),
        ([PASS, PASS], PASS),
        ([PASS, NO_DATA], NO_DATA),
        ([NO_DATA, FAIL, PASS], FAIL),
    ],
)
def test_the_worst_gate_decides(outcomes, outcome):
    assert promql_gate.worst(outcomes) == outcome


def test_results_are_json_everywhere():
    found = promql_gate.judge(ERRORS, {"a": math.inf, "old": math.inf}, ["a", "b"], ["old"]).as_result()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["values"] == {"a": sys.float_info.max, "b": None}
    assert found["baseline"] == sys.float_info.max
    lowest = promql_gate.judge(ERRORS, {"a": -math.inf}, ["a"], []).as_result()
    assert lowest["values"] == {"a": -sys.float_info.max}


# --- definitions


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        ("up", "gate 1 has no name: write name, query, and max or min"),
        ({"query": "up", "max": 1}, "gate 1 has no name: write name, query, and max or min"),
        ({"name": " ", "query": "up", "max": 1}, "gate 1 has no name"),
        ({"name": "g", "max": 1}, "gate g has no query: write one with one value for each robot"),
        ({"name": "g", "query": "up"}, "gate g has no limit: write max, min or both"),
        ({"name": "g", "query": "up", "max": None}, "gate g has no limit"),
        ({"name": "g", "query": "up", "max": "5%"}, "gate g: max is '5%'; write a number in base units"),
        ({"name": "g", "query": "up", "min": True}, "gate g: min is True; write a number"),
        ({"name": "g", "query": "up", "max": "nan"}, "gate g: max is 'nan'; write a number"),
        ({"name": "g", "query": "up", "max": 1, "min": 2}, "gate g: min 2 is above max 1, which no value can meet"),
        ({"name": "g", "query": "up", "max": 1, "tolerance": 0.5}, "gate g: tolerance is 0.5; write 1 or more"),
        (
            {"name": "g", "query": "up", "max": 1, "unit": "percent"},
            "'percent'; write one of ratio, bytes, seconds",
        ),
        ({"name": "g", "query": "up", "max": 1, "when_common": "fail"}, "'fail'; write one of pass, no_data"),
        ({"name": "g", "query": "up", "maximum": 1}, "gate g has no option maximum; its options are name, query, max"),
    ],
)
def test_a_wrong_definition_is_refused_by_name_with_its_remedy(definition, message):
    with pytest.raises(GateError) as refused:
        promql_gate.read_gates([definition])
    assert message in str(refused.value)


def test_two_gates_of_one_name_are_refused():
    gate = {"name": "g", "query": "up", "max": 1}
    with pytest.raises(GateError, match="gate 2: another one is named g, too"):
        promql_gate.read_gates([gate, gate])


def test_a_definition_may_be_short_or_say_everything():
    assert promql_gate.read_gates([{"name": "g", "query": "up", "max": "0.5", "min": None}]) == [Gate("g", "up", 0.5)]
    full = {"name": "g", "query": "up", "max": 2, "min": 1, "unit": "bytes", "tolerance": 2, "when_common": "no_data"}
    assert promql_gate.read_gates([full]) == [Gate("g", "up", 2, 1, "bytes", 2, "no_data")]


# --- asking


def test_a_query_gets_the_window_and_the_robots():
    query = 'label_replace(sum by (robot) (rate(m{robot=~"$robots"}[$window])), "$windows", "$1")'
    assert promql_gate.substitute(query, ["robot-1", "a.b"], 45) == (
        r'label_replace(sum by (robot) (rate(m{robot=~"robot-1|a\\x{2e}b"}[45s])), "$windows", "$1")'
    )


class Hub:
    """Answers queries with what it is told, an answer after the other; the last one stays."""

    def __init__(self, *answers: dict[str, str] | tuple[int, str]) -> None:
        self.answers = list(answers)
        self.queries: list[str] = []

    def __call__(self, path: str) -> loopback.Answer:
        self.queries += urllib.parse.parse_qs(urllib.parse.urlsplit(path).query)["query"]
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, tuple):
            return answer[0], answer[1].encode()
        result = [{"metric": {"robot": robot}, "value": [0, value]} for robot, value in answer.items()]
        return 200, json.dumps({"data": {"result": result}}).encode()


def asked(
    hub: Callable[[str], loopback.Answer],
    gates: list[Gate] | None = None,
    updated: tuple[str, ...] = ("new",),
    baseline: tuple[str, ...] = ("old",),
    **more: Any,
) -> dict[str, Any]:
    with loopback.served(hub) as url:
        request = Request(url, gates or [ERRORS], updated, baseline, more.pop("window_seconds", 60), 5.0, **more)
        waited = [0.0]
        return promql_gate.evaluate(request, lambda: waited[0], lambda pause: waited.append(waited.pop() + pause))


def test_all_gates_are_asked_and_the_first_that_decides_is_the_reason():
    hub = Hub({"new": "0", "old": "0"}, {"old": "0"}, {"new": "+Inf", "old": "0"}, {"new": "7", "old": "0"})
    gates = [Gate(name, f"{name} $window", max=1) for name in ("a", "b", "c", "d")]
    found = asked(hub, gates)
    assert hub.queries == ["a 60s", "b 60s", "c 60s", "d 60s"]
    assert [gate["outcome"] for gate in found["gates"]] == [PASS, NO_DATA, FAIL, FAIL]
    assert found["outcome"] == FAIL
    assert found["reason"] == "c: new has infinitely much, allowed is at most 1; median of those not updated yet: 0"


def test_a_pass_has_no_reason():
    assert asked(Hub({"new": "0.01", "old": "0"})) == {
        "outcome": PASS,
        "reason": "",
        "gates": [
            {
                "name": "errors",
                "outcome": PASS,
                "detail": "new has 1 %, allowed is at most 5 %; median of those not updated yet: 0 %",
                "values": {"new": 0.01},
                "baseline": 0.0,
            }
        ],
        "judgeable": ["new", "old"],
    }


FRESH = Gate("sample age", "age", max=30, unit="seconds", when_common=NO_DATA)


@pytest.mark.parametrize(
    ("ages", "able"),
    [
        ({"new": "5", "old": "5"}, ["new", "old"]),
        ({"new": "77", "old": "5"}, ["old"]),
        ({"old": "5"}, ["old"]),
        ({"new": "NaN", "old": "5"}, ["old"]),
        ({"new": "77", "old": "99"}, []),
    ],
)
def test_a_robot_without_fresh_samples_cannot_be_judged(ages: dict[str, str], able: list[str]):
    assert asked(Hub(ages), [FRESH])["judgeable"] == able
    assert asked(Hub(ages), [Gate("anything else", "x", max=30)])["judgeable"] == ["new", "old"]


def test_nobody_can_be_judged_by_a_hub_that_does_not_answer():
    assert asked(Hub((503, "starting")), [Gate("anything", "x", max=30)])["judgeable"] == []


def test_a_robot_that_catches_up_is_waited_for():
    hub = Hub({"new": "77", "old": "5"}, {"new": "77", "old": "5"}, {"new": "4", "old": "5"})
    found = asked(hub, [FRESH], settle_seconds=30.0)
    assert (found["outcome"], found["judgeable"], len(hub.queries)) == (PASS, ["new", "old"], 3)


def test_no_gates_pass():
    request = Request("http://127.0.0.1:9", [], ["new"], [], 60)
    assert promql_gate.evaluate(request) == {"outcome": PASS, "reason": "", "gates": [], "judgeable": ["new"]}


def test_robots_that_nobody_asked_for_are_left_out():
    found = asked(Hub({"new": "0", "old": "0", "stranger": "1"}))
    assert (found["outcome"], found["gates"][0]["values"]) == (PASS, {"new": 0})


def test_many_robots_are_asked_for_in_parts():
    robots = tuple(f"robot-{number}" for number in range(120))
    hub = Hub(dict.fromkeys(robots, "0"))
    found = asked(hub, [Gate("g", "$robots", max=0)], robots[:70], robots[70:])
    assert [query.count("|") + 1 for query in hub.queries] == [50, 50, 20]
    assert "|".join(hub.queries).split("|") == list(robots)
    assert (found["outcome"], len(found["gates"][0]["values"])) == (PASS, 70)


@pytest.mark.parametrize(
    "answer",
    [(503, "busy"), (500, ""), (401, "who are you"), (404, "HTTP 422"), (200, "<html>"), (200, '{"data": {}}')],
    ids=str,
)
def test_what_is_no_answer_is_no_data(answer):
    found = asked(Hub(answer))
    assert found["outcome"] == NO_DATA
    assert found["reason"].startswith("errors: http://127.0.0.1:")
    assert found["gates"][0]["values"] == {"new": None}


def test_a_closed_port_and_silence_are_no_data(silent_url):
    closed = f"http://127.0.0.1:{binaries.free_port()}"
    found = promql_gate.evaluate(Request(closed, [ERRORS], ["new"], [], 60))
    assert (found["outcome"], found["reason"]) == (
        NO_DATA,
        f"errors: {closed} does not answer: [Errno 111] Connection refused",
    )
    silent = promql_gate.evaluate(Request(silent_url, [ERRORS], ["new"], [], 60, timeout_seconds=0.1))
    assert (silent["outcome"], "timed out" in silent["reason"]) == (NO_DATA, True)


@pytest.mark.parametrize("status", [400, 422])
def test_a_query_that_is_refused_is_an_error_of_the_gate(status):
    with pytest.raises(GateError, match=f"gate errors: VictoriaMetrics refuses the query q: HTTP {status}: nonsense"):
        asked(Hub((status, "nonsense")))


def test_a_value_without_a_robot_and_two_for_one_are_errors_of_the_gate():
    def answer(*robots: dict[str, str]) -> loopback.Answer:
        result = [{"metric": labels, "value": [0, "1"]} for labels in robots]
        return 200, json.dumps({"data": {"result": result}}).encode()

    with pytest.raises(GateError, match="gate errors: the query has a value without the label robot; select with"):
        asked(lambda _: answer({"hub": "hub-1"}))
    with pytest.raises(GateError, match="several values for new; aggregate with by"):
        asked(lambda _: answer({"robot": "new", "job": "a"}, {"robot": "new", "job": "b"}))


def test_it_asks_again_until_there_is_data_and_the_window_keeps_its_beginning():
    hub = Hub({}, {}, {"new": "0.01"})
    found = asked(hub, [Gate("g", "[$window]", max=1)], window_seconds=20, settle_seconds=30)
    assert hub.queries == ["[20s]", "[22s]", "[24s]"]
    assert found["outcome"] == PASS


@pytest.mark.parametrize(("settle", "asks"), [(0, 1), (1, 1), (2, 2), (5, 3)])
def test_it_asks_no_longer_than_it_may(settle, asks):
    hub = Hub({})
    assert asked(hub, settle_seconds=settle)["outcome"] == NO_DATA
    assert len(hub.queries) == asks


def test_a_failure_is_not_asked_again():
    hub = Hub({"new": "1"})
    assert asked(hub, settle_seconds=30)["outcome"] == FAIL
    assert len(hub.queries) == 1


# --- the module


@pytest.fixture
def call(capsys: Any, monkeypatch: Any) -> Callable[..., dict[str, Any]]:
    spec = importlib.util.spec_from_file_location("promql_gate_module", MODULE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    # The collection's, which is another than what is imported here.
    monkeypatch.setattr(module.promql_gate, "PAUSE_SECONDS", 0.01)

    def run(check_mode: bool = False, **arguments: Any) -> dict[str, Any]:
        with patch_module_args({"_ansible_check_mode": check_mode, **arguments}), pytest.raises(SystemExit):
            module.main()
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    return run


@pytest.mark.parametrize("check_mode", [False, True])
def test_the_module_judges_and_changes_nothing(call, check_mode):
    gate = {"name": "g", "query": "q", "max": 1}
    with loopback.served(Hub({"new": "2", "old": "0"})) as url:
        found = call(check_mode, url=url, gates=[gate], updated=["new"], baseline=["old"], window_seconds=60)
    assert (found["outcome"], found["changed"], found.get("failed", False)) == (FAIL, False, False)
    assert found["gates"][0]["values"] == {"new": 2.0}


def test_the_module_waits_for_samples_that_are_late(call):
    gate = {"name": "g", "query": "q", "max": 1}
    with loopback.served(Hub({}, {}, {"new": "0"})) as url:
        found = call(url=url, gates=[gate], updated=["new"], window_seconds=60, settle_seconds=60)
    assert found["outcome"] == PASS


def test_the_module_fails_where_it_is_told_nonsense(call):
    found = call(gates=[{"name": "g", "query": "up"}], updated=["new"], window_seconds=60)
    assert found["failed"]
    assert found["msg"] == "gate g has no limit: write max, min or both"
    found = call(gates=[], updated=["new"], window_seconds=0)
    assert found["msg"] == "window_seconds is 0; write 1 or more"


def test_the_modules_documentation_has_every_option_of_a_gate():
    documentation = MODULE.read_text().split('"""')[3]
    options = yaml.safe_load(documentation)["options"]["gates"]["suboptions"]
    fields = Gate.__dataclass_fields__
    assert set(options) == set(fields)
    for name, option in options.items():
        if "default" in option:
            assert option["default"] == fields[name].default
    assert tuple(options["unit"]["choices"]) == promql_gate.UNITS[1:]


# --- a real VictoriaMetrics

SERVICES = ("sensor", "node-exporter", "vmagent", "victoriametrics")
# Samples go on into the future, so that it does not matter when a query is asked.
AROUND = 1500

Series = dict[str, tuple[dict[str, str], Callable[[int], float]]]


class Robot:
    """What a robot's series are; `step` is its scrape interval. A well one, unless told otherwise."""

    def __init__(self, name: str, step: int, now: int) -> None:
        self.name, self.step, self.now = name, step, now
        self.ends = dict.fromkeys(SERVICES, now + AROUND)
        self.series: Series = {}
        self.markers: list[tuple[dict[str, str], list[int]]] = []
        for service in SERVICES:
            self.has("up", lambda _: 1, job=service)
            self.has("process_start_time_seconds", lambda _: now - 400, job=service)
        for code, per_scrape in (("200", 3), ("404", 1)):
            self.has("sensor_requests_total", self.counter(per_scrape), path="/sensor", code=code)
        for source in ("cgroup", "simulated"):
            self.has("sensor_loop_iterations_total", self.counter(step), source=source)
            self.has("sensor_failed_total", lambda _: 3, source=source)
        for unit in ("roverwatch-sensor", "roverwatch-vmagent"):
            self.has("container_memory_working_set_bytes", lambda _: 40e6, name=unit)
            self.has("container_spec_memory_limit_bytes", lambda _: 80e6, name=unit)

    def counter(self, per_scrape: float, start: float = 0) -> Callable[[int], float]:
        return lambda timestamp: start + (timestamp - self.now + AROUND) / self.step * per_scrape

    def has(self, metric: str, value: Callable[[int], float], job: str = "sensor", **labels: str) -> None:
        key = json.dumps([metric, job, labels])
        self.series[key] = ({"__name__": metric, "job": job, "robot": self.name, **labels}, value)

    def forgets(self, service: str, at: int) -> None:
        """As vmagent does: the series ends with a marker."""
        self.ends[service] = at
        self.markers.append(({"__name__": "up", "job": service, "robot": self.name}, [1000 * at]))

    def lines(self) -> Iterator[str]:
        for labels, value in self.series.values():
            times = range(self.now - AROUND, self.ends[labels["job"]], self.step)
            values = [value(timestamp) for timestamp in times]
            yield json.dumps(
                {"metric": labels, "values": values, "timestamps": [1000 * timestamp for timestamp in times]}
            )


def errors_of_a_source(robot: Robot) -> None:
    robot.has("sensor_failed_total", robot.counter(robot.step / 2), source="simulated")


def errors_of_requests(robot: Robot) -> None:
    robot.has("sensor_requests_total", robot.counter(1), path="/sensor", code="500")


def late_source(robot: Robot) -> None:
    robot.has("sensor_requests_total", robot.counter(1), path="/readyz", code="503")


def silent(robot: Robot) -> None:
    robot.ends = dict.fromkeys(SERVICES, robot.now - 600)


def service_down(robot: Robot) -> None:
    robot.has("up", lambda _: 0, job="sensor")


def one_of_two_down(robot: Robot) -> None:
    robot.has("up", lambda _: 0, job="sensor", instance="127.0.0.1:8001")


def service_forgotten(robot: Robot) -> None:
    robot.forgets("node-exporter", robot.now - 600)


def service_forgotten_just_now(robot: Robot) -> None:
    robot.forgets("vmagent", robot.now - 5)


def memory_at_cap(robot: Robot) -> None:
    """Now and then, as of a service that leaks, is killed, and starts again."""
    robot.has(
        "container_memory_working_set_bytes",
        lambda at: 79e6 if (at - robot.now) // robot.step % 3 == 0 else 30e6,
        name="roverwatch-sensor",
    )


def memory_without_cap(robot: Robot) -> None:
    robot.has("container_memory_working_set_bytes", lambda _: 40e6, name="stranger")
    robot.has("container_spec_memory_limit_bytes", lambda _: 0, name="stranger")


def no_memory(robot: Robot) -> None:
    robot.series = {key: series for key, series in robot.series.items() if "container_memory" not in key}


def killed(robot: Robot) -> None:
    path = "/var/lib/roverwatch/textfile/roverwatch-sensor.oom.prom"
    robot.has("node_textfile_mtime_seconds", lambda timestamp: timestamp - 3, job="node-exporter", file=path)


def killed_long_ago(robot: Robot) -> None:
    path = "/var/lib/roverwatch/textfile/roverwatch-sensor.oom.prom"
    robot.has("node_textfile_mtime_seconds", lambda _: robot.now - 400, job="node-exporter", file=path)


def other_text_file(robot: Robot) -> None:
    path = "/var/lib/roverwatch/textfile/roverwatch-release.prom"
    robot.has("node_textfile_mtime_seconds", lambda timestamp: timestamp - 3, job="node-exporter", file=path)


def restarting(robot: Robot) -> None:
    robot.has("process_start_time_seconds", lambda timestamp: timestamp - 3, job="vmagent")


def restarted_sensor(robot: Robot) -> None:
    """Counters that begin again, as after the update's own restart, and a label that changed."""
    for source in ("cgroup", "simulated"):
        robot.has("sensor_loop_iterations_total", robot.counter(robot.step, start=1e6), source=source)
        robot.has("sensor_failed_total", lambda _: 50, source=source, site="new")
        robot.has("sensor_loop_iterations_total", robot.counter(robot.step, start=1e6), source=source, site="new")


def one_failure(robot: Robot) -> None:
    """A slow source, of which one sample in any of the windows is a large share."""
    robot.has("sensor_loop_iterations_total", robot.counter(robot.step / 60), source="slow")
    robot.has("sensor_failed_total", lambda at: (at - robot.now + 10) // 350, source="slow")


def well(_: Robot) -> None:
    pass


# Scrape interval and bake: the lab's, and those of a fleet, short and by default.
WINDOWS = [(5, 20), (15, 60), (15, 300)]
STEPS = (5, 15)

CASES: dict[Callable[[Robot], None], tuple[str, str]] = {
    well: (PASS, ""),
    errors_of_a_source: (FAIL, "source failures: {} has 50 %, allowed is at most 5 %"),
    errors_of_requests: (FAIL, "request errors: {} has 2"),  # 1 in 5, more or less with what is in the window
    late_source: (PASS, ""),
    service_down: (FAIL, "services up: {} has 75 %, allowed is at least 90 %"),
    one_of_two_down: (FAIL, "services up: {} has 75 %, allowed is at least 90 %"),
    service_forgotten_just_now: (FAIL, "services up: {} has 75 %, allowed is at least 90 %"),
    service_forgotten: (FAIL, "services up: {} has 75 %, allowed is at least 90 %"),
    silent: (FAIL, "sample age: {} has 10"),  # minutes
    memory_at_cap: (FAIL, "memory against cap: {} has 98.75 %, allowed is at most 95 %"),
    memory_without_cap: (PASS, ""),
    no_memory: (NO_DATA, "memory against cap: no value for {}"),
    killed: (FAIL, "OOM kills: {} has 1, allowed is at most 0"),
    killed_long_ago: (PASS, ""),
    other_text_file: (PASS, ""),
    restarting: (FAIL, "restarts: {} has 1, allowed is at most 0"),
    restarted_sensor: (PASS, ""),
    one_failure: (PASS, ""),
}


def name_of(case: Callable[[Robot], None], step: int) -> str:
    return f"{case.__name__}.{step}s"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: Any) -> Iterator[str]:
    """A hub's VictoriaMetrics with a robot of each case and scrape interval, others that are well, and odd names."""
    with binaries.victoriametrics(tmp_path_factory.mktemp("hub")) as url:
        now = int(time.time())
        lines, markers = [], []
        for step in STEPS:
            fleet = [(name_of(case, step), case) for case in CASES]
            fleet += [(f"old-{number}.{step}s", well) for number in range(3)]
            fleet += [(f"silent-{number}.{step}s", silent) for number in range(3)]
            for name, happens in fleet:
                robot = Robot(name, step, now)
                happens(robot)
                lines += list(robot.lines())
                markers += robot.markers
        for number, name in enumerate(ODD_NAMES):
            labels = {"__name__": "odd", "robot": name}
            lines.append(json.dumps({"metric": labels, "values": [number], "timestamps": [1000 * now]}))
        post(f"{url}/api/v1/import", "\n".join(lines).encode())
        post(f"{url}/api/v1/write", remote_write.stale_markers(markers), remote_write.HEADERS)
        post(f"{url}/internal/force_flush")
        yield url


def post(url: str, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
    urllib.request.urlopen(urllib.request.Request(url, body, headers or {}), timeout=60).close()


def look(url: str, updated: list[str], baseline: list[str], window_seconds: int, **more: Any) -> dict[str, Any]:
    gates = promql_gate.read_gates(DEFAULTS)
    return promql_gate.evaluate(Request(url, gates, updated, baseline, window_seconds, timeout_seconds=60, **more))


@pytest.mark.parametrize(("step", "window"), WINDOWS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_the_default_gates_at_a_hub(hub, case, step, window):
    outcome, reason = CASES[case]
    robot = name_of(case, step)
    found = look(hub, [robot], [f"old-{number}.{step}s" for number in range(3)], window)
    assert found["outcome"] == outcome, found
    assert found["reason"].startswith(reason.format(robot)), found
    if outcome == PASS:
        assert len(found["gates"]) == len(DEFAULTS)


def test_only_the_gate_that_it_is_about_fails(hub):
    baseline = [f"old-{number}.15s" for number in range(3)]
    for case, (outcome, reason) in CASES.items():
        if case is silent or outcome != FAIL:
            continue
        found = look(hub, [name_of(case, 15)], baseline, 60)
        assert [gate["name"] for gate in found["gates"] if gate["outcome"] == FAIL] == [reason.partition(":")[0]]


@pytest.mark.parametrize("step", STEPS)
def test_a_fleet_that_is_silent_pauses_and_one_silent_robot_stops(hub, step):
    everybody = [f"silent-{number}.{step}s" for number in range(3)]
    found = look(hub, everybody[:1], everybody[1:], 4 * step)
    assert found["outcome"] == NO_DATA
    assert "nobody can tell what the update did" in found["reason"]
    assert {gate["outcome"] for gate in found["gates"]} == {NO_DATA}
    # Without anybody to compare with, a silent robot is silent by itself.
    assert look(hub, everybody[:1], [], 4 * step)["outcome"] == FAIL


@pytest.mark.parametrize("step", STEPS)
def test_what_the_whole_fleet_has_does_not_stop_an_update(hub, step):
    sick = name_of(errors_of_a_source, step)
    found = look(hub, [sick], [sick], 4 * step)
    assert found["outcome"] == PASS
    assert "not the update's doing" in next(g["detail"] for g in found["gates"] if g["name"] == "source failures")


def test_before_an_update_the_hub_can_judge_a_fleet_that_sends_and_no_other(hub):
    assert look(hub, [], ["old-0.5s", "old-1.5s", "silent-0.5s"], 20)["outcome"] == PASS
    assert look(hub, [], ["silent-0.5s", "silent-1.5s"], 20)["outcome"] == NO_DATA
    assert look(hub, [], ["never-seen"], 20)["outcome"] == NO_DATA


def test_a_robot_that_nobody_knows_pauses(hub):
    found = look(hub, ["never-seen"], ["old-0.5s"], 20)
    assert (found["outcome"], found["reason"]) == (NO_DATA, "sample age: no value for never-seen")


ODD_NAMES = ["a.b", "a+b", 'a"b', "a'b", "a\\b", "a|b", "a$b", "a`b", "ä-b", "a b", "a\nb", "(a", "a{1}"]


@pytest.mark.parametrize("query", ['odd{robot=~"$robots"}', "odd{robot=~'$robots'}"])
def test_odd_names_are_asked_for_as_they_are(hub, query):
    for number, name in enumerate(ODD_NAMES):
        gate = Gate("g", query, max=number, min=number)
        found = promql_gate.evaluate(Request(hub, [gate], [name, "axb"], [], 1, 60.0))
        assert found["gates"][0]["values"] == {name: number, "axb": None}


def test_a_fleet_with_long_names_fits_into_its_queries(hub):
    robots = [f"robot-{number:03}".ljust(63, "x") for number in range(400)]
    assert look(hub, robots[:200], robots[200:], 20)["outcome"] == NO_DATA


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("sum by (robot) (up", "unexpected token"),
        ("unheard_of(" + "up + " * 100 + "up)", 'unsupported function "unheard_of"'),
    ],
)
def test_a_hub_says_why_it_refuses_a_query(hub, query, reason):
    with pytest.raises(GateError) as refused:
        promql_gate.evaluate(Request(hub, [Gate("g", query, max=1)], ["a"], [], 60, 60.0))
    message = str(refused.value)
    assert message.startswith(f"gate g: VictoriaMetrics refuses the query {query}: ")
    assert reason in message
    assert "step=" not in message


def test_default_gates_ask_for_the_robots_in_question_alone():
    for gate in promql_gate.read_gates(DEFAULTS):
        # Each selector on its own, or VictoriaMetrics computes the whole fleet.
        assert gate.query.count("{") == gate.query.count('robot=~"$robots"}') > 0, gate.name
