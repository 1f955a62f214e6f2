"""What a machine has beside its services: the look, what is sent then, and a run that was cut off."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.roverwatch.fleet.plugins.action import machine_files as action
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.system import machine_files, systemd, units
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.system.machine_files import File, MachineFiles

RIGHT = {"ActiveState": "active", "UnitFileState": "enabled", "NeedDaemonReload": "no"}


class Machine:
    """A machine's disk below a directory, and what systemd is told."""

    def __init__(self, directory: Path, patch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        self.tool, self.unit = directory / "sbin" / "tool", directory / "units" / "tool.service"
        self.states = {"tool.service": {**RIGHT, "ActiveState": "inactive", "UnitFileState": "disabled"}}
        self.told: list[str] = []
        self.wanted = MachineFiles(
            [str(directory / "etc" / "tool")],
            [File(str(self.tool), "#!/bin/sh\n", "0755"), File(str(self.unit), "[Service]\n")],
            ["tool.service"],
        )
        patch.setattr(units, "UNITS", directory / "units")
        patch.setattr(systemd, "show_many", lambda names, _: {name: self.states[name] for name in names})

    def look(self) -> dict[str, Any]:
        return machine_files.look(self.wanted.to_look_for())

    def apply(self) -> None:
        self.told = []
        machine_files.apply(self.wanted.to_apply(), self.systemctl)

    def systemctl(self, *arguments: str) -> None:
        self.told.append(" ".join(arguments))
        if arguments[0] == "daemon-reload":
            self.states["tool.service"] = {**self.states["tool.service"], "NeedDaemonReload": "no"}
        else:
            self.states["tool.service"] = dict(RIGHT)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


NOTHING = {"directories": [], "files": {}, "reload": [], "enabled": []}
ENABLE = "enable --quiet --now tool.service"


def test_a_bare_machine_gets_all_of_it(machine: Machine) -> None:
    assert machine.look() == {
        "directories": machine.wanted.directories,
        "files": {str(machine.tool): None, str(machine.unit): None},
        "reload": [],
        "enabled": ["tool.service"],
    }
    assert list(machine.directory.iterdir()) == [], "a look changes nothing"
    machine.apply()
    assert machine.told == ["daemon-reload", ENABLE]
    assert machine.look() == NOTHING
    modes = [path.stat().st_mode & 0o7777 for path in (machine.tool, machine.unit, machine.directory / "etc" / "tool")]
    assert modes == [0o755, 0o644, 0o755]
    assert sorted(path.name for path in machine.tool.parent.iterdir()) == ["tool"], "nothing else is left behind"


def test_only_what_differs_is_made(machine: Machine) -> None:
    machine.apply()
    unit = machine.unit.stat()
    machine.tool.write_text("other")
    machine.tool.chmod(0o700)
    assert machine.look() == {**NOTHING, "files": {str(machine.tool): {"content": "other", "mode": 0o700}}}
    machine.apply()
    assert machine.told == [], "no unit has changed"
    assert (machine.tool.read_text(), machine.unit.stat().st_ino) == ("#!/bin/sh\n", unit.st_ino)


def test_a_mode_that_differs_is_put_right(machine: Machine) -> None:
    machine.apply()
    machine.tool.chmod(0o700)
    (machine.directory / "etc" / "tool").chmod(0o700)
    assert machine.look() == {
        **NOTHING,
        "directories": machine.wanted.directories,
        "files": {str(machine.tool): {"content": "#!/bin/sh\n", "mode": 0o700}},
    }
    machine.apply()
    assert machine.look() == NOTHING


def test_systemd_reads_a_unit_that_changed(machine: Machine) -> None:
    machine.apply()
    machine.unit.write_text("other")
    machine.apply()
    assert machine.told == ["daemon-reload"]


def test_a_run_that_was_cut_off_before_systemd_read_its_units_is_finished(machine: Machine) -> None:
    machine.apply()
    machine.states["tool.service"]["NeedDaemonReload"] = "yes"
    assert machine.look() == {**NOTHING, "reload": ["tool.service"]}
    machine.apply()
    assert machine.told == ["daemon-reload"]
    assert machine.look() == NOTHING


@pytest.mark.parametrize("state", [{"ActiveState": "failed"}, {"UnitFileState": "disabled"}])
def test_a_unit_that_somebody_stopped_or_disabled_is_back(machine: Machine, state: dict[str, str]) -> None:
    machine.apply()
    machine.states["tool.service"] = {**RIGHT, **state}
    machine.apply()
    assert machine.told == [ENABLE]


def test_what_differs_is_shown(machine: Machine) -> None:
    machine.tool.parent.mkdir()
    machine.tool.write_text("other\n")
    machine.tool.chmod(0o700)
    directory, tool, mode, unit, enabled = machine.wanted.diffs(machine.look())
    assert directory == {"prepared": f"{machine.directory}/etc/tool: to be a directory with mode 0755\n"}
    assert (tool["before"], tool["after"]) == ("other\n", "#!/bin/sh\n")
    assert mode == {"prepared": f"{machine.tool}: mode 0700, to be 0755\n"}
    assert (unit["after_header"], unit["before"], unit["after"]) == (str(machine.unit), "", "[Service]\n")
    assert enabled == {"prepared": "tool.service: to be enabled and started\n"}
    assert machine.wanted.diffs({**NOTHING, "reload": ["tool.service"]}) == [
        {"prepared": "tool.service: systemd has yet to read its file\n"}
    ]


# --- the controller's half


class Controller:
    """Runs the action for a role that has a file `tool`, against a machine that answers so."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "tool").write_text("#!/bin/sh\n")
        self.asked: list[dict[str, Any]] = []

    def ran(self, *answers: dict[str, Any], check: bool = False) -> dict[str, Any]:
        left = list(answers)
        args = {"files": [{"path": "/usr/local/sbin/tool", "mode": "0755"}]}
        task = SimpleNamespace(args=args, check_mode=check, async_val=0, diff=False, delegate_to=None)
        connection = SimpleNamespace(_shell=SimpleNamespace(tmpdir="/nowhere"))
        plugin = action.ActionModule(task, connection, None, None, None, None)
        plugin._find_needle = lambda where, name: str(self.directory / name)

        def execute(name: str, module_args: dict[str, Any], task_vars: object) -> dict[str, Any]:
            self.asked.append(module_args)
            return dict(left.pop(0))

        plugin._execute_module = execute
        found: dict[str, Any] = plugin.run(task_vars={"inventory_hostname": "robot-1"})
        assert left == []
        return found


@pytest.fixture
def controller(tmp_path: Path) -> Controller:
    return Controller(tmp_path)


MISSING = {"differences": {**NOTHING, "files": {"/usr/local/sbin/tool": None}}}


def test_a_machine_that_has_all_is_asked_once_and_sent_nothing(controller: Controller) -> None:
    found = controller.ran({"differences": NOTHING})
    assert (found["changed"], found["diff"]) == (False, [])
    assert "#!/bin/sh" not in json.dumps(controller.asked)


def test_one_that_has_not_is_sent_the_files(controller: Controller) -> None:
    found = controller.ran(MISSING, {"changed": True})
    assert (found["changed"], len(found["diff"])) == (True, 1)
    assert controller.asked[1]["apply"] is True
    assert controller.asked[1]["files"][0]["content"] == "#!/bin/sh\n"


def test_in_check_mode_it_is_not(controller: Controller) -> None:
    found = controller.ran(MISSING, check=True)
    assert (found["changed"], found["diff"][0]["after"]) == (True, "#!/bin/sh\n")


@pytest.mark.parametrize("fault", ["failed", "unreachable"])
def test_a_machine_that_cannot_be_asked_or_told(controller: Controller, fault: str) -> None:
    assert controller.ran({fault: True, "msg": "why"})[fault]
    assert controller.ran(MISSING, {fault: True, "msg": "why"})[fault]
