"""The checks of one machine, on a fake /etc, /proc, /sys and systemd, with real HTTP on loopback."""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import loopback
import pytest
import tls
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.firewall import nftables
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.health import fleet, limits
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.health import service as service_now
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.health.examination import examine
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.health.options import Options, Paths
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.hub import gateway, uplink
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.service import records
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.system import filesystems, systemd
from stopwatch import Stopwatch

MIB = 2**20
CONTAINER = "c0ffee" * 10 + "cafe"
IMAGE = "sha256:" + "ab" * 32
# Refused: nothing listens there.
NOBODY = "http://127.0.0.1:1/health"


class Machine:
    """A robot with one binary service and one container, healthy until a test changes it."""

    def __init__(self, root: Path, url: str) -> None:
        self.root = root
        self.url = url
        self.paths = Paths(
            root / "services.d", root / "textfile", root / "proc", root / "firewall.nft", root / "data", ()
        )
        self.cgroups = root / "cgroup"
        self.units: dict[str, dict[str, str]] = {}
        self.exe = root / "opt" / "vmagent"
        self.images = {CONTAINER: IMAGE}
        self.in_journal = 0
        for directory in (self.paths.services, self.paths.oom_records, self.exe.parent):
            directory.mkdir(parents=True)
        self.exe.write_text("")
        self._kernel()
        self.add_cgroup("roverwatch.slice", limit=300 * MIB, usage=90 * MIB)
        self.listens(urlsplit(url).port or 0, inode=7)
        self._binary()
        self._container()

    def _kernel(self) -> None:
        own = self.paths.proc / "self"
        own.mkdir(parents=True)
        (own / "mountinfo").write_text(f"31 22 0:28 / {self.cgroups} rw - cgroup2 cgroup2 rw\n")
        (self.paths.proc / "uptime").write_text("12345.67 1.0\n")
        self.cgroups.mkdir()
        (self.cgroups / "cgroup.controllers").write_text("cpu memory\n")
        self.units["roverwatch.slice"] = {"ActiveState": "active", "ControlGroup": "/roverwatch.slice"}

    def _binary(self) -> None:
        self.record("roverwatch-vmagent", kind="binary", exe=str(self.exe), memory_max=48 * MIB)
        self.unit("roverwatch-vmagent", pid=100)
        self.add_cgroup("roverwatch.slice/roverwatch-vmagent.service", limit=48 * MIB, usage=20 * MIB)
        self.process(100, "vmagent", self.cgroups / "roverwatch.slice" / "roverwatch-vmagent.service", inode=7)
        (self.paths.proc / "100" / "exe").symlink_to(self.exe)

    def listens(self, port: int, inode: int) -> None:
        (self.paths.proc / "net").mkdir(exist_ok=True)
        (self.paths.proc / "net" / "tcp").write_text(f"head\n 0: 0100007F:{port:04X} 0:0 0A 0 0 0 0 0 {inode}\n")

    def process(self, pid: int, name: str, cgroup: Path, inode: int) -> None:
        """A process that has a socket; every service of this machine has the same one."""
        (self.paths.proc / str(pid) / "fd").mkdir(parents=True)
        (self.paths.proc / str(pid) / "fd" / "3").symlink_to(f"socket:[{inode}]")
        (self.paths.proc / str(pid) / "comm").write_text(f"{name}\n")
        (self.paths.proc / str(pid) / "cgroup").write_text(f"0::/{cgroup.relative_to(self.cgroups)}\n")

    def _container(self) -> None:
        cid_file = self.root / "sensor.cid"
        cid_file.write_text(CONTAINER)
        self.record(
            "roverwatch-sensor",
            kind="container",
            engine="podman",
            image="localhost/sensor:1",
            image_id=IMAGE,
            cid_file=str(cid_file),
            memory_max=80 * MIB,
        )
        self.unit("roverwatch-sensor", pid=200)
        self.add_cgroup("roverwatch.slice/roverwatch-sensor.service", limit=None, usage=2 * MIB)
        self.add_cgroup(f"roverwatch.slice/libpod-{CONTAINER}.scope", limit=80 * MIB, usage=40 * MIB)
        scope = self.cgroups / "roverwatch.slice" / f"libpod-{CONTAINER}.scope"
        (scope / "cgroup.procs").write_text("201\n")
        self.process(201, "python3", scope, inode=7)

    def record(self, unit: str, **fields: Any) -> None:
        known = {"unit": unit, "version": "1.0", "ready_url": self.url} | fields
        (self.paths.services / f"{unit}.json").write_text(json.dumps(known))

    def change_record(self, unit: str, **fields: Any) -> None:
        path = self.paths.services / f"{unit}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    def unit(self, name: str, pid: int) -> None:
        cgroup = self.cgroups / "roverwatch.slice" / f"{name}.service"
        cgroup.mkdir(exist_ok=True)
        (cgroup / "cgroup.procs").write_text(f"{pid}\n")
        started = int((time.clock_gettime(time.CLOCK_MONOTONIC) - 60) * 1e6)
        self.units[name] = {
            "LoadState": "loaded",
            "ActiveState": "active",
            "SubState": "running",
            "Result": "success",
            "MainPID": str(pid),
            "NRestarts": "1",
            "ControlGroup": f"/roverwatch.slice/{name}.service",
            "ExecMainStartTimestampMonotonic": str(started),
        }

    def add_cgroup(self, path: str, limit: int | None, usage: int, oom_kills: int = 0) -> None:
        directory = self.cgroups / path
        directory.mkdir(exist_ok=True)
        (directory / "memory.current").write_text(f"{usage}\n")
        (directory / "memory.max").write_text(f"{'max' if limit is None else limit}\n")
        (directory / "memory.peak").write_text(f"{usage}\n")
        (directory / "memory.stat").write_text(f"inactive_file {MIB}\n")
        (directory / "memory.events").write_text(f"oom 0\noom_kill {oom_kills}\n")

    def oom_record(self, unit: str, total: int, age_seconds: float) -> None:
        path = self.paths.oom_records / f"{unit}.oom.prom"
        path.write_text(
            f'# boot earlier cgroup_inode 1 seen {total}\ncontainer_oom_events_total{{name="{unit}"}} {total}\n'
        )
        os.utime(path, (time.time() - age_seconds,) * 2)

    def check(self, **options: Any) -> dict[str, Any]:
        defaults: dict[str, Any] = {"memory_budget": 300 * MIB, "ready_timeout_seconds": 0.5}
        return examine(Options(host="robot-1", **(defaults | options)), self.paths)

    def problems(self, **options: Any) -> list[tuple[str, str]]:
        found = self.check(**options)["problems"]
        assert all(problem["remedy"] and "robot-1" in problem["remedy"] for problem in found)
        return [(problem["service"], problem["what"]) for problem in found]


