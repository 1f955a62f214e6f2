"""The sensor service in docker: its container's cgroup, its cap, and what happens beyond it."""

from __future__ import annotations

import json
import re

import fleet

testinfra_hosts = ["ansible://robot-1"]
UNIT = "roverwatch-sensor"


def test_the_container_is_in_the_slice_under_its_cap(host):
    (own, cap), *between, (path, budget) = fleet.cgroups(host, fleet.worker_pid(host, UNIT))
    assert "/docker-" in own
    assert path.endswith(fleet.SLICE)
    assert cap == fleet.CAPS[UNIT]
    assert budget == fleet.BUDGET
    assert between == []


def test_only_a_small_supervisor_stays_beside_it(host):
    pid = fleet.show(host, UNIT, "MainPID")["MainPID"]
    assert host.file(f"/proc/{pid}/comm").content_string.strip() == "tail"


def test_the_container_has_no_privileges(host):
    status = host.file(f"/proc/{fleet.worker_pid(host, UNIT)}/status").content_string
    assert "CapEff:\t0000000000000000" in status
    assert "Uid:\t65532" in status


def test_a_container_that_dies_is_started_again_by_the_unit(host):
    before = fleet.worker_pid(host, UNIT)
    host.check_output(f"kill -9 {before}")

    assert fleet.eventually(lambda: fleet.show(host, UNIT, "NRestarts")["NRestarts"] == "1", 30)
    assert fleet.eventually(lambda: fleet.answers(host, "8000/readyz"), 30)
    assert fleet.worker_pid(host, UNIT) != before


def test_health_knows_docker_too_and_a_program_can_read_what_ansible_says(host, monkeypatch):
    monkeypatch.setenv("ANSIBLE_STDOUT_CALLBACK", "ansible.posix.json")
    run = fleet.playbook("health.yml", "--limit", "robot-1,hub-1")
    assert run.rc == 0, run.output
    assert json.loads(run.stdout)["stats"]["robot-1"]["failures"] == 0


def test_a_container_over_its_cap_is_killed_and_counted(host):
    before = fleet.main_pids(host)
    fleet.overrun(host, UNIT)
    assert fleet.eventually(lambda: fleet.main_pids(host)[UNIT] not in (0, before[UNIT]), 30)
    after = fleet.main_pids(host)
    assert {u for u in after if after[u] != before[u]} == {UNIT}
    run = fleet.playbook("health.yml", "--limit", "robot-1,hub-1")
    assert run.rc != 0
    assert re.search(rf"{UNIT}.*OOM", run.output), run.output
