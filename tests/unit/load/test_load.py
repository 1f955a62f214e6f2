"""Load on a service: what may be asked for, what the generator prints, what the kernel says meanwhile, the verdict."""

from __future__ import annotations

import json
import os
import random
import subprocess
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import loopback
import pytest
import yaml
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.artifact.store import Store
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.health.options import Paths
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.load import run as load
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.service import records
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.system import systemd
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.load import report as load_report
from specs import typed

TOP = Path(__file__).parents[3]
MIB = 2**20
CONTAINER = "c0ffee" * 10 + "cafe"


def figures(**changes: Any) -> load.Figures:
    seen = load.Figures(
        seconds=5.0,
        statuses=Counter({"200": 4}),
        latencies=Counter({10: 1, 20: 2, 95: 1}),
        working_set_bytes=24 * MIB,
        peak_bytes=25 * MIB,
        limit_bytes=80 * MIB,
        cpu_seconds=2.5,
    )
    for name, value in changes.items():
        setattr(seen, name, value)
    return seen


# --- what is asked for


def plan(variables: dict[str, object]) -> load.Plan:
    return load.plan(typed(["load_test"], variables))


def test_without_variables_there_is_a_plan() -> None:
    assert plan({}) == load.Plan(50, 0, 30, "/metrics", "", "roverwatch-sensor")
    assert plan({}).path == load.OWN_PATH
    assert plan({}).describe("http://h/m") == "GET http://h/m over 50 connections, as fast as it can, for 30 s"


def test_variables_come_as_text_or_numbers() -> None:
    asked = plan(
        {
            "load_test_connections": "10",
            "load_test_rate": 200,
            "load_test_duration": "2m",
            "load_test_path": "/sensor?limit=5",
            "load_test_unit": "roverwatch-sensor-2",
        }
    )
    assert asked == load.Plan(10, 200, 120, "/sensor?limit=5", "", "roverwatch-sensor-2")
    assert asked.describe("u") == "GET u over 10 connections, at 200 requests a second, for 120 s"


@pytest.mark.parametrize(
    ("variable", "value", "remedy"),
    [
        ("connections", 0, "give a whole number from 1 to 500"),
        ("connections", 501, "give a whole number from 1 to 500"),
        ("connections", True, "give a whole number from 1 to 500"),
        ("rate", -1, "give a whole number from 0 to 100000"),
        ("duration", "0s", "give a time from 1s to 1h"),
        ("duration", "2h", "give a time from 1s to 1h"),
        ("duration", "30 s", "give a time from 1s to 1h"),
        ("path", "metrics", "give a path that starts with /"),
        ("path", "/a b", "give a path that starts with /"),
        ("url", "127.0.0.1:8000/metrics", "give a whole URL"),
        ("url", "file:///etc/passwd", "give a whole URL"),
        ("unit", "a b", "give the name of a deployed service"),
    ],
)
def test_a_value_that_is_not_allowed(variable: str, value: object, remedy: str) -> None:
    with pytest.raises(load.LoadError) as failure:
        plan({f"load_test_{variable}": value})
    assert str(failure.value).startswith(f"load_test_{variable} is {value!r}: {remedy}")


def test_everything_wrong_is_said_at_once() -> None:
    with pytest.raises(load.LoadError) as failure:
        plan({"load_test_connections": 0, "load_test_url": "nowhere"})
    assert str(failure.value).startswith("load_test_connections is 0: ")
    assert "; load_test_url is 'nowhere': " in str(failure.value)


def test_a_url_and_a_path_contradict_each_other() -> None:
    with pytest.raises(load.LoadError, match="load_test_url and load_test_path are both set"):
        plan({"load_test_url": "http://127.0.0.1:9100/metrics", "load_test_path": "/sensor"})


def test_each_connection_sends_at_least_once_a_second() -> None:
    with pytest.raises(load.LoadError, match=r"load_test_rate is 10 .* set load_test_connections to 10 or less"):
        plan({"load_test_rate": 10})
    assert plan({"load_test_rate": 10, "load_test_connections": 10}).rate == 10


# --- the generator


def test_the_generator_is_outside_of_the_slice_under_a_cap() -> None:
    line = load.command("/opt/hey", "http://u/", 5.0, 50, 200)
    scope, hey = line[: line.index("/opt/hey")], line[line.index("/opt/hey") :]
    assert scope[:2] == ["systemd-run", "--scope"]
    assert "--property=MemoryMax=64M" in scope
    assert "--property=RuntimeMaxSec=25" in scope
    assert not any("slice" in word for word in scope)
    assert hey[1:9] == ["-z", "5s", "-c", "50", "-t", "10", "-q", "4"]
    assert hey[-1] == "http://u/"


