"""Dead zones, dead hubs and dead queues: every sample that a robot took is at the hubs in the end."""

from __future__ import annotations

import json
import time

import fleet
import pytest

HUBS = ("hub-1", "hub-2")
# Of a fraction, a copy has twelve digits.
COPIED = 1e-11


@pytest.fixture(autouse=True)
def everything_runs():
    """Each test starts with empty queues and hubs that are up to date, whatever the one before has left."""
    for robot in ("robot-1", "robot-2"):
        for hub in HUBS:
            assert fleet.eventually(lambda r=robot, h=hub: fleet.newest_sample_age(h, r) < 10, 120), f"{robot} → {hub}"
            assert fleet.eventually(lambda r=robot, h=hub: fleet.pending_bytes(r, h) == 0, 120), f"{robot} → {hub}"


def compare(
    robot: str, hub: str, start: float, end: float, rel_tol: float = 0.0
) -> tuple[fleet.Samples, fleet.Samples]:
    """What the robot has of that time, and what the hub lacks of it."""
    match = f'{{robot="{robot}"}}'
    own = fleet.export(robot, match, start, end)
    return own, fleet.lacking(own, fleet.export(hub, match, start, end), rel_tol)


def catch_up(robot: str, hub: str, since: float) -> float:
    """Wait until the robot's queue for the hub is empty; returns the seconds that it took."""
    assert fleet.eventually(lambda: fleet.newest_sample_age(hub, robot) < 5, 300), "the queue was not sent"
    assert fleet.eventually(lambda: fleet.pending_bytes(robot, hub) == 0, 300)
    return time.time() - since


def wait(seconds: float) -> None:
    time.sleep(seconds)


def test_an_outage_of_the_network_loses_nothing():
    start = time.time()
    wait(5)
    with fleet.cut_off("robot-1"):
        began = time.time()
        wait(fleet.OUTAGE_SECONDS)
        queued = {hub: fleet.pending_bytes("robot-1", hub) for hub in HUBS}
        ended = time.time()
    back = time.time()
    took = {hub: catch_up("robot-1", hub, back) for hub in HUBS}
    wait(3)

    for hub in HUBS:
        own, missing = compare("robot-1", hub, start, back)
        outage = fleet.count(fleet.export("robot-1", '{robot="robot-1"}', began, ended))
        assert outage > 300 * fleet.OUTAGE_SECONDS, "a scrape each second of hundreds of series"
        print(
            f"{hub}: {fleet.OUTAGE_SECONDS} s without a network, {outage} samples of {len(own)} series, "
            f"{queued[hub] / 1024:.0f} KiB queued ({queued[hub] / outage:.1f} bytes a sample); caught up "
            f"{took[hub]:.1f} s after it was back, {outage / took[hub]:.0f} samples a second"
        )
        assert missing == {}, f"{fleet.count(missing)} samples are missing at {hub}"


def test_what_a_kill_and_a_power_cut_lose_the_backfill_brings():
    container = fleet.container("robot-1")
    start = time.time()
    with fleet.cut_off("robot-1"):
        wait(fleet.OUTAGE_SECONDS / 3)
        fleet.docker("exec", container, "systemctl", "kill", "--signal=KILL", "roverwatch-vmagent")
        wait(fleet.OUTAGE_SECONDS / 3)
        fleet.docker("kill", container)
        fleet.docker("start", container)
        wait(fleet.OUTAGE_SECONDS / 3)
    back = time.time()
    for hub in HUBS:
        catch_up("robot-1", hub, back)
    wait(3)

    lost = {}
    for hub in HUBS:
        own, lost[hub] = compare("robot-1", hub, start, back)
        print(f"{hub}: {fleet.count(lost[hub])} of {fleet.count(own)} samples are missing before the backfill")
    backfill("robot-1", start)
    for hub in HUBS:
        own, missing = compare("robot-1", hub, start, back, COPIED)
        print(f"{hub}: {fleet.count(missing)} of {fleet.count(own)} samples are missing after the backfill")
        assert own
        assert missing == {}


