"""Cut off from power in the middle of something, a machine comes back, and the next run makes it healthy.

A robot and a hub, with disks from which copies are taken while a playbook runs. Each copy is what a power cut at that
moment leaves. What was found on it, what repaired it and how long that took is in reports/power.json.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fleet
import power
import pytest
import releases
from fleet import ROOT, container, docker, eventually, playbook

ROBOT, HUB = "robot-1", "hub-1"
# Of each kind.
MOMENTS = 10 if fleet.SOAK else 1
SEED = 20261128
BACKUP = ["-e", "backup_destination=fs:///var/lib/backups"]
UPDATE = {
    "rollout_release": "test-power",
    # Several scrapes: of two, a machine that started a moment ago has missed one.
    "rollout_bake": "20s",
    "rollout_deadline": "300s",
    "rollout_gate_patience": "20s",
}
HEALTHY_SECONDS = 90
REPORT = ROOT / "reports" / "power.json"


@pytest.fixture(scope="module")
def report() -> Iterator[list[dict[str, Any]]]:
    """A line for each moment; written down whatever comes of them."""
    lines: list[dict[str, Any]] = []
    yield lines
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps(lines, indent=2) + "\n")


def drawn(moments: list[power.Moment]) -> list[power.Moment]:
    """Those of the middle; with `make soak` the one of the end, too."""
    return moments if fleet.SOAK else moments[:MOMENTS]


class Cut:
    """One moment: the machine started from it, what was found, and what was done about it."""

    def __init__(self, moment: power.Moment, report: list[dict[str, Any]]) -> None:
        self.moment, self.host = moment, moment.host
        self.line: dict[str, Any] = {"kind": moment.copy.stem.rsplit("-", 3)[0], "host": moment.host}
        self.line |= {"seconds": round(moment.seconds, 1), "of": round(moment.of, 1)}
        self.line["ended"] = moment.ended
        report.append(self.line)
        began = time.monotonic()
        self.line["fsck"] = power.start_from(self.host, moment.copy)
        self.line["started_seconds"] = round(time.monotonic() - began, 1)

    def expect_what_was_said(self) -> None:
        """What Ansible had called done is there, and what is written down as whole is whole."""
        self.line["missing"] = power.missing(self.moment)
        self.line["untrue"] = power.untrue_records(self.host)
        failed = docker("exec", container(self.host), "systemctl", "--failed", "--plain", "--no-legend")
        self.line["failed_units"] = [line.split()[0] for line in failed.splitlines()]
        print(json.dumps(self.line))
        assert not self.line["missing"], self.moment
        assert not self.line["untrue"], self.moment

    def repair(self, name: str = "site.yml", *args: str) -> None:
        """The next run, and the whole fleet's answer that all is well."""
        began = time.monotonic()
        run = playbook(name, "--limit", self.host, *args)
        assert run.rc == 0, f"{self.moment}:\n{run.output[-6000:]}"
        self.line["repaired_seconds"] = round(time.monotonic() - began, 1)
        self.line["repaired_by"] = changed_tasks(run)
        self.expect_health()
        if fleet.SOAK and name == "site.yml":
            again = playbook(name, "--limit", self.host, *args)
            assert not again.changed(), f"{self.moment}:\n{again.output[-6000:]}"

    def expect_health(self) -> None:
        def healthy() -> bool:
            self.health = playbook("health.yml", "--limit", self.host)
            return self.health.rc == 0

        began = time.monotonic()
        assert eventually(healthy, HEALTHY_SECONDS, every=2), f"{self.moment}:\n{self.health.output[-4000:]}"
        self.line["healthy_seconds"] = round(time.monotonic() - began, 1)
        print(json.dumps(self.line))


def changed_tasks(run: fleet.Run) -> list[str]:
    """The tasks of a run that changed something."""
    found, task = [], ""
    for line in run.output.splitlines():
        named = re.match(r"TASK \[(.*)\] \*", line)
        if named:
            task = named[1]
        elif line.startswith("changed: ") and task not in found:
            found.append(task)
    return found


@pytest.fixture(scope="module")
def deployed() -> dict[str, list[power.Moment]]:
    """Bare machines are provisioned: moments of that, by host, the last of each from when Ansible has just ended."""
    camera = power.Camera("site", [ROBOT, HUB], MOMENTS, SEED)
    run = camera.watch("site.yml")
    assert run.rc == 0, run.output[-6000:]
    return camera.moments


@pytest.fixture(scope="module")
def kept(deployed: dict[str, list[power.Moment]]) -> dict[str, Path]:
    """Copies of the provisioned machines with everything on their disks, by host."""
    return {host: power.keep(host, "provisioned") for host in (ROBOT, HUB)}


@pytest.fixture
def provisioned(kept: dict[str, Path]) -> None:
    """Both machines, whatever the test before has done to them."""
    for host, copy in kept.items():
        power.start_from(host, copy)
    # The copies are of two moments: a hub may lack what the robot has sent between them.
    arguments = ["-e", "health_holes_period=0s"]
    assert eventually(lambda: playbook("health.yml", *arguments).rc == 0, HEALTHY_SECONDS, every=2)