def test_as_fast_as_it_can_is_without_a_rate() -> None:
    assert "-q" not in load.command("hey", "http://u/", 4.3, 50, 0)
    assert "4.3s" in load.command("hey", "http://u/", 4.3, 50, 0)


def hey() -> Path:
    """The load generator as the artifact store has it."""
    pinned = yaml.safe_load((TOP / "group_vars/all/artifacts.yml").read_text())
    (version,) = [each["version"] for each in pinned["artifacts_binaries"] if each["bundle"] == "hey"]
    store = Store(TOP / "artifacts")
    entries = [entry for entry in store.entries() if (entry.name, entry.requested) == ("hey", version)]
    mine = [entry for entry in entries if entry.arch == os.uname().machine]
    if not mine:
        pytest.skip("hey is not in the artifact store: make artifacts")
    return store.path(mine[-1])


def print_of_hey(url: str, rate: int = 50) -> str:
    line = load.command(str(hey()), url, 2.0, 5, rate)
    return subprocess.run(line[line.index(str(hey())) :], check=True, capture_output=True, text=True).stdout


def test_what_the_real_one_prints_is_read_in_full() -> None:
    answers = Counter()

    def answer(_: str) -> loopback.Answer:
        answers["n"] += 1
        return (503 if answers["n"] % 3 == 0 else 200), b"x"

    with loopback.served(answer) as url:
        seen = load.Figures()
        load.read(print_of_hey(url), seen)
    assert seen.requests == answers["n"] > 20
    assert seen.failures == {"HTTP 503": answers["n"] // 3}
    assert sum(seen.latencies.values()) == seen.answered
    assert seen.seconds >= 2


def test_what_gets_no_answer_is_counted_by_its_reason() -> None:
    seen = load.Figures()
    load.read(print_of_hey("http://127.0.0.1:1/"), seen)
    assert seen.answered == 0
    assert list(seen.failures) == ["connection refused"]
    assert seen.failed == seen.requests > 20
    assert load.summary(seen)["latency_ms"] == {"p50": None, "p90": None, "p99": None, "max": None}


def test_a_redirect_is_an_answer_that_is_no_2xx() -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302 if self.path == "/" else 200)
            self.send_header("Location", "/there")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        seen = load.Figures()
        load.read(print_of_hey(f"http://127.0.0.1:{server.server_port}/"), seen)
        server.shutdown()
    assert list(seen.failures) == ["HTTP 302"]
    assert seen.failed == seen.requests > 20


@pytest.mark.parametrize("output", ["", "Summary:\n", "{}", '{"seconds": 1, "errors": null, "statuses": null}'])
def test_output_that_cannot_be_read(output: str) -> None:
    with pytest.raises((ValueError, KeyError)):
        load.read(output, load.Figures())


class Nobody:
    """Watches nothing."""

    samples = 0

    def sample(self) -> None:
        self.samples += 1

    def finish(self) -> load.Figures:
        return load.Figures()


def script(tmp_path: Path, text: str) -> list[str]:
    program = tmp_path / "hey"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)
    return [str(program)]


