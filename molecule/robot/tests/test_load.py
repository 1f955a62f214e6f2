"""A load test on the robot itself: what it reports, and that nothing of it stays."""

import json

import fleet
import pytest

testinfra_hosts = ["ansible://robots"]

REPORT = fleet.ROOT / "reports/load_test.json"
HEY = fleet.ROOT / "artifacts" / "hey"


@pytest.mark.skipif(not HEY.exists(), reason="hey is not in the store: it comes from Debian alone, with mmdebstrap")
def test_a_load_is_answered_in_the_services_own_cgroup_and_leaves_nothing(host):
    robot = host.backend.get_hostname()
    run = fleet.playbook("load_test.yml", "--limit", robot, "-e", "load_test_duration=6s")
    assert run.rc == 0, run.output
    assert f"{robot} " in run.output and " of 6 s: " in run.output, "a line of progress"
    report = json.loads(REPORT.read_text())
    figures = report["hosts"][robot]
    assert report["passed"]
    assert figures["requests"] > 100
    assert (figures["failed"], figures["oom_kills"]) == (0, 0)
    assert 0 < figures["latency_ms"]["p50"] <= figures["latency_ms"]["p99"]
    assert 0 < figures["working_set_bytes"] <= figures["peak_bytes"] < figures["limit_bytes"]
    assert figures["limit_bytes"] == fleet.CAPS["roverwatch-sensor"]
    assert not host.file("/opt/roverwatch/hey").exists
    assert host.run("pgrep -x hey").rc == 1
    assert "roverwatch-load-test" not in host.check_output("systemctl list-units --all --no-legend --plain")
