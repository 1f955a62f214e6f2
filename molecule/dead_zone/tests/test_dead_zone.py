"""Dead zones, dead hubs and dead queues: every sample that a robot took is at the hubs in the end.

The tests belong together: what each of them loses, the last one brings.
"""

from __future__ import annotations

import json
import time

import fleet
import pytest

ROBOTS = ("robot-1", "robot-2")
HUBS = ("hub-1", "hub-2")
SERVICE = "roverwatch-vmagent"

# Robot, start and end of each time in which something was lost.
losses: list[tuple[str, float, float]] = []


@pytest.fixture(autouse=True)
def everything_runs():
    """Each test starts with empty queues and hubs that are up to date, whatever the one before has left."""
    for robot in ROBOTS:
        for hub in HUBS:
            catch_up(robot, hub, time.time())


def catch_up(robot: str, hub: str, since: float) -> float:
    """Wait until the robot's queue for the hub is empty; returns the seconds that it took."""
    assert fleet.eventually(lambda: fleet.answers(fleet.container(hub), "8428/health"), 60), f"{hub} does not answer"
    assert fleet.eventually(lambda: fleet.newest_sample_age(hub, robot) < 5, 600), f"{robot} → {hub}: not up to date"
    assert fleet.eventually(lambda: fleet.pending_bytes(robot, hub) == 0, 600), f"{robot} → {hub}: a queue stays"
    return time.time() - since


def compare(robot: str, hub: str, start: float, end: float) -> tuple[fleet.Samples, fleet.Samples]:
    """What the robot has of that time, and what the hub lacks of it."""
    match = f'{{robot="{robot}"}}'
    own = fleet.export(robot, match, start, end)
    assert own, f"{robot} has no history of its own"
    return own, fleet.lacking(own, fleet.export(hub, match, start, end))


def note_loss(robot: str, start: float, end: float) -> dict[str, fleet.Samples]:
    """Print what each hub lacks, and keep the time for the backfill."""
    losses.append((robot, start, end))
    found = {}
    for hub in HUBS:
        own, found[hub] = compare(robot, hub, start, end)
        print(f"{robot} → {hub}: {fleet.count(found[hub])} of {fleet.count(own)} samples are missing")
    return found


def test_an_outage_of_the_network_loses_nothing():
    start = time.time()
    time.sleep(5)
    with fleet.cut_off("robot-1"):
        began = time.time()
        time.sleep(fleet.OUTAGE_SECONDS)
        queued = {hub: fleet.pending_bytes("robot-1", hub) for hub in HUBS}
        ended = time.time()
    back = time.time()
    took = {hub: catch_up("robot-1", hub, back) for hub in HUBS}
    time.sleep(3)

    outage = fleet.count(fleet.export("robot-1", '{robot="robot-1"}', began, ended))
    assert outage > 200 * fleet.OUTAGE_SECONDS, "a scrape each second of all that is kept, some 230 series"
    for hub in HUBS:
        own, missing = compare("robot-1", hub, start, back)
        print(
            f"{hub}: {fleet.OUTAGE_SECONDS} s without a network, {outage} samples of {len(own)} series, "
            f"{queued[hub] / 1024:.0f} KiB queued ({queued[hub] / outage:.1f} bytes a sample); caught up "
            f"{took[hub]:.1f} s after it was back, {outage / took[hub]:.0f} samples a second"
        )
        assert missing == {}, f"{fleet.count(missing)} samples are missing at {hub}"