class Web:
    """Readiness and VictoriaMetrics' query API on one port."""

    def __init__(self) -> None:
        self.status = 200
        self.samples: dict[str, list[dict[str, Any]]] = {}
        self.queries: list[dict[str, list[str]]] = []
        self.metrics = ""
        self.alerts = b""
        self.url = ""

    def answer(self, path: str) -> loopback.Answer:
        url = urlsplit(path)
        if url.path == "/metrics":
            return self.status, self.metrics.encode()
        if url.path == "/api/v1/alerts":
            return self.status, self.alerts
        if url.path != "/api/v1/query":
            return self.status, b"OK"
        arguments = parse_qs(url.query)
        self.queries.append(arguments)
        return self.status, json.dumps({"data": {"result": self.samples[arguments["query"][0]]}}).encode()


@pytest.fixture
def web() -> Iterator[Web]:
    web = Web()
    with loopback.served(web.answer) as web.url:
        yield web


@pytest.fixture
def machine(tmp_path: Path, web: Web, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(tmp_path, f"{web.url}/health")
    monkeypatch.setattr(systemd, "show_many", lambda units, _: {unit: machine.units[unit] for unit in units})
    monkeypatch.setattr(systemd, "restarts_in_journal", lambda *_: machine.in_journal)
    monkeypatch.setattr(service_now, "inspect_images", lambda *_: machine.images)
    return machine


def test_healthy_machine(machine: Machine) -> None:
    result = machine.check(expected_units=["roverwatch-sensor", "roverwatch-vmagent"])
    assert result["problems"] == []
    assert json.loads(json.dumps(result)) == result
    assert result["uptime_seconds"] == 12345.67
    assert "hub" not in result
    sensor, vmagent = result["services"]
    assert (vmagent["unit"], vmagent["state"], vmagent["restarts"]) == ("roverwatch-vmagent", "active", 1)
    assert vmagent["ready"]
    assert vmagent["ready_reason"] == "HTTP 200: OK"
    assert 0 < vmagent["ready_ms"] < 500
    assert 60 <= vmagent["uptime_seconds"] < 70
    assert vmagent["memory"]["working_set_bytes"] == 19 * MIB
    assert vmagent["supervisor_usage_bytes"] is None
    assert vmagent["running"] == str(machine.exe)
    # The container's own cgroup counts, not that of the supervisor beside it.
    assert sensor["memory"]["limit_bytes"] == 80 * MIB
    assert sensor["supervisor_usage_bytes"] == 2 * MIB
    assert result["slice"]["caps_total_bytes"] == 128 * MIB
    assert result["slice"]["memory"]["limit_bytes"] == 300 * MIB


def test_stopped_unit_is_one_problem(machine: Machine) -> None:
    machine.units["roverwatch-vmagent"] |= {
        "ActiveState": "failed",
        "SubState": "failed",
        "Result": "oom-kill",
        "MainPID": "0",
        "ControlGroup": "",
    }
    machine.change_record("roverwatch-vmagent", ready_url=NOBODY)
    assert machine.problems() == [("roverwatch-vmagent", "is failed/failed (result: oom-kill)")]


def test_unit_file_that_is_gone(machine: Machine) -> None:
    machine.units["roverwatch-vmagent"] = {
        "LoadState": "not-found",
        "ActiveState": "inactive",
        "SubState": "dead",
    }
    assert machine.problems() == [("roverwatch-vmagent", "has no unit although it was deployed")]
    assert machine.check()["services"][1]["state"] == "not-found"


def test_not_ready(machine: Machine, web: Web) -> None:
    web.status = 503
    assert machine.problems() == [
        ("roverwatch-sensor", f"is not ready: {machine.url}: HTTP 503: OK"),
        ("roverwatch-vmagent", f"is not ready: {machine.url}: HTTP 503: OK"),
    ]


def test_services_that_hang_do_so_side_by_side(machine: Machine, silent_url: str) -> None:
    for unit in ("roverwatch-sensor", "roverwatch-vmagent"):
        machine.change_record(unit, ready_url=silent_url)
    watch = Stopwatch()
    problems = machine.problems()
    assert watch.seconds < 0.9
    assert [what for _, what in problems] == [f"is not ready: {silent_url}: timed out"] * 2


def test_answer_that_drips_does_not_hold_the_check(machine: Machine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip() -> None:
            connection, _ = listener.accept()
            with connection:
                for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n":
                    connection.sendall(bytes([byte]))
                    time.sleep(0.1)

        threading.Thread(target=drip, daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        machine.change_record("roverwatch-vmagent", ready_url=url)
        watch = Stopwatch()
        problems = machine.problems()
    assert watch.seconds < 1.5
    assert problems == [("roverwatch-vmagent", f"is not ready: {url}: no complete answer in time")]


def test_engine_that_hangs(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_now, "ENGINE_TIMEOUT_SECONDS", 0.1)
    monkeypatch.setattr(service_now, "inspect_images", lambda *_: time.sleep(5))
    assert machine.problems() == [("roverwatch-sensor", "podman does not say which image it runs")]
    # What hangs on must not keep the module's process from ending.
    assert all(thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread())


def test_failing_check_is_not_swallowed(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(service_now, "inspect_images", broken)
    with pytest.raises(ZeroDivisionError):
        machine.check()


def test_old_binary_still_runs(machine: Machine) -> None:
    (machine.paths.proc / "100" / "exe").unlink()
    (machine.paths.proc / "100" / "exe").symlink_to("/opt/roverwatch/vmagent/0.9/vmagent (deleted)")
    what = f"runs /opt/roverwatch/vmagent/0.9/vmagent (deleted), but {machine.exe} is installed"
    assert machine.problems() == [("roverwatch-vmagent", what)]
    assert machine.check()["services"][1]["running_as_recorded"] is False


def test_recorded_program_may_be_a_link(machine: Machine) -> None:
    link = machine.root / "current"
    link.symlink_to(machine.exe)
    machine.change_record("roverwatch-vmagent", exe=str(link))
    assert machine.problems() == []


def test_old_image_still_runs(machine: Machine) -> None:
    machine.images = {CONTAINER: "cd" * 32}
    assert machine.problems() == [("roverwatch-sensor", f"runs {'cd' * 32}, but {IMAGE} is installed")]


def test_podman_prints_image_ids_without_their_algorithm(machine: Machine) -> None:
    machine.images = {CONTAINER: IMAGE.removeprefix("sha256:")}
    assert machine.problems() == []


def test_container_outside_of_the_slice(machine: Machine) -> None:
    scope = machine.cgroups / "roverwatch.slice" / f"libpod-{CONTAINER}.scope"
    scope.rename(machine.cgroups / scope.name)
    expected = f"its container {CONTAINER[:12]} has no cgroup in the slice: it runs outside of the budget"
    assert machine.problems() == [("roverwatch-sensor", expected)]


def test_container_without_its_id(machine: Machine) -> None:
    (machine.root / "sensor.cid").unlink()
    services = {service for service, _ in machine.problems()}
    assert services == {"roverwatch-sensor"}


def test_cap_of_the_kernel_differs(machine: Machine) -> None:
    machine.add_cgroup("roverwatch.slice/roverwatch-vmagent.service", limit=64 * MIB, usage=20 * MIB)
    what = "has a cap of 64M in the kernel, 48M was deployed"
    assert machine.problems() == [("roverwatch-vmagent", what)]


def test_cap_is_compared_in_whole_pages(machine: Machine) -> None:
    machine.change_record("roverwatch-vmagent", memory_max=48 * MIB + 1)
    assert machine.problems() == []


def test_no_cap_in_the_kernel(machine: Machine) -> None:
    machine.add_cgroup("roverwatch.slice/roverwatch-vmagent.service", limit=None, usage=20 * MIB)
    assert machine.problems() == [("roverwatch-vmagent", "has no cap in the kernel, 48M was deployed")]


@pytest.mark.parametrize(("working_set", "percent"), [(45, None), (46, 96)])
def test_nearly_full(machine: Machine, working_set: int, percent: int | None) -> None:
    usage = (working_set + 1) * MIB
    machine.add_cgroup("roverwatch.slice/roverwatch-vmagent.service", limit=48 * MIB, usage=usage)
    expected = [("roverwatch-vmagent", f"uses {percent} % of its cap of 48M: the kernel is about to kill it")]
    assert machine.problems() == (expected if percent else [])


def test_recent_oom_kill(machine: Machine) -> None:
    machine.oom_record("roverwatch-vmagent", total=3, age_seconds=100)
    assert machine.problems(oom_window_seconds=200) == [
        ("roverwatch-vmagent", "was OOM-killed, last 100 s ago (3 in all)")
    ]
    assert machine.problems(oom_window_seconds=50) == []
    assert machine.check()["services"][1]["oom_kills_total"] == 3


def test_oom_kill_that_no_stop_has_recorded_counts_as_of_the_start(machine: Machine) -> None:
    machine.oom_record("roverwatch-vmagent", total=3, age_seconds=10_000)
    unit = "roverwatch.slice/roverwatch-vmagent.service"
    machine.add_cgroup(unit, limit=48 * MIB, usage=20 * MIB, oom_kills=1)
    # The service started 60 s ago.
    assert machine.problems(oom_window_seconds=100) == [
        ("roverwatch-vmagent", "was OOM-killed, last 60 s ago (4 in all)")
    ]
    assert machine.problems(oom_window_seconds=50) == []


def test_stopped_service_keeps_its_oom_kills(machine: Machine) -> None:
    machine.oom_record("roverwatch-vmagent", total=2, age_seconds=5)
    machine.units["roverwatch-vmagent"] |= {"ActiveState": "activating", "SubState": "auto-restart"}
    machine.units["roverwatch-vmagent"]["ControlGroup"] = ""
    machine.change_record("roverwatch-vmagent", ready_url=NOBODY)
    assert machine.problems() == [
        ("roverwatch-vmagent", "is activating/auto-restart"),
        ("roverwatch-vmagent", "was OOM-killed, last 5 s ago (2 in all)"),
    ]


def test_broken_oom_record_is_a_problem(machine: Machine) -> None:
    (machine.paths.oom_records / "roverwatch-vmagent.oom.prom").write_text("nonsense\n")
    ((service, what),) = machine.problems()
    assert service == "roverwatch-vmagent"
    assert "does not hold a count" in what


def test_expected_unit_is_missing(machine: Machine) -> None:
    result = machine.check(expected_units=["roverwatch-vmagent", "roverwatch-victoriametrics"])
    assert result["problems"] == [
        {
            "host": "robot-1",
            "service": "roverwatch-victoriametrics",
            "what": "is not installed",
            "remedy": "ansible-playbook playbooks/site.yml --limit robot-1",
        }
    ]


def test_bare_machine(machine: Machine) -> None:
    for path in machine.paths.services.iterdir():
        path.unlink()
    machine.paths.services.rmdir()
    machine.units["roverwatch.slice"] = {"ActiveState": "inactive", "ControlGroup": ""}
    what = "is not running: nothing enforces the memory budget"
    assert machine.problems() == [("roverwatch.slice", what)]


def change_slice_limit(machine: Machine, limit: int | None) -> None:
    machine.add_cgroup("roverwatch.slice", limit=limit, usage=90 * MIB)


def test_slice_limit_differs_from_the_budget(machine: Machine) -> None:
    change_slice_limit(machine, 400 * MIB)
    what = "has a limit of 400M in the kernel, but memory_budget is 300M"
    assert machine.problems() == [("roverwatch.slice", what)]
    assert machine.problems(memory_budget=None) == []


def test_slice_without_limit(machine: Machine) -> None:
    change_slice_limit(machine, None)
    what = "has no memory limit: nothing enforces the memory budget"
    assert machine.problems(memory_budget=None) == [("roverwatch.slice", what)]


def test_caps_do_not_fit_into_the_slice(machine: Machine) -> None:
    change_slice_limit(machine, 100 * MIB)
    what = "has services with caps of 128M in all, more than its limit of 100M"
    assert machine.problems(memory_budget=100 * MIB) == [("roverwatch.slice", what)]


def test_broken_description_names_the_file(machine: Machine) -> None:
    (machine.paths.services / "x.json").write_text('{"unit": "x"}')
    with pytest.raises(records.RecordError, match=r"x\.json.*missing"):
        machine.check()


def sample(value: float, **labels: str) -> dict[str, Any]:
    return {"metric": labels, "value": [time.time(), str(value)]}


def test_hub(machine: Machine, web: Web) -> None:
    web.samples = {
        fleet.NEWEST_SAMPLE_QUERY: [
            sample(time.time() - 7, robot="robot-1"),
            sample(time.time() - 4000, robot="robot-2"),
            sample(time.time()),
        ],
        fleet.TARGETS_UP_QUERY: [sample(4, robot="robot-1")],
    }
    hub = machine.check(hub_query_url=web.url)["hub"]
    ages = hub["newest_sample_age_seconds"]
    assert ages == {"robot-1": pytest.approx(7, abs=1), "robot-2": pytest.approx(4000, abs=1)}
    assert hub["targets_up"] == {"robot-1": 4}
    # Otherwise VictoriaMetrics answers as of 30 s ago.
    assert all(query["nocache"] == ["1"] for query in web.queries)


def test_hub_that_answers_nonsense(machine: Machine, web: Web) -> None:
    web.samples = {fleet.NEWEST_SAMPLE_QUERY: [{"metric": {"robot": "a"}}]}
    result = machine.check(hub_query_url=web.url)
    assert "not an answer of the query API" in result["hub"]["error"]
    assert [problem["service"] for problem in result["problems"]] == ["hub"]


def test_hub_that_is_silent(machine: Machine, silent_url: str) -> None:
    watch = Stopwatch()
    result = machine.check(hub_query_url=silent_url)
    assert watch.seconds < 1.5
    assert result["hub"] == {"error": "timed out"}


def test_a_disk_that_takes_no_more_is_named_with_what_needs_room(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = filesystems.FullDisk(Path("/var"), "is full: 1M of 1G are free; /var/lib/roverwatch is on it")
    monkeypatch.setattr(filesystems, "full", lambda *_: [full])
    (problem,) = machine.check()["problems"]
    assert problem["service"] == "disk"
    assert problem["what"] == "/var is full: 1M of 1G are free; /var/lib/roverwatch is on it"
    assert problem["remedy"].startswith("on robot-1: df -h /var; du -xh -d2 /var | sort -h.")


def test_limits_that_were_reached(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, bool]] = []

    def find(hub: bool, url: str, _: float) -> list[limits.Finding]:
        asked.append((url, hub))
        return [limits.Finding("roverwatch-sensor", "has too many", "the_limit")]

    monkeypatch.setattr(limits, "look", find)
    assert machine.problems() == [] == asked  # no history to ask
    machine.record("roverwatch-victoriametrics", kind="binary", exe=str(machine.exe), memory_max=48 * MIB)
    machine.unit("roverwatch-victoriametrics", pid=100)
    machine.add_cgroup("roverwatch.slice/roverwatch-victoriametrics.service", limit=48 * MIB, usage=20 * MIB)
    (problem,) = machine.check()["problems"]
    assert (problem["service"], problem["what"]) == ("roverwatch-sensor", "has too many")
    assert (
        "if they are wanted: the_limit, then ansible-playbook playbooks/site.yml --limit robot-1" in problem["remedy"]
    )
    assert asked == [(machine.url.removesuffix("/health"), False)]


ALERT = {
    "name": "PushQueueDamaged",
    "labels": {"alertname": "PushQueueDamaged", "severity": "critical", "robot": "robot-1", "hub": "hub-1"},
    "annotations": {"summary": "a queue is gone", "action": "backfill.yml"},
}


def test_a_hub_says_what_fires(machine: Machine, web: Web) -> None:
    web.samples = {fleet.NEWEST_SAMPLE_QUERY: [], fleet.TARGETS_UP_QUERY: []}
    machine.record("roverwatch-vmalert", kind="binary", exe=str(machine.exe), memory_max=48 * MIB)
    machine.unit("roverwatch-vmalert", pid=100)
    alerts = [{**ALERT, "state": "firing"}, {**ALERT, "state": "pending"}]
    web.alerts = json.dumps({"data": {"alerts": alerts}}).encode()
    expected = {
        "name": "PushQueueDamaged",
        "severity": "critical",
        "robot": "robot-1",
        "summary": "a queue is gone",
        "action": "backfill.yml",
    }
    assert machine.check(hub_query_url=web.url)["alerts"] == {"firing": [expected]}
    web.alerts = b"<html>"
    assert machine.check(hub_query_url=web.url)["alerts"] == {"error": "no answer of its API: <html>"}


def test_a_robot_with_a_history_and_hubs_counts_what_it_has_if_it_is_asked(hub: Hub, silent_url: str) -> None:
    hub.machine.record("roverwatch-victoriametrics", kind="binary", exe=str(hub.machine.exe), memory_max=48 * MIB)
    hub.machine.unit("roverwatch-victoriametrics", pid=100)
    hub.machine.add_cgroup("roverwatch.slice/roverwatch-victoriametrics.service", limit=48 * MIB, usage=20 * MIB)
    hub.machine.change_record("roverwatch-victoriametrics", ready_url=silent_url)
    assert "minutes" not in hub.machine.check(holes_period_seconds=3600.0, hub_timeout_seconds=0.3)
    hub.deploy(1)
    assert "minutes" not in hub.machine.check(hub_timeout_seconds=0.3)
    found = hub.machine.check(holes_period_seconds=3600.0, hub_timeout_seconds=0.3)["minutes"]
    assert found["error"] in ("timed out", "no complete answer in time")


class Hub:
    """A gateway with real TLS, and a robot that was deployed to write to it."""

    password = "0f3c" * 16

    def __init__(self, root: Path, machine: Machine) -> None:
        self.root, self.machine = root, machine
        self.authority = tls.authority()
        self.status = 204
        self.credentials: list[str] = []
        (root / "ca.pem").write_bytes(self.authority.pem)
        (root / "password").write_text(self.password)

    def answer(self, path: str, credential: str) -> loopback.Answer:
        assert path == "/api/v1/write"
        self.credentials.append(credential)
        return self.status, credential.encode()

    def deploy(self, *ports: int) -> None:
        files = {"password_file": str(self.root / "password"), "ca_file": str(self.root / "ca.pem")}
        hubs = [
            {"name": f"hub-{number}", "url": f"https://localhost:{port}", "username": "robot-1"} | files
            for number, port in enumerate(ports, 1)
        ]
        self.machine.change_record("roverwatch-vmagent", hubs=hubs)

    def check(self) -> dict[str, Any]:
        result = self.machine.check(hub_timeout_seconds=20.0, ready_timeout_seconds=20.0)
        said = json.dumps(result)
        assert self.password not in said
        assert all(credential not in said for credential in self.credentials)
        return result


@pytest.fixture
def hub(tmp_path: Path, machine: Machine) -> Hub:
    directory = tmp_path / "hub"
    directory.mkdir()
    return Hub(directory, machine)


def test_a_robot_and_its_hub(hub: Hub, web: Web) -> None:
    web.metrics = 'vmagent_remotewrite_pending_data_bytes{path="/q/2_AB", url="2:secret-url"} 4096\n'
    with tls.serving(hub.root, tls.server(hub.authority, ["localhost"]), answer=hub.answer) as port:
        hub.deploy(port)
        result = hub.check()
    assert result["problems"] == []
    (found,) = result["hubs"]
    assert (found["name"], found["kind"], found["reachable"], found["accepted"]) == ("hub-1", "ok", True, True)
    assert found["pending_bytes"] == 4096
    assert len(hub.credentials) == 1


def test_a_hub_that_refuses_the_robot(hub: Hub) -> None:
    hub.status = 401
    with tls.serving(hub.root, tls.server(hub.authority, ["localhost"]), answer=hub.answer) as port:
        hub.deploy(port)
        result = hub.check()
    (problem,) = result["problems"]
    assert problem == {
        "host": "robot-1",
        "service": "hub",
        "what": f"https://localhost:{port} refuses this robot's credential (HTTP 401)",
        "remedy": "ansible-playbook playbooks/site.yml --limit robot-1,hub-1",
    }
    assert (result["hubs"][0]["reachable"], result["hubs"][0]["accepted"]) == (True, False)


def test_a_hub_with_another_certificate(hub: Hub) -> None:
    with tls.serving(hub.root, tls.server(tls.authority(), ["localhost"]), answer=hub.answer) as port:
        hub.deploy(port)
        result = hub.check()
    (problem,) = result["problems"]
    assert "has a certificate that this robot refuses" in problem["what"]
    assert result["hubs"][0]["kind"] == gateway.AUTHORITY
    assert hub.credentials == []


def test_a_dead_zone_is_one_problem_for_each_hub_and_nothing_else(hub: Hub) -> None:
    with socket.socket() as one, socket.socket() as two:
        ports = []
        for bound in (one, two):
            bound.bind(("127.0.0.1", 0))
            ports.append(bound.getsockname()[1])
        hub.deploy(*ports)
        result = hub.check()
    assert [problem["service"] for problem in result["problems"]] == ["hub", "hub"]
    assert all("cannot be reached: connection refused" in problem["what"] for problem in result["problems"])
    assert [(found["name"], found["kind"], found["reachable"]) for found in result["hubs"]] == [
        ("hub-1", gateway.REFUSED, False),
        ("hub-2", gateway.REFUSED, False),
    ]


@pytest.mark.parametrize(("status", "problems"), [(502, 0), (401, 1)])
def test_what_is_the_hubs_own_trouble_is_no_problem_of_a_robot_where_hubs_may_be_silent(
    hub: Hub, status: int, problems: int
) -> None:
    hub.status = status
    with (
        tls.serving(hub.root, tls.server(hub.authority, ["localhost"]), answer=hub.answer) as port,
        socket.socket() as nobody,
    ):
        nobody.bind(("127.0.0.1", 0))
        hub.deploy(port, nobody.getsockname()[1])
        result = hub.machine.check(hub_timeout_seconds=20.0, ready_timeout_seconds=20.0, hubs_may_be_silent=True)
    assert len(result["problems"]) == problems
    assert [found["accepted"] for found in result["hubs"]] == [False, False]


def test_a_restart_by_systemd_is_a_problem_for_as_long_as_it_is_asked_for(machine: Machine) -> None:
    """Every unit of the machine was started again, once and a minute ago."""
    assert machine.problems() == machine.problems(restarts_allowed=0, restart_window_seconds=30) == []
    found = machine.problems(restarts_allowed=0, restart_window_seconds=300)
    assert [unit for unit, _ in found] == ["roverwatch-sensor", "roverwatch-vmagent"]
    for _, text in found:  # a minute ago, and as long as this test has taken since
        expected = r"has ended and was started again by systemd 1 times in 5 minutes, the last time 6\d s ago"
        assert re.fullmatch(expected, text)
    machine.units["roverwatch-vmagent"]["NRestarts"] = "0"
    again = machine.problems(restarts_allowed=0, restart_window_seconds=300)
    assert [unit for unit, _ in again] == ["roverwatch-sensor"]


@pytest.mark.parametrize(
    ("restarts", "in_journal", "told"),
    [
        (3, 3, 3),
        (2, 2, None),
        # Once a day for a month, and once just now.
        (30, 1, None),
        # A loop that a deployment has ended: the journal has it still.
        (0, 90, None),
        # There is no journal.
        (7, 0, 7),
    ],
)
def test_a_service_that_starts_again_and_again_is_found_while_it_runs(
    machine: Machine, restarts: int, in_journal: int, told: int | None
) -> None:
    machine.units["roverwatch-vmagent"]["NRestarts"] = str(restarts)
    machine.in_journal = in_journal
    what = [text for _, text in machine.problems()]
    assert len(what) == (told is not None)
    assert told is None or f"started again by systemd {told} times in 10 minutes, the last time 6" in what[0]


def test_and_while_it_does_not(machine: Machine) -> None:
    machine.units["roverwatch-vmagent"] |= {"NRestarts": "9", "ActiveState": "activating", "SubState": "auto-restart"}
    machine.units["roverwatch-vmagent"] |= {"MainPID": "0", "ControlGroup": ""}
    machine.change_record("roverwatch-vmagent", ready_url=NOBODY)
    assert machine.problems() == [
        ("roverwatch-vmagent", "is activating/auto-restart"),
        ("roverwatch-vmagent", "has ended and was started again by systemd 9 times in 10 minutes"),
    ]


def test_a_process_that_ends_while_it_is_looked_at_is_a_state(machine: Machine) -> None:
    (machine.paths.proc / "100" / "exe").unlink()
    assert machine.problems() == [("roverwatch-vmagent", "is deactivating/its process ended just now")]


@pytest.mark.parametrize("between_starts", [False, True])
def test_an_answer_of_another_program_is_not_the_services(machine: Machine, between_starts: bool) -> None:
    machine.process(4711, "stranger", machine.cgroups / "system.slice" / "stranger.service", inode=8)
    machine.listens(urlsplit(machine.url).port or 0, inode=8)
    machine.change_record("roverwatch-sensor", ready_url=NOBODY)
    if between_starts:
        machine.units["roverwatch-vmagent"] |= {"ActiveState": "activating", "MainPID": "0", "ControlGroup": ""}
    result = machine.check()
    found = [(p["what"], p["remedy"]) for p in result["problems"] if p["service"] == "roverwatch-vmagent"]
    assert len(found) == 1 + between_starts
    what, remedy = found[-1]
    assert what == (
        f"is not what answers at {machine.url}: stranger (pid 4711, stranger.service) has its port, "
        "and is scraped in its place"
    )
    assert "<role>_port" in remedy
    assert result["services"][1]["ready"] is False


def test_hubs_that_hang_do_not_hold_the_check(hub: Hub, silent_url: str) -> None:
    hub.deploy(*[int(silent_url.removesuffix("/health").rpartition(":")[2])] * 2)
    result = hub.machine.check(hub_timeout_seconds=0.5)
    assert [found["kind"] for found in result["hubs"]] == [gateway.TIMEOUT] * 2


def test_a_queue_that_grows_is_found_in_the_robots_history(hub: Hub, web: Web) -> None:
    hub.machine.record("roverwatch-victoriametrics", kind="binary", exe=str(hub.machine.exe), memory_max=48 * MIB)
    hub.machine.unit("roverwatch-victoriametrics", pid=100)
    hub.machine.add_cgroup("roverwatch.slice/roverwatch-victoriametrics.service", limit=48 * MIB, usage=20 * MIB)
    web.samples = {
        uplink.STUCK_QUERY: [sample(70000, url="2:secret-url")],
        uplink.DROPPED_QUERY: [],
    }
    with tls.serving(hub.root, tls.server(hub.authority, ["localhost"]), answer=hub.answer) as port:
        hub.deploy(port)
        (problem,) = hub.check()["problems"]
    assert "grown by 68.4K in ten minutes" in problem["what"]


def test_a_broken_list_of_hubs_names_the_file(machine: Machine) -> None:
    machine.change_record("roverwatch-vmagent", hubs=[{"url": "https://hub-1:8427"}])
    with pytest.raises(records.RecordError, match=r"roverwatch-vmagent\.json.*username"):
        machine.check()


@pytest.mark.parametrize(
    ("days", "what"),
    [
        (20, None),
        (9, "has a certificate that expires in 9 days"),
        (-2, "has a certificate that has expired"),
    ],
)
def test_the_certificate_of_a_gateway(machine: Machine, tmp_path: Path, days: int, what: str | None) -> None:
    # An hour more, so that it is still nine days when the test has run.
    end = tls.NOW + days * tls.DAY + tls.DAY / 24
    pair = tls.server(tls.authority(), start=tls.NOW - 30 * tls.DAY, end=end)
    with tls.serving(tmp_path, pair) as port:
        machine.change_record("roverwatch-vmagent", tls_port=port)
        result = machine.check(ready_timeout_seconds=20.0)
    assert [problem["what"] for problem in result["problems"]] == ([what] if what else [])
    assert all("vmauth_tls_cert" in problem["remedy"] for problem in result["problems"])
    assert result["services"][1]["certificate_days_left"] == pytest.approx(days, abs=0.1)
    assert result["services"][0]["certificate_days_left"] is None


def test_a_gateway_without_tls(machine: Machine, web: Web) -> None:
    port = int(web.url.rpartition(":")[2])
    machine.change_record("roverwatch-vmagent", tls_port=port)
    ((service, what),) = machine.problems(ready_timeout_seconds=20.0)
    assert service == "roverwatch-vmagent"
    assert what.startswith(f"shows no certificate at 127.0.0.1:{port}: ")


def test_images_are_inspected_in_one_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "podman"
    program.write_text(
        f'#!/bin/sh\necho "$@" >>{tmp_path}/log\necho one {IMAGE}\necho no such container >&2\nexit 125\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert service_now.inspect_images("podman", ["one", "gone"]) == {"one": IMAGE}
    assert (tmp_path / "log").read_text() == "inspect --type=container --format={{.Id}} {{.Image}} one gone\n"


def test_engine_that_is_gone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert service_now.inspect_images("podman", ["one"]) == {}


RULES = nftables.render([], default_drop=True)
NFT = """#!/bin/sh
[ "$*" = "list tables" ] || exit 9
cat {tables}
"""


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What `nft list tables` prints."""
    nft = tmp_path / "bin" / "nft"
    nft.parent.mkdir()
    nft.write_text(NFT.format(tables=tmp_path / "tables"))
    nft.chmod(0o755)
    monkeypatch.setenv("PATH", f"{nft.parent}:{os.environ['PATH']}")
    return tmp_path / "tables"


def firewall_problems(machine: Machine) -> list[dict[str, Any]]:
    return [problem for problem in machine.check()["problems"] if problem["service"] == "roverwatch-firewall"]


@pytest.mark.parametrize(
    ("listed", "word"), [("", "not in force"), ("table inet roverwatch2\n", "not in force"), (None, "cannot say")]
)
def test_rules_that_are_not_in_force(machine, tables, listed, word):
    machine.paths.firewall.write_text(RULES)
    if listed is not None:
        tables.write_text(listed)
    (problem,) = firewall_problems(machine)
    assert word in problem["what"]
    assert problem["remedy"] == "ansible-playbook playbooks/firewall.yml --limit robot-1"


def test_rules_that_are_in_force_and_machines_without_any(machine, tables):
    tables.write_text("table ip nat\n")
    assert firewall_problems(machine) == []
    machine.paths.firewall.write_text(nftables.render([]))
    assert firewall_problems(machine) == []
    machine.paths.firewall.write_text(RULES)
    tables.write_text("table ip nat\ntable inet roverwatch\n")
    assert firewall_problems(machine) == []
