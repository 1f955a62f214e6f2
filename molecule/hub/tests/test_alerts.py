"""Alerts reach the receiver, and are taken back. The rules are tested one by one by the unit tests."""

from __future__ import annotations

import re

import fleet
import pytest
import yaml

testinfra_hosts = ["ansible://hub-1"]

RULES = sorted((fleet.ROOT / "roles" / "vmalert" / "files" / "rules").glob("*.yml"))
# Metrics that exist only once something has happened, or on other machines than the lab's.
RARE = {
    "container_oom_events_total": "the file of the OOM kills is written at the first one",
    "node_textfile_mtime_seconds": "likewise",
    "roverwatch_release_state": "written by an update",
    "roverwatch_release_state_timestamp_seconds": "written by an update",
    "roverwatch_release_deadline_timestamp_seconds": "there while an update waits for its confirmation",
    "roverwatch_backup_last_success_timestamp_seconds": "written by a backup",
    "robot:push_failing": "there while a push fails",
}
# What the names of metrics start with, and functions and labels do not.
KNOWN = re.compile(
    r"(?:node|vm|vmagent|vmauth|vmalert|container|sensor|process|scrape|alertmanager|roverwatch|go)_|up$|robot:|fleet:|machine:"
)


def test_a_stopped_service_and_a_robot_that_is_gone_are_alerts_that_arrive_and_resolve():
    stopped = {"robot": "robot-1", "job": "node-exporter"}
    gone = {"robot": "robot-2"}
    fleet.docker("exec", fleet.container("hub-1"), "rm", "-f", "/var/log/lab-webhook.jsonl")
    service = "roverwatch-node-exporter"
    with fleet.cut_off("robot-2"):
        fleet.docker("exec", fleet.container("robot-1"), "systemctl", "stop", service)
        try:
            assert fleet.eventually(lambda: fleet.received("ServiceDown", **stopped) == {"firing"}, 240, 2)
            assert fleet.eventually(lambda: fleet.received("RobotGone", **gone) == {"firing"}, 240, 2)
        finally:
            fleet.docker("exec", fleet.container("robot-1"), "systemctl", "start", service)
    assert fleet.eventually(lambda: fleet.received("ServiceDown", **stopped) == {"firing", "resolved"}, 240, 2)
    assert fleet.eventually(lambda: fleet.received("RobotGone", **gone) == {"firing", "resolved"}, 240, 2)


def expressions() -> list[tuple[str, str]]:
    found = []
    for path in RULES:
        for group in yaml.safe_load(path.read_text())["groups"]:
            found += [(rule.get("alert") or rule["record"], rule["expr"]) for rule in group["rules"]]
    return found


def test_there_are_rules_to_look_at():
    assert len(expressions()) > 20


@pytest.mark.parametrize(("name", "expr"), expressions(), ids=[name for name, _ in expressions()])
def test_every_metric_that_a_rule_asks_for_is_there(name, expr):
    """A rule on a metric with a misspelt name is silent for ever: nothing else would say so."""
    without_strings = re.sub(r"\"[^\"]*\"|'[^']*'", '""', expr)
    metrics = {name for name in re.findall(r"[a-z][a-z_0-9:]+", without_strings) if KNOWN.match(name)}
    assert metrics, f"{name} asks for nothing that is known here: {expr}"
    for metric in metrics - set(RARE):
        count = fleet.query(fleet.container("hub-1"), f"count(last_over_time({metric}[1h]))")
        assert count.get("", 0) > 0, f"{name}: the hub has no {metric}"


def test_every_recording_rule_records_something():
    records = [name for name, _ in expressions() if ":" in name and name not in RARE]
    assert records
    for name in records:
        assert fleet.eventually(lambda n=name: fleet.query(fleet.container("hub-1"), f"count({n})"), 60), name


def test_the_hub_knows_every_robot_of_the_inventory():
    known = "max by (robot) (roverwatch_robot_info)"
    assert fleet.query(fleet.container("hub-1"), known) == {"robot-1": 1, "robot-2": 1}
