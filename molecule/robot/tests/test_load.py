"""A load test on the robots themselves: what it reports, and that nothing of it stays."""

import json
import re

import fleet
import pytest
import testinfra

ROBOTS = {"robot-1", "robot-2"}
REPORT = fleet.ROOT / "reports/load_test.json"
HEY = fleet.ROOT / "artifacts" / "hey"


@pytest.mark.skipif(not HEY.exists(), reason="hey is not in the store: it comes from Debian alone, with mmdebstrap")
def test_a_load_is_answered_in_the_services_own_cgroup_and_leaves_nothing():
    """Both robots at once, as is the playbook's way."""
    run = fleet.playbook("load_test.yml", "-e", "load_test_duration=6s")
    assert run.rc == 0, run.output
    report = json.loads(REPORT.read_text())
    assert report["passed"]
    assert set(report["hosts"]) == ROBOTS
    for robot, figures in report["hosts"].items():
        assert re.search(rf"^.*\b{robot} .* of 6 s: ", run.output, re.MULTILINE), "a line of progress"
        assert figures["requests"] > 100
        assert (figures["failed"], figures["oom_kills"]) == (0, 0)
        assert 0 < figures["latency_ms"]["p50"] <= figures["latency_ms"]["p99"]
        assert 0 < figures["working_set_bytes"] <= figures["peak_bytes"] < figures["limit_bytes"]
        assert figures["limit_bytes"] == fleet.CAPS["roverwatch-sensor"]
    for host in testinfra.get_hosts(["ansible://robots"], ansible_inventory=str(fleet.INVENTORY), sudo=True):
        assert not host.file("/opt/roverwatch/hey").exists
        assert host.run("pgrep -x hey").rc == 1
        assert "roverwatch-load-test" not in host.check_output("systemctl list-units --all --no-legend --plain")
