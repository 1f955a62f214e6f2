"""After decommissioning, nothing of Roverwatch is left."""

from __future__ import annotations

import fleet
import pytest

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
