"""The callback that loads and compiles what a play uses before Ansible forks: a process of its own shows what is there
by then.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PLUGINS = "ansible_collections.roverwatch.fleet.plugins"
SCRIPT = f"""
import sys
from ansible.plugins.loader import init_plugin_loader
init_plugin_loader(["{ROOT}/collections"])
import jinja2
from ansible.parsing.dataloader import DataLoader
from ansible.inventory.manager import InventoryManager
from ansible.playbook.play import Play
from ansible.template import Templar, trust_as_template
from ansible.vars.manager import VariableManager
from {PLUGINS}.callback.preload import CallbackModule

def trusted(*lines):
    return trust_as_template("\\n".join(lines))

ping = {{"ansible.builtin.ping": {{"data": trusted("{{{{ far | upper }}}}")}}}}
base = {{"ansible.builtin.import_role": {{"name": "base"}}}}
loader = DataLoader()
variables = VariableManager(loader=loader, inventory=InventoryManager(loader=loader, sources=["localhost,"]))
tasks = [ping, {{"block": [base]}}]
settings = {{"near": trusted("{{{{ far ~ 'a\\\\x64' }}}}")}}
play = Play.load(
    {{"hosts": "all", "vars": settings, "tasks": tasks}}, variable_manager=variables, loader=loader
)
loaded = ["{PLUGINS}.action.base", "{PLUGINS}.filter.sizes"]
assert not [name for name in loaded if name in sys.modules]
callback = CallbackModule()
callback.v2_playbook_on_start(None)
callback.v2_playbook_on_play_start(play)
assert not [name for name in loaded if name not in sys.modules], loaded

parsed = []
parse = jinja2.Environment._parse
jinja2.Environment._parse = lambda self, source, *others: parsed.append(source) or parse(self, source, *others)

def value(template, **how):
    return Templar(loader=loader, variables={{"far": "off"}}).copy_with_new_env().template(template, **how)

assert value(settings["near"]) == "offa\\\\x64"
assert value(ping["ansible.builtin.ping"]["data"]) == "OFF"
assert parsed == []
# What looks the same, and is not.
assert value(settings["near"], escape_backslashes=False) == "offad"
header = "#jinja2: variable_start_string:'[%', variable_end_string:'%]'"
assert value(trusted(header, settings["near"])) == settings["near"]
assert len(parsed) == 2, parsed
"""


def test_what_a_play_uses_is_loaded_and_compiled_before_its_first_task():
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
