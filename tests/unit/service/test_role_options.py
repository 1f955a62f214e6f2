"""What a task leaves to its role, and what is added to it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from ansible_collections.roverwatch.fleet.plugins.filter.hubs import to_hubs
from ansible_collections.roverwatch.fleet.plugins.filter.versions import versions
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.service import delivery, role_options

VARIABLES = {"vmagent_port": 8429, "vmagent_memory_max": trust_as_template("{{ cap }}"), "cap": "48M", "other_port": 1}
VARIABLES |= {"inventory_hostname": "robot-1"}
HUB = {"name": "hub-1", "url": "https://hub-1:8427"}


class Action:
    """A task's action, and what its module is asked for."""

    def __init__(self, **args: Any) -> None:
        self._task = SimpleNamespace(args=args)
        self._templar = Templar(DataLoader(), VARIABLES)
        self.asked: dict[str, Any] = {}

    def _execute_module(self, _module: str, module_args: dict[str, Any], task_vars: object) -> dict[str, Any]:
        self.asked = module_args
        return {}


def completed(**args: Any) -> dict[str, Any]:
    action = Action(**args)
    role_options.complete(action, ["port", "memory_max", "version"], VARIABLES)
    return action._task.args


def test_what_a_task_does_not_say_is_the_variable_of_its_role():
    assert completed(role="vmagent", job="x") == {"port": 8429, "memory_max": "48M", "job": "x"}


def test_what_a_task_says_counts():
    assert completed(role="vmagent", port=1, memory_max="1M") == {"port": 1, "memory_max": "1M"}


def test_a_task_without_a_role_has_what_it_says():
    assert completed(port=1) == {"port": 1}


def test_what_is_known_together_comes_to_what_the_task_says(tmp_path):
    added = {"args": ["-b"], "secrets": {"b": "2"}, "record": {"hubs": []}}
    action = Action(name="vmagent", version="1", store=tmp_path, args=["-a"], secrets={"a": "1"}, added=added)
    (tmp_path / "manifest.json").write_text('{"schema": 1, "artifacts": []}')
    delivery.serve(action, "a.b.c", [], VARIABLES)
    assert action.asked["args"] == ["-a", "-b"]
    assert action.asked["secrets"] == {"a": "1", "b": "2"}
    assert action.asked["record"] == {"hubs": []}
    assert not {"added", "store"} & set(action.asked)


def test_each_hub_has_its_place_in_every_flag():
    hubs = [HUB, {"name": "hub-2", "url": "https://hub-2:8427"}]
    assert to_hubs(hubs, "robot-1", "secret", "PEM", "64K")["args"] == [
        "-remoteWrite.url=https://hub-1:8427/api/v1/write",
        "-remoteWrite.url=https://hub-2:8427/api/v1/write",
        "-remoteWrite.rateLimit=0,65536,65536",
        "'-remoteWrite.basicAuth.username=\"\",robot-1,robot-1'",
        "'-remoteWrite.basicAuth.passwordFile=\"\",{0},{0}'".format("/etc/roverwatch/vmagent/secrets/hub_password"),
        "'-remoteWrite.tlsCAFile=\"\",/etc/roverwatch/vmagent/hub-ca.pem,/etc/roverwatch/vmagent/hub-ca.pem'",
    ]


def test_without_authorities_the_system_knows_who_signs():
    found = to_hubs([HUB], "robot-1", "secret", None, "64K")
    assert not [word for word in found["args"] if "tlsCAFile" in word]
    assert found["files"] == []
    assert found["record"]["hubs"][0]["ca_file"] is None


def test_without_hubs_there_is_no_password():
    assert to_hubs([], "robot-1", "secret", "PEM", "64K") == {"record": {"hubs": []}}


def test_a_version_is_that_of_the_bundle_or_image():
    upstream = {"version": "1", "upstream": [{"files": {"a": "x"}}, {"files": {"b": "y"}}], "debian": {}}
    debian = {"version": "2", "debian": {"files": {"c": "z"}}}
    found = versions([upstream, debian], [{"name": "image", "version": "3"}])
    assert found == {"a": "1", "b": "1", "c": "2", "image": "3"}
