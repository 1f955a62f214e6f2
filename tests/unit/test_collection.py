"""The collection as somebody has it who installs it: built, in a directory of its own, and no checkout in sight."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import collection
import pytest
import sensor_service
import yaml
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.controller import workplace

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(path.stem for path in (ROOT / "plugins/modules").glob("*.py"))
FILTERS = sorted(path.stem for path in (ROOT / "plugins/filter").glob("*.yml"))
CALLBACKS = sorted(path.stem for path in (ROOT / "plugins/callback").glob("*.py"))
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir())
PLAYBOOKS = sorted(path.stem for path in (ROOT / "playbooks").glob("*.yml"))
PLUGINS = "ansible_collections.roverwatch.fleet.plugins"
INVENTORY = """
all:
  vars: {ansible_connection: local, ansible_become: false, ansible_python_interpreter: /usr/bin/python3}
robots: {hosts: {robot-1: }}
hubs: {hosts: {hub-1: }}
"""


class Controller:
    """A directory with an inventory, and the collection installed elsewhere."""

    def __init__(self, collections: Path, home: Path) -> None:
        self.home = home
        self.installed = collections / "ansible_collections" / "roverwatch" / "fleet"
        programs = Path(shutil.which("ansible-playbook") or "").parent
        self.environment = {
            "PATH": f"{programs}:/usr/bin:/bin",
            "HOME": str(home),
            "NO_COLOR": "1",
            **collection.settings(collections),
        }
        (home / "my").mkdir(parents=True)
        (home / "my" / "hosts.yml").write_text(INVENTORY)

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self.home, env=self.environment | environment, capture_output=True, text=True, check=False
        )

    def play(self, *arguments: str, **environment: str) -> str:
        """All that a playbook says."""
        done = self.run("ansible-playbook", "--inventory", "my/hosts.yml", *arguments, **environment)
        return done.stdout + done.stderr


@pytest.fixture(scope="session")
def collections(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where ansible-galaxy has installed what `make collection` builds."""
    return collection.install(tmp_path_factory.mktemp("collection"))


@pytest.fixture
def controller(collections: Path, tmp_path: Path) -> Iterator[Controller]:
    found = Controller(collections, tmp_path)
    before = sorted(found.installed.rglob("*"))
    yield found
    made = [path for path in set(found.installed.rglob("*")) - {*before} if "__pycache__" not in path.parts]
    assert made == [], "what a run makes belongs beside the inventory or into the current directory"


def test_the_roles_the_playbooks_and_what_they_need_are_in_it_and_the_development_is_not(controller):
    installed = controller.installed
    assert sorted(path.name for path in (installed / "roles").iterdir()) == ROLES
    assert sorted(path.name for path in (installed / "playbooks").iterdir()) == [f"{name}.yml" for name in PLAYBOOKS]
    for file in ("group_vars/all/artifacts.yml", "inventory/group_vars/hubs.yml", "app/Dockerfile", "ansible.cfg"):
        assert (installed / file).is_file(), file
    assert not {"tests", "molecule", "lab", "bench", "collections", "Makefile", ".github"} & {
        path.name for path in installed.iterdir()
    }


def test_nothing_of_the_operators_is_built_into_it(controller):
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    files = {str(path.relative_to(controller.installed)) for path in controller.installed.rglob("*") if path.is_file()}
    made = {"MANIFEST.json", "FILES.json"}
    assert {file for file in files - made if "__pycache__" not in file} <= {*tracked.splitlines()}


def explained(controller: Controller, kind: str, names: list[str]) -> dict[str, Any]:
    """What ansible-doc knows of plugins of a kind."""
    asked = [f"roverwatch.fleet.{name}" for name in names]
    done = controller.run("ansible-doc", "--json", "--type", kind, *asked)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert sorted(found) == asked
    return found


def test_ansible_doc_explains_each_module_and_an_example_has_its_whole_name(controller):
    for name, found in explained(controller, "module", MODULES).items():
        assert found["doc"]["short_description"], name
        tasks = yaml.safe_load(found["examples"] or "") or []
        assert [task for task in tasks if {*MODULES} & {*task}] == []
        assert not tasks or any(name in task for task in tasks), name


# Theirs are the options of each service and of the module, which is told them as they are.
SERVICES = {"binary_service", "container_service"}


