"""The role base: nothing is made before all is right, and then only what differs."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar
from ansible_collections.roverwatch.fleet.plugins.action import base as action
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.artifact.store import (
    Entry,
    Store,
    TamperedArtifact,
)
from ansible_collections.roverwatch.fleet.plugins.modules import base as module
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.artifact import verified
from test_preflight import Run
from test_tree import ROLES, ROOT

GIB = 1 << 30
MACHINE = {
    "user": "root", "architecture": "x86_64", "init": "systemd", "cgroup_version": 2, "model": "", "disk_free": GIB,
    "data_free": GIB, "data_used": 0, "data_beside_artifacts": True, "time": 0.0, "engines": ["podman"],
}  # fmt: skip
NOTHING = {"directories": [], "files": {}, "reload": [], "enabled": []}
IDENTITY = {"system": "boot pid:[1]", "machine_id": "1"}
LOOKED = {
    "machine": MACHINE, "hubs": {}, "user": True, "held": [], "strangers": [], "deployed_as": "", "identity": IDENTITY,
    "places": {}, "artifacts": [], "missing_devices": [], "image_policy": "", "differences": NOTHING,
}  # fmt: skip
PLACE = {"path": "/somewhere", "device": 1, "free": GIB, "no_inodes": False, "noexec": False, "error": ""}
SLICE = "/etc/systemd/system/roverwatch.slice"


class Controller:
    """Runs the action for the role base alone, against a machine whose look finds this."""

    def __init__(self, store: Path, patch: pytest.MonkeyPatch) -> None:
        self.store = store
        self.asked: list[tuple[str, dict[str, Any]]] = []
        patch.setattr(action.same_machine, "of_run", lambda: store)
        patch.setattr(action, "time", SimpleNamespace(time=lambda: 0.0))

    def ran(self, answer: dict[str, Any], check: bool = False, made: dict[str, Any] | None = None, **args: Any) -> Any:
        self.asked = []
        defaults = {"memory_budget": "300M", "disk_reserve": "1M", "clock_skew_max": 60, "roles": ["base"]}
        task = SimpleNamespace(
            args={**defaults, "artifacts_dir": str(self.store), **args},
            check_mode=check, async_val=0, diff=False, delegate_to=None,
        )  # fmt: skip
        connection = SimpleNamespace(
            _shell=SimpleNamespace(tmpdir="/nowhere", get_option=lambda name: "~/.ansible/tmp")
        )
        variables = {"inventory_hostname": "robot-1", "groups": {"all": ["robot-1"]}, "group_names": []}
        variables |= {"ansible_play_role_names": ["base"], "ansible_run_tags": ["all"], "role_path": "roles/base"}
        variables |= {"ansible_play_hosts_all": ["robot-1"], "hostvars": SimpleNamespace(raw_get=lambda name: {})}
        loader = DataLoader()
        plugin = action.ActionModule(task, connection, None, loader, Templar(loader, variables), None)

        def execute(name: str, module_args: dict[str, Any], task_vars: object) -> dict[str, Any]:
            self.asked.append((name, module_args))
            return dict(answer) if name == action.MODULE else made or {"changed": True}

        plugin._execute_module = execute
        return plugin.run(task_vars=variables)

    @property
    def calls(self) -> list[str]:
        return [name for name, _ in self.asked]


LOOK, MAKE, MAKE_USER = "roverwatch.fleet.base", "roverwatch.fleet.machine_files", "ansible.legacy.user"


@pytest.fixture
def controller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Controller:
    return Controller(tmp_path, monkeypatch)


def differing(**differences: Any) -> dict[str, Any]:
    return {**LOOKED, "differences": {**NOTHING, **differences}}


def test_a_machine_that_has_all_is_one_round_trip(controller: Controller) -> None:
    found = controller.ran(LOOKED)
    assert (found["changed"], found["diff"], controller.calls) == (False, [], [LOOK])
    wanted = controller.asked[0][1]["wanted"]
    assert [file["path"] for file in wanted["files"]][-1] == SLICE
    assert "content" not in json.dumps(wanted)
    assert found["ansible_facts"]["roverwatch_machine"] == MACHINE


def test_a_bare_machine_gets_its_user_first(controller: Controller) -> None:
    found = controller.ran({**differing(files={SLICE: None}, directories=["/etc/roverwatch"]), "user": False})
    assert (found["changed"], controller.calls) == (True, [LOOK, MAKE_USER, MAKE])
    assert controller.asked[1][1]["shell"] == "/usr/sbin/nologin"
    (budget,) = [file["content"] for file in controller.asked[2][1]["files"] if file["path"] == SLICE]
    assert "\nMemoryMax=314572800\n" in budget


def test_a_daemon_reload_that_was_cut_off_is_made_good(controller: Controller) -> None:
    assert controller.ran(differing(reload=["roverwatch.slice"]))["changed"]
    assert controller.calls == [LOOK, MAKE]


def test_check_mode_shows_what_differs_and_makes_nothing(controller: Controller) -> None:
    there = {"content": "MemoryMax=1\n", "mode": 0o644}
    found = controller.ran({**differing(files={SLICE: there}), "user": False}, check=True)
    assert (found["changed"], controller.calls) == (True, [LOOK])
    user, budget = found["diff"]
    assert user == {"prepared": "user roverwatch: to be made, without a login\n"}
    assert budget["before"] == "MemoryMax=1\n"
    assert "MemoryMax=314572800" in budget["after"]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"clock_skew_max": 60, "machine": {"time": 4000.0}}, "the clock is"),
        ({"machine": {"init": "runit"}}, "PID 1 is runit"),
        ({"memory_budget": "3OOM"}, "memory_budget"),
        ({"disk_reserve": "plenty"}, "base_disk_reserve"),
        ({"disk_reserve": "2G"}, "1G are free"),
    ],
)
def test_nothing_is_made_where_something_is_wrong(controller: Controller, wrong: dict[str, Any], words: str) -> None:
    args = dict(wrong)
    looked = {**differing(directories=["/etc/roverwatch"]), "user": False}
    found = controller.ran({**looked, "machine": MACHINE | args.pop("machine", {})}, **args)
    assert (found["failed"], found["changed"], controller.calls) == (True, False, [LOOK])
    assert any(words in problem for problem in found["problems"]), found["problems"]


def test_a_machine_that_the_last_run_called_otherwise(controller: Controller) -> None:
    swapped = {**LOOKED, "deployed_as": "robot-7"}
    (problem,) = controller.ran(swapped)["problems"]
    assert "was deployed as robot-7, and the inventory calls it robot-1" in problem
    assert "-e base_previous_name=robot-7" in problem
    assert controller.ran(swapped, previous_name="robot-8")["problems"] == [problem]
    for answer, args in ((swapped, {"previous_name": "robot-7"}), ({**LOOKED, "deployed_as": "robot-1"}, {})):
        assert controller.ran(answer, **args)["problems"] == []
    (record,) = [file for file in controller.asked[0][1]["wanted"]["files"] if file["path"].endswith("machine.json")]
    assert record["sha256"] == hashlib.sha256(b'{"name": "robot-1"}\n').hexdigest()


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"strangers": ["the account roverwatch is not"]}, "the account roverwatch is not"),
        ({"places": {"/opt/roverwatch": {**PLACE, "noexec": True}}}, "mounted noexec"),
        ({"places": {"/tmp": {**PLACE, "error": "Read-only file system"}}}, "cannot be written"),
    ],
)
def test_what_is_in_the_way_is_refused_before_anything_is_made(
    controller: Controller, found: dict[str, Any], words: str
) -> None:
    ran = controller.ran({**LOOKED, "user": False, **found})
    assert (ran["failed"], controller.calls) == (True, [LOOK])
    assert words in ran["msg"]


def test_a_device_that_is_not_there_is_a_warning(controller: Controller) -> None:
    ran = controller.ran({**LOOKED, "missing_devices": ["/dev/ttyUSB0"]})
    assert "failed" not in ran
    assert ran["warnings"][0].startswith("robot-1: sensor_service_devices: /dev/ttyUSB0 is not there now")


def test_a_copied_card_is_a_warning(controller: Controller) -> None:
    controller.ran(LOOKED)
    with (controller.store / "roverwatch-seen").open("a") as seen:
        seen.write("another\t1\trobot-2\n")
    (warning,) = controller.ran(LOOKED)["warnings"]
    assert "is also that of robot-2, another machine" in warning


def test_a_role_of_the_operators_own_in_the_same_play_is_their_business(controller: Controller) -> None:
    assert "failed" not in controller.ran(LOOKED, roles=["base", "their_own"])


def test_looking_only_looks(controller: Controller) -> None:
    found = controller.ran({**LOOKED, "user": False}, only_look=True)
    assert (found["changed"], controller.calls) == (False, [LOOK])
    assert controller.asked[0][1]["wanted"] == {"directories": [], "files": [], "enabled": []}


@pytest.mark.parametrize("fault", ["failed", "unreachable"])
def test_a_machine_that_cannot_be_asked_or_told(controller: Controller, fault: str) -> None:
    assert controller.ran({fault: True, "msg": "why"})[fault]
    assert controller.ran(differing(reload=["roverwatch.slice"]), made={fault: True, "msg": "why"})[fault]


# --- the robot's half


def test_the_user_is_right_if_nobody_changed_it() -> None:
    root = dict(zip(("name", "comment", "home", "shell"), ("root", "root", "/root", "/bin/bash"), strict=True))
    assert module.is_there(root)
    assert not module.is_there({**root, "shell": "/usr/sbin/nologin"})
    assert not module.is_there({**root, "name": "no-such-user"})


@pytest.mark.parametrize(
    ("docker", "asked", "found"),
    [
        ("echo systemd", True, ["podman", "docker"]),
        ("echo cgroupfs", True, ["podman"]),
        ("exit 1", True, ["podman"]),
        ("echo systemd", False, ["podman"]),
    ],
)
def test_engines_that_put_a_container_where_it_belongs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, docker: str, asked: bool, found: list[str]
) -> None:
    for name, script in {"PODMAN": "", "DOCKER": docker}.items():
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setattr(module, name, program)
    assert module.engines(asked) == found


# --- the artifacts


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Store, Entry]:
    text = b"a binary"
    staged = tmp_path / "staged"
    staged.write_bytes(text)
    digest = hashlib.sha256(text).hexdigest()
    place = "tool/1.0/x86_64/tool"
    entry = Entry("tool", "1.0", "1.0", "x86_64", "binary", place, len(text), digest, "a test")
    store = Store(tmp_path / "store")
    store.add(entry, staged)
    return store, entry


def test_a_run_reads_each_artifact_once(stored: tuple[Store, Entry], tmp_path: Path) -> None:
    store, entry = stored
    verified.once(store, entry, tmp_path / "record")
    store.verify = lambda entry: pytest.fail("read again")  # type: ignore[method-assign]
    verified.once(store, entry, tmp_path / "record")


def test_an_artifact_that_is_damaged_is_seen_by_every_machine_of_a_run(
    stored: tuple[Store, Entry], tmp_path: Path
) -> None:
    store, entry = stored
    verified.once(store, entry, tmp_path / "record")
    path = store.path(entry)
    path.write_bytes(b"a binarY")
    for record in ("record", "record", "another run's"):
        with pytest.raises(TamperedArtifact):
            verified.once(store, entry, tmp_path / record)


def test_a_damaged_artifact_is_said_before_anything_changes(stored: tuple[Store, Entry], tmp_path: Path) -> None:
    store, entry = stored
    path = store.path(entry)
    path.write_bytes(b"a binarY")
    renamed = (store.root / "manifest.json").read_text().replace('"tool"', '"node_exporter"')
    (store.root / "manifest.json").write_text(renamed)
    found = Run(tmp_path)(["node_exporter"], {"node_exporter_version": "1.0"}, store=store.root)
    assert f"{path} was changed after it entered the artifact store" in found["msg"]


# --- the playbooks


def plays() -> list[dict[str, Any]]:
    return [play for play in yaml.safe_load((ROOT / "playbooks/site.yml").read_text()) if "tasks" in play]


def test_no_role_of_site_yml_is_checked_twice() -> None:
    for play in plays():
        for task in play["tasks"]:
            role = task["ansible.builtin.import_role"]
            assert role["name"] in ROLES
            assert role["rolespec_validate"] is False
        assert play["tasks"][0]["ansible.builtin.import_role"]["name"] == "base"


@pytest.mark.parametrize("play", plays(), ids=lambda play: play["hosts"])
def test_base_checks_the_variables_of_every_role_of_site_yml(play: dict[str, Any], tmp_path: Path) -> None:
    roles = [task["ansible.builtin.import_role"]["name"] for task in play["tasks"]]
    wrong = {f"{role}_misspelt": 1 for role in roles}
    run = Run(tmp_path)
    output = run.site(play["hosts"], wrong)
    assert set(re.findall(r"role (\w+) has no variable \w+_misspelt", output)) == set(roles)
    assert "Nothing was changed on" in output
