"""Which ansible-core is refused, and how: the distribution's own is often the first in PATH."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.controller import ansible_core

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("version", ["2.14.18", "2.16.14", "2.18.0rc1"])
def test_an_older_one_is_refused_in_one_line_that_says_where_the_right_one_is(version):
    with pytest.raises(SystemExit) as refused:
        ansible_core.refuse_older(version)
    assert f"needs ansible-core 2.19 or newer. This is {version}" in str(refused.value)
    assert ".venv/bin/ansible-playbook" in str(refused.value)


def test_a_newer_one_is_not():
    ansible_core.refuse_older()
    ansible_core.refuse_older("2.20.1rc1")
    ansible_core.refuse_older("3.0.0")


def test_the_collection_says_the_same():
    said = yaml.safe_load((ROOT / "meta/runtime.yml").read_text())
    assert said["requires_ansible"] == ">={}.{}.0".format(*ansible_core.NEEDED)


@pytest.mark.parametrize("path", ["plugins/callback/preload.py", "plugins/inventory/lab_containers.py"])
def test_what_is_loaded_first_asks_before_it_imports_what_an_older_one_lacks(path):
    imports = [
        line for line in (ROOT / path).read_text().splitlines() if line.startswith(("import", "from", "ansible_"))
    ]
    assert imports[0] == "from __future__ import annotations"
    assert imports[1].endswith("plugin_utils.controller import ansible_core")
    assert imports[2] == "ansible_core.refuse_older()"
