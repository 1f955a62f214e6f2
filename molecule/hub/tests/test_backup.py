"""A backup of a hub, and what comes back of it."""

from __future__ import annotations

import time

import fleet
import pytest

testinfra_hosts = ["ansible://hub-2"]

# hub-2 loses its history here: hub-1 has it, too.
HUB = "hub-2"
DESTINATION = "/var/backups/roverwatch"
DATA = "/var/lib/roverwatch/victoriametrics"
UNIT = "roverwatch-victoriametrics"
OF_ROBOTS = '{robot!=""}'


def run(name: str, *args: str) -> fleet.Run:
    options = ["-e", f"backup_destination=fs://{DESTINATION}", *args]
    return fleet.playbook(name, "--limit", HUB, *options)


@pytest.fixture(scope="module")
def backed_up() -> tuple[float, fleet.Samples]:
    """A backup, with the time until which it has everything, and what the hub had then."""
    until = time.time() - 30
    had = fleet.export(HUB, OF_ROBOTS, until - 600, until)
    assert fleet.count(had) > 10_000
    done = run("backup.yml")
    assert done.rc == 0, done.output
    assert f"{HUB}: backed up" in done.output
    return until, had


def test_check_says_what_it_would_do_and_does_nothing(host):
    done = run("backup.yml", "--check", "-e", "backup_name=never")
    assert done.rc == 0, done.output
    assert "would back up" in done.output
    assert not host.file(f"{DESTINATION}/{HUB}/never").exists


def test_a_backup_leaves_a_metric_and_nothing_else(host, backed_up):
    metric = host.file("/var/lib/roverwatch/textfile/backup.prom")
    assert metric.mode == 0o644
    assert "roverwatch_backup_last_success_timestamp_seconds" in metric.content_string
    directory = host.file(f"{DESTINATION}/{HUB}")
    assert (directory.user, directory.mode) == ("roverwatch", 0o700)
    assert host.check_output(f"ls {DATA}/snapshots") == ""
    assert not host.file("/run/roverwatch-backup").exists


def test_a_second_one_sends_only_what_is_new(backed_up):
    again = run("backup.yml", "-e", "backup_name=before-upgrade")
    assert again.rc == 0, again.output
    assert "copied by the storage" in again.output


def test_a_hub_with_a_history_is_not_overwritten_by_mistake(host, backed_up):
    pid = fleet.show(host, UNIT, "MainPID")
    refused = run("restore.yml", "-e", "restore_confirm=yes")
    assert refused.rc != 0
    assert "this hub has a history, that of 2 robots (robot-1, robot-2)" in " ".join(refused.output.split())
    nothing = run("restore.yml", "-e", "restore_confirm=yes", "-e", "restore_replace=yes", "-e", "backup_name=nope")
    assert nothing.rc != 0
    assert "there is no backup in" in " ".join(nothing.output.split())
    assert fleet.show(host, UNIT, "MainPID") == pid


def test_an_empty_hub_has_everything_again(host, backed_up):
    until, had = backed_up
    host.check_output(f"systemctl stop {UNIT} && rm -rf {DATA}")
    host.check_output(f"systemctl start {UNIT}")
    assert fleet.eventually(lambda: fleet.answers(host, "8428/health"), 30)
    assert fleet.lacking(had, fleet.export(HUB, OF_ROBOTS, until - 600, until)) == had, "the hub is not empty"
    # Robots go on writing meanwhile, so the hub soon has a history again, though not the one that was lost.
    restored = run("restore.yml", "-e", "restore_confirm=yes", "-e", "restore_replace=yes")
    assert restored.rc == 0, restored.output
    assert "runs on what was restored" in restored.output
    assert fleet.lacking(had, fleet.export(HUB, OF_ROBOTS, until - 600, until)) == {}
    host.check_output(f"rm -rf {DATA}.before-restore")
    for robot in ("robot-1", "robot-2"):
        assert fleet.eventually(lambda r=robot: fleet.newest_sample_age(HUB, r) < 10, 90)
