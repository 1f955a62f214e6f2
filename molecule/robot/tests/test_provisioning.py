"""Runs on a robot that is provisioned: what they change, and what they leave alone. Both robots are in each run."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import fleet
import pytest
import testinfra

ROBOTS = ("robot-1", "robot-2")
TARGETS = "count(up == 1) by (robot)"


@pytest.fixture(scope="module")
def robots() -> dict[str, Any]:
    found = testinfra.get_hosts(["ansible://robots"], ansible_inventory=str(fleet.INVENTORY), sudo=True)
    hosts = {host.backend.get_hostname(): host for host in found}
    assert set(hosts) == set(ROBOTS)
    return hosts


def main_pids(robots) -> dict[str, dict[str, int]]:
    return {robot: fleet.main_pids(host) for robot, host in robots.items()}


def changed(before: dict[str, int], after: dict[str, int]) -> set[str]:
    """Units whose process is another one."""
    assert set(before) == set(after)
    return {unit for unit in after if after[unit] != before[unit]}


def has_targets(robots, number: int) -> bool:
    return all(fleet.query(host, TARGETS).get(robot) == number for robot, host in robots.items())


def test_a_second_run_changes_nothing_and_restarts_nothing(robots):
    before = main_pids(robots)
    start = time.monotonic()
    run = fleet.playbook("site.yml", "--limit", "robots,hub-1")
    print(f"a run without changes takes {time.monotonic() - start:.1f} s")
    assert run.rc == 0, run.output
    assert run.changed() == {}
    assert main_pids(robots) == before
    for robot in robots:
        print(f"{robot}: {run.recap[robot]['ok']} tasks")
        assert run.recap[robot]["ok"] <= 14


def test_check_mode_after_it_changes_nothing(robots):
    run = fleet.playbook("site.yml", "--check", "--diff", "--limit", "robots,hub-1")
    assert run.rc == 0, run.output
    assert set(robots) < set(run.recap)
    assert run.changed() == {}


def test_an_added_service_is_scraped_and_a_removed_one_is_not(robots):
    """A second instance of the sensor service, and back: nobody edits a scrape list."""
    two = ["-e", "sensor_service_instances=2", "-e", "sensor_service_memory_max=44M"]
    run = fleet.playbook("site.yml", "--limit", "robots", *two)
    assert run.rc == 0, run.output
    assert fleet.eventually(lambda: has_targets(robots, 5), 60)
    for host in robots.values():
        *own, _ = fleet.cgroups(host, fleet.worker_pid(host, "roverwatch-sensor-2"))
        assert min(limit for _, limit in own if limit is not None) == 44 << 20

    run = fleet.playbook("site.yml", "--limit", "robots")
    assert run.rc == 0, run.output
    for host in robots.values():
        assert not host.file("/etc/systemd/system/roverwatch-sensor-2.service").exists
        assert not host.file("/etc/roverwatch/scrape.d/roverwatch-sensor-2.yml").exists
        assert host.run("podman container exists roverwatch-sensor-2").rc == 1
    assert fleet.eventually(lambda: has_targets(robots, 4), 60)


def test_an_interrupted_run_is_finished_by_the_next(robots):
    """A changed unit on the disk that the process was not started with: the next run restarts that service alone."""
    before = main_pids(robots)
    unit = "roverwatch-node-exporter"
    path = f"/etc/systemd/system/{unit}.service"
    for host in robots.values():
        host.check_output(f"sed -i s/ROVERWATCH_REVISION=.*/ROVERWATCH_REVISION=other/ {path}")
        host.check_output(f"systemctl daemon-reload && systemctl restart {unit}")
    run = fleet.playbook("site.yml", "--limit", "robots")
    assert run.rc == 0, run.output
    after = main_pids(robots)
    assert {robot: changed(before[robot], after[robot]) for robot in robots} == {robot: {unit} for robot in ROBOTS}


@pytest.mark.parametrize("unit", ["roverwatch-vmagent", "roverwatch-sensor"])
def test_a_process_over_the_cap_is_killed_and_nothing_else(robots, unit):
    """The kernel kills in the service's cgroup alone; the service comes back, and the kill is counted."""
    for host in robots.values():
        before = fleet.main_pids(host)
        fleet.overrun(host, unit)

        def back(host=host, before=before) -> bool:
            state = fleet.show(host, unit, "SubState", "MainPID")
            return state["SubState"] == "running" and int(state["MainPID"]) not in (0, before[unit])

        assert fleet.eventually(back, 30)
        assert changed(before, fleet.main_pids(host)) == {unit}

    run = fleet.playbook("health.yml", "--limit", "robots,hub-1")
    assert run.rc != 0
    assert re.search(rf"{unit}.*OOM", run.output), run.output
    problems = json.loads((fleet.ROOT / "reports/health.json").read_text())["problems"]
    killed = {problem["host"] for problem in problems if problem["service"] == unit and "OOM" in problem["what"]}
    assert killed == set(robots)