@pytest.mark.parametrize("name", sorted({path.stem for path in (ROOT / "plugins/action").glob("*.py")} - SERVICES))
def test_what_a_task_may_say_is_what_is_explained(name):
    """Of a module with a half on the controller, which hears the task and says something else to the machine's half."""
    action, module = (import_module(f"{PLUGINS}.{half}.{name}") for half in ("action", "modules"))
    accepted = getattr(action, "SPEC", None) or getattr(action, "ARGUMENTS", action.ActionModule._VALID_ARGS)
    explained = yaml.safe_load(module.DOCUMENTATION)["options"]
    assert {*explained} - {"role"} == {*accepted}
    for option, spec in accepted.items() if isinstance(accepted, dict) else ():
        said = {key: explained[option].get(key) for key in ("type", "elements", "choices", "required", "default")}
        assert {key: value for key, value in said.items() if value is not None} == {
            key: spec[key] for key in said if spec.get(key) is not None
        }, option


@pytest.mark.parametrize(("kind", "names"), [("filter", FILTERS), ("callback", CALLBACKS)], ids=["filter", "callback"])
def test_ansible_doc_explains_each_plugin(controller, kind, names):
    for name, found in explained(controller, kind, names).items():
        assert found["doc"]["short_description"], name


def test_ansible_doc_explains_each_role(controller):
    for name, found in explained(controller, "role", ROLES).items():
        assert found["entry_points"]["main"]["short_description"], name


def test_every_filter_is_explained():
    files = [path.stem for path in (ROOT / "plugins/filter").glob("*.py")]
    plugins = [import_module(f"{PLUGINS}.filter.{name}") for name in files]
    assert {name for plugin in plugins for name in plugin.FilterModule().filters()} == {*FILTERS}


def test_all_playbooks_are_found_by_their_names_and_so_are_their_roles(controller):
    said = controller.play("--syntax-check", *(f"roverwatch.fleet.{name}" for name in PLAYBOOKS))
    assert [line for line in said.splitlines() if line.startswith("playbook: ")] == [
        f"playbook: {controller.installed}/playbooks/{name}.yml" for name in PLAYBOOKS
    ]
    assert "ERROR" not in said
    assert "WARNING" not in said
    tasks = controller.play("--list-tasks", "roverwatch.fleet.site")
    assert "roverwatch.fleet.vmagent : Run vmagent" in tasks


def test_without_the_pins_a_machine_is_left_alone_and_the_way_to_them_is_said(controller):
    said = controller.play("--tags", "preflight", "roverwatch.fleet.site")
    assert "Nothing was changed on hub-1" in said
    assert "no version is set for alertmanager, node_exporter, victoriametrics, vmalert, vmauth" in said
    assert f"cp -rL {controller.installed}/group_vars {controller.home}/my/" in said


def test_preflight_looks_for_all_that_the_roles_of_an_installed_collection_need(controller):
    shutil.copytree(controller.installed / "inventory" / "group_vars", controller.home / "my" / "group_vars")
    said = controller.play("--tags", "preflight", "--limit", "robot-1", "roverwatch.fleet.site")
    for artifact in ("sensor", "node_exporter", "victoriametrics", "vmagent"):
        assert f"is not in the artifact store {controller.home}/artifacts" in said
        assert f"- robot-1: {artifact} " in said
    assert "fleet_secret" in said
    assert "cannot be computed" not in said


def test_an_update_is_refused_where_nobody_would_keep_its_journal(controller):
    """The callback is named in the repository's ansible.cfg, which nobody reads here."""
    variables = {"rollout_release": "1", "health_expected_units": [], "memory_budget": "300M"}
    update = ["--extra-vars", json.dumps(variables), "roverwatch.fleet.rolling_update"]
    said = controller.play(*update)
    assert "ANSIBLE_CALLBACKS_ENABLED=roverwatch.fleet.preload,roverwatch.fleet.rollout" in said
    said = controller.play(*update, ANSIBLE_CALLBACKS_ENABLED="roverwatch.fleet.preload,roverwatch.fleet.rollout")
    assert "CALLBACKS_ENABLED" not in said
    assert "robot-1" in said


def test_locks_are_written_in_a_checkout_alone(controller):
    said = controller.play("--extra-vars", "outdated_write=true", "roverwatch.fleet.outdated")
    assert f"{controller.installed} is an installed collection. Clone the repository" in said


def test_the_version_is_said_once():
    version = yaml.safe_load((ROOT / "galaxy.yml").read_text())["version"]
    newest = re.findall(r"^## (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0]
    assert newest == version
    assert {*re.findall(r"roverwatch-fleet-([0-9.]+)\.tar", (ROOT / "docs/inventories.md").read_text())} == {version}


def test_the_image_that_is_pinned_is_the_sensor_service_that_is_here():
    (image,) = yaml.safe_load((ROOT / "group_vars/all/artifacts.yml").read_text())["artifacts_images"]
    assert image["version"] == sensor_service.__version__


def test_a_checkout_keeps_what_it_makes_to_itself(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert workplace.on_controller("reports") == str(ROOT / "reports")