def test_the_service_is_watched_while_the_generator_runs(tmp_path: Path) -> None:
    report = json.dumps({"seconds": 0.5, "errors": None, "statuses": {"200": 1}, "latencies": [0.0123]})
    watch = Nobody()
    seen = load.run(script(tmp_path, f"sleep 0.5; echo '{report}'"), watch)  # type: ignore[arg-type]
    assert watch.samples >= 2
    assert (seen.requests, seen.percentile_ms(50)) == (1, 12.3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kill -KILL $$", r"the kernel killed hey at its own cap of 64M: lower load_test_connections"),
        ("echo no such unit >&2; exit 3", r"hey ended with 3: no such unit"),
        ("echo Summary", r"hey printed what this cannot read .*: Summary"),
    ],
)
def test_a_generator_that_fails(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(load.LoadError, match=message):
        load.run(script(tmp_path, text), Nobody())  # type: ignore[arg-type]


# --- figures


def test_percentiles_are_those_of_all_runs_together() -> None:
    generator = random.Random(7)
    total = load.Figures()
    everything: list[float] = []
    for _ in range(4):
        seconds = [round(generator.expovariate(50), 4) for _ in range(generator.randint(1, 400))]
        everything += seconds
        run = load.Figures()
        load.read(json.dumps({"seconds": 1, "errors": {}, "statuses": {"200": 1}, "latencies": seconds}), run)
        total.add(load.Figures.from_dict(json.loads(json.dumps(run.as_dict()))))
    ordered = sorted(everything)
    for percent in (1, 50, 90, 99, 100):
        # The smallest latency that at least this share of all answers did not exceed.
        rank = next(n for n in range(1, len(ordered) + 1) if 100 * n >= percent * len(ordered))
        assert total.percentile_ms(percent) == pytest.approx(1000 * ordered[rank - 1])


def test_figures_survive_the_way_over_the_wire() -> None:
    seen = figures(errors=Counter({"EOF": 2}), oom_kills_total=1)
    assert load.Figures.from_dict(json.loads(json.dumps(seen.as_dict()))) == seen


def test_runs_add_up() -> None:
    total = figures()
    total.add(figures(errors=Counter({"EOF": 1}), statuses=Counter({"500": 1}), peak_bytes=30 * MIB, oom_kills_total=2))
    total.add(figures(working_set_bytes=0, limit_bytes=None, oom_kills_total=2))
    assert total.seconds == 15
    assert total.requests == 10
    assert total.failures == {"HTTP 500": 1, "EOF": 1}
    assert (total.working_set_bytes, total.peak_bytes, total.limit_bytes) == (24 * MIB, 30 * MIB, 80 * MIB)
    assert total.oom_kills_total == 2
    assert total.cores == 0.5


def test_a_line_of_progress() -> None:
    assert load.progress("robot-1", 10.4, plan({}), figures(errors=Counter({"EOF": 3}))) == (
        "robot-1 10 s of 30 s: 1 requests a second, p50 2.0 ms, p99 9.5 ms, failed 3, memory 24M of 80M"
    )
    assert load.progress("r", 5, plan({}), load.Figures()).endswith("p50 -, p99 -, failed 0, memory 0")


# --- the kernel


class Machine:
    """A robot with one container and one binary service, on cgroup v2."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.paths = Paths(root / "services.d", root / "textfile", root / "proc")
        self.cgroups = root / "cgroup"
        self.scope = self.cgroups / "roverwatch.slice" / f"libpod-{CONTAINER}.scope"
        own = self.paths.proc / "self"
        for directory in (self.paths.services, self.paths.oom_records, own, self.cgroups):
            directory.mkdir(parents=True)
        (own / "mountinfo").write_text(f"31 22 0:28 / {self.cgroups} rw - cgroup2 cgroup2 rw\n")
        (self.cgroups / "cgroup.controllers").write_text("cpu memory\n")
        self.cid_file = root / "sensor.cid"
        self.cid_file.write_text(CONTAINER)
        monkeypatch.setattr(systemd, "show", lambda *_: {"ControlGroup": "/roverwatch.slice"})
        self.sensor = records.Installed(
            "roverwatch-sensor", "container", "1", 80 * MIB, "http://127.0.0.1:1/readyz", cid_file=str(self.cid_file)
        )
        self.memory(self.scope, usage=20 * MIB, peak=40 * MIB)
        self.process(self.scope, 100, 2.0)

    def memory(self, directory: Path, usage: int, peak: int, kills: int = 0) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "memory.current").write_text(str(usage))
        (directory / "memory.max").write_text(str(80 * MIB))
        (directory / "memory.peak").write_text(str(peak))
        (directory / "memory.stat").write_text(f"inactive_file {MIB}\n")
        (directory / "memory.events").write_text(f"oom_kill {kills}\n")

    def process(self, directory: Path, pid: int, cpu_seconds: float) -> None:
        (directory / "cgroup.procs").write_text(f"{pid}\n")
        (self.paths.proc / str(pid)).mkdir(exist_ok=True)
        ticks = int(cpu_seconds * os.sysconf("SC_CLK_TCK"))
        fields = " ".join(["S", *["0"] * 10, str(ticks // 2), str(ticks - ticks // 2), "0"])
        (self.paths.proc / str(pid) / "stat").write_text(f"{pid} (a b) {fields}\n")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_the_largest_working_set_and_usage_are_kept(machine: Machine) -> None:
    watch = load.Watch(machine.sensor, machine.paths.proc, machine.paths.oom_records)
    machine.memory(machine.scope, usage=30 * MIB, peak=40 * MIB)
    watch.sample()
    machine.memory(machine.scope, usage=25 * MIB, peak=40 * MIB)
    machine.process(machine.scope, 100, 3.5)
    seen = watch.finish()
    assert seen.working_set_bytes == 29 * MIB
    assert seen.peak_bytes == 30 * MIB, "the kernel's 40M are of an earlier time"
    assert seen.limit_bytes == 80 * MIB
    assert seen.cpu_seconds == pytest.approx(1.5)
    assert seen.oom_kills_total == 0


def test_a_peak_between_two_samples_is_the_kernels(machine: Machine) -> None:
    watch = load.Watch(machine.sensor, machine.paths.proc, machine.paths.oom_records)
    machine.memory(machine.scope, usage=30 * MIB, peak=70 * MIB)
    assert watch.finish().peak_bytes == 70 * MIB


def test_a_service_that_is_killed_and_comes_back(machine: Machine) -> None:
    watch = load.Watch(machine.sensor, machine.paths.proc, machine.paths.oom_records)
    machine.cid_file.unlink()
    assert watch.sample() is None
    other = "beef" * 16
    machine.cid_file.write_text(other)
    scope = machine.scope.with_name(f"libpod-{other}.scope")
    machine.memory(scope, usage=10 * MIB, peak=35 * MIB)
    machine.process(scope, 200, 0.5)
    (machine.paths.oom_records / "roverwatch-sensor.oom.prom").write_text(
        '# boot x cgroup_inode 0 seen 0\ncontainer_oom_events_total{name="roverwatch-sensor"} 1\n'
    )
    seen = watch.finish()
    assert seen.oom_kills_total == 1
    assert seen.peak_bytes == 35 * MIB
    assert seen.cpu_seconds == pytest.approx(0.5)


def test_a_kill_that_no_stop_has_recorded_yet(machine: Machine) -> None:
    watch = load.Watch(machine.sensor, machine.paths.proc, machine.paths.oom_records)
    machine.memory(machine.scope, usage=10 * MIB, peak=40 * MIB, kills=2)
    assert watch.finish().oom_kills_total == 2


def test_a_binary_has_its_cgroup_in_the_slice(machine: Machine) -> None:
    agent = records.Installed("roverwatch-vmagent", "binary", "1", 48 * MIB, "http://127.0.0.1:1/health", exe="/x")
    assert load.Watch(agent, machine.paths.proc, machine.paths.oom_records).first is None
    machine.memory(machine.cgroups / "roverwatch.slice" / "roverwatch-vmagent.service", usage=9 * MIB, peak=9 * MIB)
    assert load.Watch(agent, machine.paths.proc, machine.paths.oom_records).finish().working_set_bytes == 8 * MIB


def test_a_service_is_found_by_its_unit(machine: Machine) -> None:
    record = {"unit": "roverwatch-sensor", "kind": "container", "version": "1", "memory_max": 1, "ready_url": "u"}
    (machine.paths.services / "roverwatch-sensor.json").write_text(json.dumps(record))
    assert load.find_service("roverwatch-sensor", machine.paths.services).ready_url == "u"
    with pytest.raises(load.LoadError, match=r"sensors is not deployed here \(these are: roverwatch-sensor\)"):
        load.find_service("sensors", machine.paths.services)


def test_the_service_must_answer_before_it_is_loaded(machine: Machine) -> None:
    with loopback.served(lambda path: (200, b"") if path == "/metrics" else (404, b"no")) as url:
        service = records.Installed("x", "container", "1", 1, f"{url}/readyz")
        assert load.find_url(service, "/metrics", "") == f"{url}/metrics"
        assert load.find_url(machine.sensor, "/", f"{url}/metrics") == f"{url}/metrics"
        with pytest.raises(load.LoadError, match=r"/nope does not answer with 2xx before any load: HTTP 404: no"):
            load.find_url(service, "/nope", "")


def test_one_test_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    armed: list[int] = []
    monkeypatch.setattr(load, "arm", armed.append)
    monkeypatch.setattr(systemd, "show", lambda *_: {"ActiveState": "active"})
    with pytest.raises(load.LoadError, match=r"another load test runs .* systemctl stop roverwatch-load-"):
        load.claim()
    assert armed == []
    monkeypatch.setattr(systemd, "show", lambda *_: {"ActiveState": "inactive"})
    load.claim()
    assert armed == [load.BRINGING_SECONDS]


# --- the verdict


def loaded(seen: load.Figures, oom_kills: int = 0) -> dict[str, Any]:
    return {
        "planned": "GET u",
        "unit": "roverwatch-sensor",
        "figures": json.loads(json.dumps(seen.as_dict())),
        "oom_kills": oom_kills,
        "slices": [],
        "changed": False,
    }


def verdict(*results: tuple[str, dict[str, Any] | None]) -> load_report.Report:
    return load_report.Report.of(dict(results))


def texts(report: load_report.Report) -> list[str]:
    return [line.text for line in report.lines()]


def test_all_went_well() -> None:
    report = verdict(("robot-10", loaded(figures())), ("robot-2", loaded(figures())), ("robot-1", loaded(figures())))
    assert report.problems == []
    assert report.summary == "0 of 12 requests on 3 robots failed"
    head, first, *others = texts(report)
    assert [line.split()[0] for line in others if line] == ["robot-2", "robot-10"]
    assert head.split() == [*load_report.COLUMNS[:2], "PER", "S", *load_report.COLUMNS[3:]]
    assert " ".join(first.split()) == "robot-1 4 1 2.0 ms 9.5 ms 9.5 ms 9.5 ms 0 24M 25M 80M 30 0 0.50"


def test_failures_and_kills_are_problems_with_remedies() -> None:
    seen = figures(errors=Counter({"EOF": 2, "connection refused": 7}), statuses=Counter({"200": 3, "503": 1}))
    report = verdict(("robot-1", loaded(seen, oom_kills=1)), ("robot-2", loaded(figures())))
    assert [(problem.host, problem.service) for problem in report.problems] == [("robot-1", "roverwatch-sensor")] * 2
    assert report.problems[0].what == "failed 10 of 13 requests: 7 x connection refused, 2 x EOF, 1 x HTTP 503"
    assert report.problems[1].what == "was OOM-killed under load (1)"
    assert "_memory_max" in report.problems[1].remedy
    assert report.summary == "10 of 17 requests on 2 robots failed, 2 problems"
    assert [line.healthy for line in report.lines()[1:3]] == [False, True]


def test_an_answer_that_is_no_2xx_is_a_failure() -> None:
    (problem,) = verdict(("robot-1", loaded(figures(statuses=Counter({"200": 3, "404": 1}))))).problems
    assert problem.what == "failed 1 of 4 requests: 1 x HTTP 404"


def test_a_test_without_a_request_proves_nothing() -> None:
    (problem,) = verdict(("robot-1", loaded(load.Figures(limit_bytes=80 * MIB)))).problems
    assert problem.what == "was sent no request in all that time"


@pytest.mark.parametrize(
    ("result", "what"),
    [
        (None, "was not tested"),
        ({"unreachable": True, "msg": "Connection timed out"}, "unreachable: Connection timed out"),
        ({"failed": True, "msg": "Task failed: Module failed: no"}, "was not tested: no"),
    ],
)
def test_a_robot_that_was_not_tested_is_a_problem(result: dict[str, Any] | None, what: str) -> None:
    report = verdict(("robot-1", result))
    assert [problem.what for problem in report.problems] == [what]
    assert report.summary == "0 of 0 requests on 0 robots failed, 1 problem"
    assert texts(report)[1].split() == ["robot-1", *"-" * 13]


def test_check_mode_says_what_would_be_sent() -> None:
    report = verdict(("robot-1", {"planned": "GET u over 50 connections", "unit": "roverwatch-sensor"}))
    assert texts(report)[0] == "robot-1: would send GET u over 50 connections"
    assert report.problems == []
    assert report.summary == "nothing was sent: 1 robot would be loaded"


def test_the_file_for_programs() -> None:
    data = verdict(("robot-1", loaded(figures())), ("robot-2", {"unreachable": True, "msg": "no"})).as_dict("now")
    assert json.loads(json.dumps(data)) == data
    assert (data["time"], data["passed"]) == ("now", False)
    assert data["hosts"]["robot-1"]["latency_ms"] == {"p50": 2.0, "p90": 9.5, "p99": 9.5, "max": 9.5}
    assert data["hosts"]["robot-1"]["answers_per_second"] == 0.8
    assert "latencies" not in json.dumps(data)
    assert data["hosts"]["robot-2"] == {"msg": "no"}
    assert data["problems"][0]["host"] == "robot-2"
