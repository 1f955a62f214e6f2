"""Two names for one machine: by the inventory, and by what machines say of themselves; and what is a copy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.base import identity
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.base import same_machine

TEN = {"ansible_host": "10.0.0.11"}
FLEET: dict[str, dict[str, Any]] = {
    "robot-1": TEN,
    "robot-2": {**TEN, "ansible_port": 22},
    "robot-3": {**TEN, "ansible_port": 2222},
    "robot-4": {**TEN, "ansible_ssh_common_args": "-J site-b"},
    "robot-5": {"ansible_host": "Robot-6."},
    "robot-6": {},
    "robot-7": {**TEN, "ansible_connection": "local"},
}


def test_one_address_is_one_machine_unless_the_way_to_it_differs(tmp_path: Path) -> None:
    found = {name: same_machine.with_one_address(name, list(FLEET), FLEET.__getitem__, tmp_path) for name in FLEET}
    assert {name: others for name, others in found.items() if others} == {
        "robot-1": ["robot-2"],
        "robot-2": ["robot-1"],
        "robot-5": ["robot-6"],
        "robot-6": ["robot-5"],
    }


def test_the_inventory_is_read_once_for_a_play(tmp_path: Path) -> None:
    same_machine.with_one_address("robot-1", list(FLEET), FLEET.__getitem__, tmp_path)
    assert same_machine.with_one_address("robot-2", list(FLEET), {}.__getitem__, tmp_path) == ["robot-1"]
    hub: dict[str, dict[str, Any]] = {"hub-1": {}}
    assert same_machine.with_one_address("hub-1", ["hub-1"], hub.__getitem__, tmp_path) == []
    assert same_machine.with_one_address("robot-1", ["robot-1"], {"robot-1": TEN}.__getitem__, tmp_path) == []


def machine(system: str, disk: str = "d") -> dict[str, str]:
    return {"system": system, "machine_id": disk}


def test_a_machine_that_is_reached_by_two_addresses(tmp_path: Path) -> None:
    assert same_machine.seen("robot-1", machine("a"), tmp_path) == ([], [])
    assert same_machine.other_names("robot-1", tmp_path) == []
    assert same_machine.seen("robot-1", machine("a"), tmp_path) == ([], []), "a second play"
    assert same_machine.seen("robot-2", machine("a"), tmp_path) == (["robot-1"], [])
    assert same_machine.other_names("robot-1", tmp_path) == ["robot-2"], "the first one does not go on either"
    assert same_machine.other_names("robot-3", tmp_path) == []


def test_a_copied_card_is_another_machine(tmp_path: Path) -> None:
    same_machine.seen("robot-1", machine("a"), tmp_path)
    assert same_machine.seen("robot-2", machine("b"), tmp_path) == ([], ["robot-1"])
    assert same_machine.other_names("robot-1", tmp_path) == []
    same_machine.seen("robot-3", machine("c", disk=""), tmp_path)
    assert same_machine.seen("robot-4", machine("e", disk=""), tmp_path) == ([], []), "machines without an id"


def test_who_was_first_is_told_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(same_machine, "of_run", lambda: tmp_path)
    same_machine.seen("robot-1", machine("a"), tmp_path)
    same_machine.refuse("robot-1")
    same_machine.seen("robot-2", machine("a"), tmp_path)
    with pytest.raises(AnsibleActionFail, match="robot-1 and robot-2 are the same machine"):
        same_machine.refuse("robot-1")


def test_this_machine_is_itself() -> None:
    assert identity.running() == identity.running()
    assert "pid:[" in identity.running()["system"]
