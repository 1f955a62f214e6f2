"""The table and the verdict."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.health import report
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.report import plain

MIB = 2**20
REDEPLOY = "ansible-playbook playbooks/site.yml --limit robot-1"


def service(unit: str, **changes: Any) -> dict[str, Any]:
    return {
        "unit": unit,
        "state": "active",
        "ready": True,
        "ready_ms": 2.4,
        "restarts": 0,
        "memory": {
            "usage_bytes": 30 * MIB,
            "working_set_bytes": 24 * MIB,
            "peak_bytes": 36 * MIB + MIB // 2,
            "limit_bytes": 48 * MIB,
        },
        "oom_kills_total": 0,
    } | changes


def result(*services: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "services": list(services) or [service("roverwatch-vmagent")],
        "slice": {
            "unit": "roverwatch.slice",
            "memory": {
                "usage_bytes": 120 * MIB,
                "working_set_bytes": 90 * MIB,
                "peak_bytes": 150 * MIB,
                "limit_bytes": 300 * MIB,
            },
            "caps_total_bytes": 288 * MIB,
            "budget_bytes": 300 * MIB,
        },
        "uptime_seconds": 5.0,
        "problems": [],
        "changed": False,
        "invocation": {"module_args": {}},
    } | changes


def robot(name: str, found: dict[str, Any] | None = None, *expected: str) -> report.Machine:
    return report.Machine(name, True, found or result(), expected)


def hub(name: str = "hub-1", **ages: float) -> report.Machine:
    seen = {"newest_sample_age_seconds": {key.replace("_", "-"): age for key, age in ages.items()}}
    return report.Machine(name, False, result(service("roverwatch-vmauth"), hub=seen))


def uplink(name: str, accepted: bool = True, pending_bytes: int | None = 0) -> dict[str, Any]:
    return {"name": name, "accepted": accepted, "pending_bytes": pending_bytes}


def fires(name: str, severity: str, about: str = "") -> dict[str, str]:
    return {"name": name, "severity": severity, "robot": about, "summary": f"{name} of it", "action": "do this"}


def test_what_fires_on_the_hubs_is_told_once_with_its_remedy() -> None:
    critical, warning = fires("PushQueueDamaged", "critical", "robot-1"), fires("ClockSkew", "warning", "robot-1")
    other, own = fires("OomKill", "critical", "robot-2"), fires("RulesFailing", "critical")
    hubs = []
    for name, alerts in (("hub-1", [critical, warning, other]), ("hub-2", [critical, own])):
        machine = hub(name, robot_1=3.0)
        assert machine.result is not None
        hubs.append(report.Machine(name, False, {**machine.result, "alerts": {"firing": alerts}}))
    # robot-2 is not one of those that were asked for.
    verdict = report.build([robot("robot-1"), *hubs], 60)
    assert whats(verdict) == [
        ("robot-1", "alert", "PushQueueDamaged fires on hub-1, hub-2: PushQueueDamaged of it"),
        ("hub-2", "alert", "RulesFailing fires on hub-2: RulesFailing of it"),
    ]
    assert [(warning.host, warning.what) for warning in verdict.warnings] == [
        ("robot-1", "ClockSkew fires on hub-1: ClockSkew of it")
    ]
    assert verdict.summary == "3 of 3 services on 1 robot and 2 hubs healthy, 2 problems, 1 warning"
    assert "robot-1: alert PushQueueDamaged fires on hub-1, hub-2: PushQueueDamaged of it" in texts(verdict)
    assert texts(verdict)[-1] == "    → do this"
    assert verdict.as_dict("now")["warnings"][0]["remedy"] == "do this"


def test_a_robot_that_has_come_back_is_no_problem_until_the_rules_have_seen_it() -> None:
    alerts = {"alerts": {"firing": [fires("RobotGone", "critical", "robot-1")]}}
    for age, healthy in ((5.0, True), (61.0, False)):
        machine = hub(robot_1=age)
        assert machine.result is not None
        hubs = report.Machine("hub-1", False, {**machine.result, **alerts})
        verdict = report.build([robot("robot-1"), hubs], 60)
        assert verdict.healthy is healthy
        told = [*verdict.problems, *verdict.warnings]
        (gone,) = [one for one in told if one.what == "RobotGone fires on hub-1: RobotGone of it"]
        assert gone.remedy == (
            "nothing: its newest sample is 5 s old, so this ends within a minute" if healthy else "do this"
        )


def test_warnings_alone_leave_a_fleet_healthy() -> None:
    machine = hub(robot_1=3.0)
    assert machine.result is not None
    alerts = {"alerts": {"firing": [fires("ClockSkew", "warning", "robot-1")]}}
    verdict = report.build([robot("robot-1"), report.Machine("hub-1", False, {**machine.result, **alerts})], 60)
    assert verdict.healthy
    assert verdict.summary == "2 of 2 services on 1 robot and 1 hub healthy, 1 warning"


def counted(*runs: int) -> dict[str, Any]:
    return {"minutes": {"start": 0, "robots": {"robot-1": list(runs)}}}


def test_a_hole_in_what_a_hub_has_is_a_problem_although_all_services_are_well() -> None:
    here = robot("robot-1", result(hubs=[uplink("hub-1"), uplink("hub-2")], **counted(16, 60)))
    hubs = []
    for name, minutes in (("hub-1", counted(16, 30, 0, 2, 16, 28)), ("hub-2", counted(16, 60))):
        machine = hub(name, robot_1=3.0)
        assert machine.result is not None
        hubs.append(report.Machine(name, False, {**machine.result, **minutes}))
    verdict = report.build([here, *hubs], 60, now=3700)
    assert whats(verdict) == [
        (
            "robot-1",
            "history",
            "on hub-1 lacks 2.0 min of what robot-1 measured in the last hours, from 00:30 UTC on; robot-1 has them",
        )
    ]
    assert verdict.problems[0].remedy == "ansible-playbook playbooks/backfill.yml --limit robot-1"


def test_who_was_not_asked_is_said() -> None:
    mute = hub(robot_1=3.0)
    assert mute.result is not None
    broken = {**mute.result, "alerts": {"error": "timed out"}, "minutes": {"error": "timed out"}}
    here = robot("robot-1", result(hubs=[uplink("hub-1"), uplink("hub-2"), uplink("hub-3")]))
    verdict = report.build([here, report.Machine("hub-1", False, broken)], 60)
    assert verdict.healthy
    assert [(said.host, said.what) for said in verdict.warnings] == [
        ("hub-1", "does not say what fires there: timed out"),
        ("hub-1", "does not say what it lacks of the robots: timed out"),
        ("hub-2, hub-3", "were not asked what fires and what is missing there of these robots"),
    ]
    away = report.build([report.Machine("hub-1", False, {"unreachable": True, "msg": "no route"})], 60)
    assert [said.what for said in away.warnings] == [
        "does not say what fires there: it was not checked",
        "does not say what it lacks of the robots: it was not checked",
    ]


def texts(verdict: report.Report) -> list[str]:
    return [line.text for line in verdict.lines()]


def whats(verdict: report.Report) -> list[tuple[str, str, str]]:
    return [(problem.host, problem.service, problem.what) for problem in verdict.problems]


def test_all_is_well() -> None:
    verdict = report.build([robot("robot-1"), robot("robot-2"), hub(robot_1=3.2, robot_2=4.0)], 60)
    assert verdict.healthy
    assert verdict.summary == "3 of 3 services on 2 robots and 1 hub healthy"
    assert verdict.sample_ages == {"robot-1": 3.2, "robot-2": 4.0}
    assert all(line.healthy is not False for line in verdict.lines())


def test_summary_of_robots_alone() -> None:
    services = [service(f"roverwatch-{name}") for name in "abcd"]
    verdict = report.build([robot(f"robot-{number}", result(*services)) for number in (1, 2, 3)], 60)
    assert verdict.summary == "12 of 12 services on 3 robots healthy"


def test_table_is_aligned() -> None:
    broken = service("roverwatch-node-exporter", state="failed", ready=False, memory=None, restarts=12)
    fault = {"service": "roverwatch-node-exporter", "what": "is failed", "remedy": "look"}
    found = result(service("roverwatch-vmagent"), broken, problems=[fault], hubs=[uplink("hub-1")])
    waiting = result(hubs=[uplink("hub-1", pending_bytes=8 * MIB), uplink("hub-2", pending_bytes=4 * MIB)])
    verdict = report.build([robot("robot-10", found), robot("robot-2", waiting), hub(robot_2=5, robot_10=6)], 60)
    assert texts(verdict) == [
        "ROBOT     SERVICE                   STATE   READY  RESTARTS  MEM   PEAK  CAP   %  OOM",
        "robot-2   roverwatch-vmagent        active   2 ms         0  24M  36.5M  48M  50    0",
        "robot-10  roverwatch-vmagent        active   2 ms         0  24M  36.5M  48M  50    0",
        "robot-10  roverwatch-node-exporter  failed     no        12    -      -    -   -    0",
        "hub-1     roverwatch-vmauth         active   2 ms         0  24M  36.5M  48M  50    0",
        "",
        "ROBOT     SLICE             CAPS  MEM  PEAK  BUDGET   %  QUEUE  SAMPLE AGE AT HUB",
        "robot-2   roverwatch.slice  288M  90M  150M    300M  30    12M                5 s",
        "robot-10  roverwatch.slice  288M  90M  150M    300M  30      0                6 s",
        "hub-1     roverwatch.slice  288M  90M  150M    300M  30      -                  -",
        "",
        "robot-10: roverwatch-node-exporter is failed",
        "    → look",
        "hub-2: hub was not asked what fires and what is missing there of these robots",
        "    → name hub-2 in --limit, too",
    ]
    colours = {line.text.split()[1]: line.healthy for line in verdict.lines() if line.text.startswith("robot-10 ")}
    assert colours == {
        "roverwatch-vmagent": True,
        "roverwatch-node-exporter": False,
        "roverwatch.slice": True,
    }


def test_problem_of_a_service() -> None:
    fault = {"service": "roverwatch-vmagent", "what": "is not ready", "remedy": "look"}
    verdict = report.build([robot("robot-1", result(problems=[fault])), robot("robot-2")], 60)
    assert not verdict.healthy
    assert verdict.summary == "1 of 2 services on 2 robots healthy, 1 problem"


def test_problem_of_the_slice_leaves_its_services_healthy() -> None:
    fault = {"service": "roverwatch.slice", "what": "has no limit", "remedy": REDEPLOY}
    verdict = report.build([robot("robot-1", result(problems=[fault]))], 60)
    assert verdict.summary == "1 of 1 services on 1 robot healthy, 1 problem"
    assert not verdict.healthy


def test_unreachable_robot_counts_with_the_services_it_should_have() -> None:
    gone = report.Machine(
        "robot-3", True, {"unreachable": True, "msg": "Task failed: timed out", "changed": False}, ["a", "b"]
    )
    verdict = report.build([robot("robot-1"), gone], 60)
    assert whats(verdict) == [("robot-3", "host", "unreachable: timed out")]
    assert verdict.summary == "1 of 3 services on 2 robots healthy, 1 problem"
    rows = [line for line in verdict.lines() if line.text.startswith("robot-3 ")]
    assert [(line.text.split()[2], line.healthy) for line in rows] == [("unreachable", False)]


def test_module_that_failed() -> None:
    verdict = report.build([report.Machine("robot-1", True, {"failed": True, "msg": "no systemd"})], 60)
    assert whats(verdict) == [("robot-1", "host", "cannot be checked: no systemd")]


@pytest.mark.parametrize(
    ("stderr", "told"),
    [
        (
            "Warning\nsudo: sorry, you must have a tty to run sudo\n",
            "sudo wants a terminal (Defaults requiretty): take",
        ),
        ("/bin/sh: 1: /usr/bin/python3: not found", "/bin/sh: 1: /usr/bin/python3: not found (No start of json char)"),
        ("", "No start of json char"),
    ],
)
def test_a_module_that_was_not_let_do_anything(stderr: str, told: str) -> None:
    result = {"failed": True, "module_stderr": stderr, "msg": "Task failed: No start of json char"}
    assert plain.message(result).startswith(told)


def test_host_without_a_result() -> None:
    verdict = report.build([report.Machine("robot-1", True, None)], 60)
    assert whats(verdict) == [("robot-1", "host", "was not checked")]
    assert verdict.summary == "0 of 0 services on 1 robot healthy, 1 problem"


def test_nothing_installed_is_not_healthy() -> None:
    verdict = report.build([report.Machine("robot-1", True, result(services=[]))], 60)
    assert whats(verdict) == [("robot-1", "host", "has no services")]


def test_missing_unit_has_a_row_and_counts() -> None:
    fault = {"service": "roverwatch-sensor", "what": "is not installed", "remedy": REDEPLOY}
    found = result(problems=[fault])
    verdict = report.build([robot("robot-1", found, "roverwatch-vmagent", "roverwatch-sensor")], 60)
    assert verdict.summary == "1 of 2 services on 1 robot healthy, 1 problem"
    assert any(line.text.split()[1:3] == ["roverwatch-sensor", "missing"] for line in verdict.lines())


@pytest.mark.parametrize(("age", "healthy"), [(60.0, True), (60.1, False)])
def test_age_of_the_newest_sample(age: float, healthy: bool) -> None:
    verdict = report.build([robot("robot-1"), hub(robot_1=age)], 60)
    assert verdict.healthy is healthy


def test_stale_robot_names_hub_and_limit() -> None:
    verdict = report.build([robot("robot-1"), hub(robot_1=95.0)], 60)
    what = "newest sample on hub-1 is 95 s old (health_max_sample_age_seconds is 60)"
    assert whats(verdict) == [("robot-1", "roverwatch-vmagent", what)]


def test_robot_that_the_hub_has_never_seen() -> None:
    verdict = report.build([robot("robot-1"), hub(robot_9=1.0)], 60)
    assert whats(verdict) == [("robot-1", "roverwatch-vmagent", "has no sample on hub-1 in the last day")]
    assert verdict.sample_ages == {"robot-1": None}


def test_without_a_hub_there_is_no_age_to_judge() -> None:
    verdict = report.build([robot("robot-1")], 60)
    assert verdict.healthy
    assert verdict.sample_ages == {}
    assert texts(verdict)[-2].endswith(" -")


def test_hub_that_cannot_answer_is_its_own_problem_only() -> None:
    fault = {"service": "hub", "what": "does not answer", "remedy": "look"}
    silent = report.Machine("hub-1", False, result(hub={"error": "refused"}, problems=[fault]))
    verdict = report.build([robot("robot-1"), silent], 60)
    assert whats(verdict) == [("hub-1", "hub", "does not answer")]


def test_every_hub_must_be_fresh_and_the_oldest_age_is_shown() -> None:
    machines = [robot("robot-1"), hub("hub-1", robot_1=2.0), hub("hub-2", robot_1=99.0)]
    verdict = report.build(machines, 60)
    assert verdict.sample_ages == {"robot-1": 99.0}
    assert [what for _, _, what in whats(verdict)] == [
        "newest sample on hub-2 is 99 s old (health_max_sample_age_seconds is 60)"
    ]
    unseen = report.build([robot("robot-1"), hub("hub-1"), hub("hub-2", robot_1=2.0)], 60)
    assert unseen.sample_ages == {"robot-1": None}


def test_a_robot_in_a_dead_zone_has_that_problem_and_no_other() -> None:
    fault = {"service": "hub", "what": "https://hub-1:8427 cannot be reached: timed out", "remedy": "wait"}
    found = result(hubs=[uplink("hub-1", accepted=False, pending_bytes=3 * MIB)], problems=[fault])
    verdict = report.build([robot("robot-1", found), hub(robot_1=500.0)], 60)
    assert whats(verdict) == [("robot-1", "hub", "https://hub-1:8427 cannot be reached: timed out")]
    assert verdict.summary == "2 of 2 services on 1 robot and 1 hub healthy, 1 problem"
    assert verdict.sample_ages == {"robot-1": 500.0}
    # Of another hub, which it does reach, old samples are a problem still.
    verdict = report.build([robot("robot-1", found), hub("hub-2", robot_1=500.0)], 60)
    assert [service for _, service, _ in whats(verdict)] == ["hub", "roverwatch-vmagent"]


def test_a_queue_that_nobody_knows() -> None:
    found = result(hubs=[uplink("hub-1", pending_bytes=None)])
    (row,) = [text for text in texts(report.build([robot("robot-1", found)], 60)) if "roverwatch.slice" in text]
    assert row.split()[-2:] == ["-", "-"]


def test_hubs_are_in_the_data() -> None:
    found = result(hubs=[uplink("hub-1", pending_bytes=7)])
    data = report.build([robot("robot-1", found)], 60).as_dict("2026-01-02T03:04:05+00:00")
    assert data["hosts"]["robot-1"]["hubs"] == [uplink("hub-1", pending_bytes=7)]


def test_data_for_other_programs() -> None:
    gone = report.Machine("robot-2", True, {"unreachable": True, "msg": "timed out"})
    verdict = report.build([robot("robot-1"), gone], 60)
    data = verdict.as_dict("2026-01-02T03:04:05+00:00")
    assert json.loads(json.dumps(data)) == data
    assert data["healthy"] is False
    assert data["summary"] == verdict.summary
    assert data["time"] == "2026-01-02T03:04:05+00:00"
    assert data["problems"][0]["host"] == "robot-2"
    # What Ansible adds to a result is not ours to publish.
    assert set(data["hosts"]["robot-1"]) == {"robot", "services", "slice", "uptime_seconds"}
    assert data["hosts"]["robot-2"] == {"robot": True, "msg": "timed out"}
