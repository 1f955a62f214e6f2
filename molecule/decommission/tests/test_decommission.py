"""After decommissioning, nothing of Roverwatch is left."""

from __future__ import annotations

import fleet
import pytest
import testinfra

testinfra_hosts = ["ansible://lab"]


@pytest.mark.parametrize(
    "path",
    [
        "/etc/roverwatch",
        "/opt/roverwatch",
        "/var/lib/roverwatch",
        "/run/roverwatch",
        "/usr/local/sbin/roverwatch-no-thp",
        "/usr/local/sbin/roverwatch-oom-count",
        "/oom",
        "/etc/systemd/system/roverwatch.slice",
    ],
)
def test_no_file_is_left(host, path):
    assert not host.file(path).exists


def test_no_unit_is_left(host):
    assert host.check_output("systemctl list-units --all 'roverwatch*' 'libpod*' --no-legend") == ""
    assert host.run("systemctl list-unit-files 'roverwatch*' --no-legend").stdout == ""


def test_no_process_and_no_user_is_left(host):
    assert not host.user("roverwatch").exists
    assert host.run("pgrep -f '/opt/[r]overwatch|[c]onmon|[s]ensor_service'").rc == 1


def test_the_engine_that_was_installed_for_it_is_gone(host):
    assert not host.exists("podman")


def test_it_asks_first():
    run = fleet.playbook("decommission.yml")
    assert run.rc != 0
    assert "Not confirmed, nothing was removed" in run.output


STRANGERS = """
useradd --create-home --shell /bin/bash roverwatch && echo mine > /home/roverwatch/notes
mkdir -p /opt/roverwatch && echo theirs > /opt/roverwatch/theirs
printf '[Service]\\nExecStart=/bin/sleep infinity\\n' > /etc/systemd/system/roverwatch-vmagent.service
systemctl daemon-reload && systemctl start roverwatch-vmagent
nft add table inet roverwatch
"""
THEIRS = """
getent passwd roverwatch; cat /home/roverwatch/notes /opt/roverwatch/theirs
cat /etc/systemd/system/roverwatch-vmagent.service; systemctl show roverwatch-vmagent --property MainPID
nft list table inet roverwatch
"""
GONE = """
systemctl stop roverwatch-vmagent; rm -r /etc/systemd/system/roverwatch-vmagent.service /opt/roverwatch
systemctl daemon-reload; nft delete table inet roverwatch; userdel --remove roverwatch
"""


def test_what_a_stranger_has_under_our_names_is_refused_and_stays():
    robot = testinfra.get_host("ansible://robot-1", ansible_inventory=str(fleet.INVENTORY), sudo=True)
    robot.check_output(STRANGERS)
    before = robot.check_output(THEIRS)
    refused = fleet.playbook("site.yml", "--limit", "robot-1")
    removed = fleet.playbook("decommission.yml", "--limit", "robot-1", "-e", "decommission_confirm=yes")
    after = robot.check_output(THEIRS)
    robot.run(GONE)
    said = " ".join(refused.output.split())
    for words in (
        "the account roverwatch (uid ",
        "/opt/roverwatch is there, with theirs in it",
        "roverwatch-vmagent.service is a unit that Roverwatch did not make",
        "there is a table inet roverwatch in nftables",
    ):
        assert words in said
    assert refused.changed() == removed.changed() == {}
    assert removed.rc == 0, removed.output
    assert after == before