def test_a_kill_and_a_power_cut_in_an_outage_lose_seconds():
    container = fleet.container("robot-1")
    start = time.time()
    with fleet.cut_off("robot-1"):
        time.sleep(fleet.OUTAGE_SECONDS / 3)
        fleet.docker("exec", container, "systemctl", "kill", "--signal=KILL", SERVICE)
        time.sleep(fleet.OUTAGE_SECONDS / 3)
        fleet.docker("kill", container)
        fleet.docker("start", container)
        time.sleep(fleet.OUTAGE_SECONDS / 3)
    back = time.time()
    for hub in HUBS:
        catch_up("robot-1", hub, back)
    time.sleep(3)
    for hub, missing in note_loss("robot-1", start, back).items():
        # The queue itself has survived both.
        stamps = {stamp // 1000 for samples in missing.values() for stamp in samples}
        assert len(stamps) < fleet.OUTAGE_SECONDS / 2, f"{hub}: samples of {len(stamps)} different seconds are missing"


def test_a_damaged_queue_is_an_alert():
    """One byte off each chunk on robot-1, an empty metainfo.json on robot-2."""
    damage = {
        "robot-1": "for f in $(ls $q/*/* | grep -v -e metainfo -e flock); do truncate -s -1 $f; done",
        "robot-2": "for f in $q/*/metainfo.json; do : > $f; done",
    }
    queue = "q=/var/lib/roverwatch/vmagent/queue/persistent-queue"
    start = time.time()
    with fleet.cut_off(*damage):
        time.sleep(30)
        for robot, command in damage.items():
            assert min(fleet.pending_bytes(robot, hub) for hub in HUBS) > 0
            # Stopped, so that the queue is on the disk as a whole, then damaged.
            fleet.docker("exec", fleet.container(robot), "sh", "-c", f"systemctl stop {SERVICE}; {queue}; {command}")
            fleet.docker("exec", fleet.container(robot), "systemctl", "start", SERVICE)
    back = time.time()
    for robot in damage:
        for hub in HUBS:
            catch_up(robot, hub, back)
        for hub, missing in note_loss(robot, start, back).items():
            assert missing, f"{robot} → {hub}: the damage did no harm, so this test shows nothing"
    for robot in damage:
        assert fleet.eventually(lambda r=robot: ("PushQueueDamaged", r) in firing("hub-1"), 180, 2), firing("hub-1")


def test_a_hub_that_is_down_loses_nothing_and_the_other_one_has_everything_at_once():
    start = time.time()
    hub = fleet.container("hub-1")
    fleet.docker("exec", hub, "systemctl", "stop", "roverwatch-vmauth", "roverwatch-victoriametrics")
    time.sleep(fleet.HUB_OUTAGE_SECONDS)
    for robot in ROBOTS:
        assert fleet.newest_sample_age("hub-2", robot) < 10, "the second hub waits for the first"
    fleet.docker("exec", hub, "systemctl", "start", "roverwatch-victoriametrics", "roverwatch-vmauth")
    back = time.time()
    took = {robot: catch_up(robot, "hub-1", back) for robot in ROBOTS}
    time.sleep(3)
    for robot, seconds in took.items():
        print(f"hub-1 was down for {back - start:.0f} s and had all of {robot} {seconds:.1f} s after it was back")
        for name in HUBS:
            missing = compare(robot, name, start, back)[1]
            assert missing == {}, f"{fleet.count(missing)} samples of {robot} are missing at {name}"


def test_a_hub_that_is_killed_while_it_ingests_loses_seconds_and_the_other_one_nothing():
    """VictoriaMetrics acknowledges a sample some seconds before it is on the disk; the robots have it."""
    start = time.time()
    time.sleep(10)
    fleet.docker("exec", fleet.container("hub-1"), "systemctl", "kill", "--signal=KILL", "roverwatch-victoriametrics")
    killed = time.time()
    time.sleep(10)
    for robot in ROBOTS:
        catch_up(robot, "hub-1", killed)
    time.sleep(3)
    end = time.time() - 3
    for robot in ROBOTS:
        missing = note_loss(robot, start, end)
        assert missing["hub-2"] == {}
        stamps = [stamp / 1000 for samples in missing["hub-1"].values() for stamp in samples]
        assert all(killed - 15 < stamp < killed for stamp in stamps), "more is missing than what was in memory"


def test_the_backfill_brings_all_that_was_lost():
    assert losses
    # What is younger than a minute may still be on its way, and is left out.
    start, end = min(loss[1] for loss in losses), max(loss[2] for loss in losses)
    time.sleep(max(0.0, end + 125 - time.time()))
    arguments = ("-e", f"backfill_period={int((time.time() - start) / 60) + 1}m")
    run = fleet.playbook("backfill.yml", *arguments)
    print(run.output)
    assert run.rc == 0, run.output
    for robot, began, ended in losses:
        for hub in HUBS:
            own, missing = compare(robot, hub, began, ended)
            print(
                f"{robot} → {hub}: {fleet.count(missing)} of {fleet.count(own)} samples are missing after the backfill"
            )
            assert missing == {}

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