def test_a_damaged_queue_is_an_alert_and_the_backfill_closes_the_gap():
    """One byte off a chunk on robot-1, an empty metainfo.json on robot-2."""
    damage = {
        "robot-1": "for f in $(ls $q/*/* | grep -v -e metainfo -e flock); do truncate -s -1 $f; done",
        "robot-2": "for f in $q/*/metainfo.json; do : > $f; done",
    }
    start = time.time()
    with fleet.cut_off(*damage):
        wait(30)
        for robot, command in damage.items():
            queue = "q=/var/lib/roverwatch/vmagent/queue/persistent-queue"
            service = "roverwatch-vmagent"
            assert min(fleet.pending_bytes(robot, hub) for hub in HUBS) > 0
            # Stopped, so that the queue is on the disk as a whole, then damaged.
            fleet.docker("exec", fleet.container(robot), "sh", "-c", f"systemctl stop {service}; {queue}; {command}")
            fleet.docker("exec", fleet.container(robot), "systemctl", "start", service)
    back = time.time()
    for robot in damage:
        for hub in HUBS:
            catch_up(robot, hub, back)
            _, missing = compare(robot, hub, start, back)
            print(f"{robot} → {hub}: {fleet.count(missing)} samples lost with the queue")
            assert missing, "the damage did no harm, so this test shows nothing"
    for robot in damage:
        assert fleet.eventually(lambda r=robot: ("PushQueueDamaged", r) in firing("hub-1"), 180, 2), firing("hub-1")
    backfill("robots", start)
    for robot in damage:
        for hub in HUBS:
            own, missing = compare(robot, hub, start, back, COPIED)
            assert own
            assert missing == {}, f"{robot} → {hub}: {fleet.count(missing)} samples are still missing"


def test_a_hub_that_is_down_or_killed_loses_nothing_and_the_other_one_has_everything_at_once():
    start = time.time()
    hub = fleet.container("hub-1")
    fleet.docker("exec", hub, "systemctl", "stop", "roverwatch-vmauth", "roverwatch-victoriametrics")
    wait(fleet.HUB_OUTAGE_SECONDS)
    for robot in ("robot-1", "robot-2"):
        assert fleet.newest_sample_age("hub-2", robot) < 10, "the second hub waits for the first"
    down = time.time()
    fleet.docker("exec", hub, "systemctl", "start", "roverwatch-victoriametrics", "roverwatch-vmauth")
    back = time.time()
    took = {robot: catch_up(robot, "hub-1", back) for robot in ("robot-1", "robot-2")}
    wait(3)
    for robot, seconds in took.items():
        print(f"hub-1 was down for {down - start:.0f} s and had all of {robot} {seconds:.1f} s after it was back")
        for name in HUBS:
            own, missing = compare(robot, name, start, back)
            assert own
            assert missing == {}, f"{fleet.count(missing)} samples of {robot} are missing at {name}"


def test_a_hub_that_is_killed_while_it_ingests_has_everything_after_the_backfill():
    """VictoriaMetrics acknowledges a sample some seconds before it is on the disk; the robots have it."""
    start = time.time()
    wait(10)
    fleet.docker("exec", fleet.container("hub-1"), "systemctl", "kill", "--signal=KILL", "roverwatch-victoriametrics")
    killed = time.time()
    wait(10)
    for robot in ("robot-1", "robot-2"):
        catch_up(robot, "hub-1", killed)
    wait(3)
    end = time.time()
    for robot in ("robot-1", "robot-2"):
        own, missing = compare(robot, "hub-1", start, end - 3)
        stamps = sorted({stamp for samples in missing.values() for stamp in samples})
        span = (stamps[-1] - stamps[0]) / 1000 if stamps else 0
        print(f"{robot}: {fleet.count(missing)} of {fleet.count(own)} samples, over {span:.0f} s, went with the kill")
        assert all(stamp < killed * 1000 for stamp in stamps), "samples are missing that came after the kill"
        assert compare(robot, "hub-2", start, end - 3)[1] == {}
    backfill("robots", start)
    for robot in ("robot-1", "robot-2"):
        assert compare(robot, "hub-1", start, end - 3, COPIED)[1] == {}


def backfill(limit: str, start: float) -> None:
    """Fill the gaps since `start`, then see that a second run finds none."""
    # What is younger than a minute may still be on its way, and is left out.
    wait(65)
    period = f"{int((time.time() - start) / 60) + 2}m"
    arguments = ("--limit", limit, "-e", f"backfill_period={period}")
    run = fleet.playbook("backfill.yml", *arguments)
    print(run.output)
    assert run.rc == 0, run.output
    again = fleet.playbook("backfill.yml", *arguments)
    assert again.rc == 0, again.output
    assert again.changed() == {}
    report = json.loads((fleet.ROOT / "reports" / "backfill.json").read_text())
    assert report["pairs"]
    assert {(pair["missing"], pair["copied"]) for pair in report["pairs"]} == {(0, 0)}


def firing(hub: str) -> set[tuple[str, str]]:
    """Alerts that fire at a hub, each with its robot."""
    url = "http://127.0.0.1:8880/api/v1/alerts"
    text = fleet.python(fleet.container(hub), f"import urllib.request as u; print(u.urlopen({url!r}).read().decode())")
    return {
        (alert["labels"]["alertname"], alert["labels"].get("robot", ""))
        for alert in json.loads(text)["data"]["alerts"]
        if alert["state"] == "firing"
    }
