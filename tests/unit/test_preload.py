"""The callback that loads a play's plugins before Ansible forks: a process of its own shows what is loaded by then."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = "ansible_collections.roverwatch.fleet.plugins"
SCRIPT = f"""
import sys
from ansible.plugins.loader import init_plugin_loader
init_plugin_loader(["{ROOT}/collections"])
from ansible.parsing.dataloader import DataLoader
from ansible.inventory.manager import InventoryManager
from ansible.playbook.play import Play
from ansible.vars.manager import VariableManager
from {PLUGINS}.callback.preload import CallbackModule

ping = {{"ansible.builtin.ping": {{}}}}
base = {{"ansible.builtin.import_role": {{"name": "base"}}}}
loader = DataLoader()
variables = VariableManager(loader=loader, inventory=InventoryManager(loader=loader, sources=["localhost,"]))
tasks = [ping, {{"block": [base]}}]
play = Play.load({{"hosts": "all", "tasks": tasks}}, variable_manager=variables, loader=loader)
loaded = ["{PLUGINS}.action.base", "{PLUGINS}.filter.sizes"]
assert not [name for name in loaded if name in sys.modules]
callback = CallbackModule()
callback.v2_playbook_on_start(None)
callback.v2_playbook_on_play_start(play)
assert not [name for name in loaded if name not in sys.modules], loaded
"""


def test_what_a_play_uses_is_loaded_before_its_first_task():
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
