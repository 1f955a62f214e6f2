"""After check mode, a bare machine is as bare as before."""

from __future__ import annotations

import collection
import fleet
import pytest

testinfra_hosts = ["ansible://lab"]


@pytest.mark.parametrize("path", ["/etc/roverwatch", "/opt/roverwatch", "/var/lib/roverwatch", "/usr/bin/podman"])
def test_nothing_was_installed(host, path):
    assert not host.file(path).exists


def test_no_user_was_made(host):
    assert not host.user("roverwatch").exists


def test_systemd_knows_nothing_of_it(host):
    assert host.run("systemctl list-unit-files 'roverwatch*' --no-legend").stdout == ""


def test_check_mode_says_what_it_would_do(tmp_path):
    """The scenario has run the playbook of the checkout; this is that of an installed collection, from elsewhere."""
    # This lab's own inventory plugin is no part of it.
    settings = {
        **collection.settings(collection.install(tmp_path)),
        "ANSIBLE_INVENTORY_PLUGINS": str(fleet.ROOT / "plugins" / "inventory"),
    }
    store = f"artifacts_dir={fleet.ROOT}/artifacts"
    run = fleet.playbook(
        "roverwatch.fleet.site", "--check", "--diff", "-e", store, directory=tmp_path, settings=settings
    )
    assert run.rc == 0, run.output
    assert {"robot-1", "robot-2", "hub-1"} <= set(run.changed())
    assert "MemoryMax=50331648" in run.output  # the diff shows the unit as it would be