def test_a_hub_in_the_middle_of_its_deployment(deployed, provisioned, report):
    for moment in drawn(deployed[HUB]):
        cut = Cut(moment, report)
        cut.expect_what_was_said()
        cut.repair()


def test_a_robot_right_after_its_deployment(deployed, provisioned, report):
    for moment in deployed[ROBOT] if fleet.SOAK else deployed[ROBOT][-1:]:
        cut = Cut(moment, report)
        cut.expect_what_was_said()
        cut.repair()


# What cuts have left on disks that nobody had synced, all at once: of the image some files, as after a slow load, which
# keep its name and its id; a program, a unit, and what enables one.
DAMAGE = """
set -eu
storage=/var/lib/containers/storage
files=$(find $storage/overlay/*/diff -name '*.py' -size +0 | sort | head -n 240)
[ $(echo "$files" | wc -l) = 240 ]
truncate --size 0 $files
: > $storage/defaultNetworkBackend
for program in /opt/roverwatch/node_exporter/*/node_exporter; do rm $program; : > $program; done
: > /etc/systemd/system/roverwatch-vmagent.service
link=/etc/systemd/system/multi-user.target.wants/roverwatch-victoriametrics.service
rm $link
: > $link
sync
"""


def test_what_a_cut_has_emptied_is_found_and_repaired(provisioned, report):
    docker("exec", container(ROBOT), "sh", "-c", DAMAGE)
    cut = Cut(power.Moment(ROBOT, power.disk(ROBOT).copy(f"emptied-{ROBOT}-0"), 0.0), report)
    cut.line["untrue"] = power.untrue_records(ROBOT)
    assert {path.split("/")[3] for path in cut.line["untrue"]} == {"sensor", "node_exporter"}
    checked = playbook("site.yml", "--check", "--limit", ROBOT)
    assert checked.rc == 0, checked.output[-6000:]
    assert checked.changed(), "check mode sees it as well"
    assert power.untrue_records(ROBOT) == cut.line["untrue"]
    cut.repair()
    assert not power.untrue_records(ROBOT)
    assert not playbook("site.yml", "--limit", ROBOT).changed()


def status(robot: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(docker("exec", container(robot), "/usr/local/sbin/roverwatch-release", "status"))
    return found


def test_a_robot_in_the_middle_of_an_update_or_of_its_rollback_ends_it_by_itself(provisioned, report):
    """Of its image and a binary. The old ones run again without the controller; the new ones if they were confirmed."""
    made = releases.prepare()
    arguments = [*made["sensor_good"], *made["vmagent_good"], "--extra-vars", json.dumps(UPDATE), "--limit", ROBOT]
    forget_rollouts()
    update = power.Camera("update", [ROBOT], MOMENTS, SEED)
    run = update.watch("rolling_update.yml", *arguments)
    assert run.rc == 0, run.output[-6000:]
    rollback = power.Camera("rollback", [ROBOT], MOMENTS, SEED, during="Take the robot back")
    run = rollback.watch("rollback.yml", "--limit", ROBOT)
    assert run.rc == 0, run.output[-6000:]
    forget_rollouts()
    for moment in [*drawn(update.moments[ROBOT]), *drawn(rollback.moments[ROBOT])]:
        cut = Cut(moment, report)
        assert eventually(is_settled, HEALTHY_SECONDS), status(ROBOT)
        cut.line["state"] = status(ROBOT)["state"]
        cut.expect_health()
        cut.expect_what_was_said()
        if fleet.SOAK:
            cut.repair()


def is_settled() -> bool:
    return status(ROBOT)["state"] in ("unreleased", "rolled_back", "confirmed")


def forget_rollouts() -> None:
    subprocess.run(["rm", "-rf", str(ROOT / "rollouts" / "test-power")], check=True)


def test_a_robot_in_the_middle_of_being_decommissioned(provisioned, report):
    camera = power.Camera("decommission", [ROBOT], MOMENTS, SEED)
    run = camera.watch("decommission.yml", "-e", "decommission_confirm=yes", "--limit", ROBOT)
    assert run.rc == 0, run.output[-6000:]
    for moment in drawn(camera.moments[ROBOT]):
        cut = Cut(moment, report)
        cut.moment.ended = []  # What was said is that things are gone.
        cut.expect_what_was_said()
        cut.repair()


def test_a_hub_in_the_middle_of_a_backup(provisioned, report):
    camera = power.Camera("backup", [HUB], MOMENTS, SEED)
    run = camera.watch("backup.yml", *BACKUP)
    assert run.rc == 0, run.output[-6000:]
    for moment in camera.moments[HUB]:
        cut = Cut(moment, report)
        if moment.last:
            # What was called a backup can be restored.
            cut.repair("restore.yml", *BACKUP, "-e", "restore_confirm=yes", "-e", "restore_replace=yes")
        else:
            cut.repair("backup.yml", *BACKUP)
