"""What a package manager says of its sources."""

from __future__ import annotations

from pathlib import Path

import yaml
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.system import packages

ROOT = Path(__file__).resolve().parents[3]
SAID = """\
W: Failed to fetch http://robots.invalid/ros/dists/bookworm/InRelease  Could not resolve 'robots.invalid'
W: Some index files failed to download. They have been ignored, or old ones used instead.
W: Failed to fetch http://robots.invalid/ros/dists/bookworm/InRelease  Could not resolve 'robots.invalid'
N: See apt-secure(8) manpage
"""


def test_a_source_that_does_not_work_is_named_once() -> None:
    said = packages.broken_sources(SAID)
    assert said.count("robots.invalid/ros") == 1
    assert "N: See" not in said
    assert "/etc/apt/sources.list.d" in said


def test_sources_that_work_and_do_not_have_it() -> None:
    assert "answer, and do not have it" in packages.broken_sources("N: nothing\n")


def test_no_role_has_apt_stop_at_a_source_of_somebody_elses() -> None:
    for path in ROOT.glob("roles/*/tasks/*.yml"):
        assert "update_cache" not in path.read_text(), path


def test_the_engine_is_installed_from_what_works() -> None:
    tasks = yaml.safe_load((ROOT / "roles/container_engine/tasks/install.yml").read_text())
    (lists,) = [task for task in tasks if "apt-get" in task.get("ansible.builtin.command", {}).get("argv", [])]
    assert lists["failed_when"] is False
