"""What on a machine is ours, and what is a stranger's under a name of ours."""

from __future__ import annotations

import grp
import json
import pwd
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.base import ownership
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.system import units
from networks import Space

ROOT = Path(__file__).resolve().parents[3]
NOLOGIN, HOME, COMMENT = ownership.USER["shell"], ownership.USER["home"], ownership.USER["comment"]


def account(uid: int, comment: str, home: str, shell: str) -> pwd.struct_passwd:
    return pwd.struct_passwd(("roverwatch", "x", uid, uid, comment, home, shell))


OURS = account(999, COMMENT, HOME, NOLOGIN)
THEIRS = account(1001, "", "/home/roverwatch", "/bin/bash")


@pytest.mark.parametrize(
    ("found", "ours", "right"),
    [
        (OURS, True, True),
        (account(999, COMMENT, HOME, "/bin/bash"), True, False),  # somebody has changed it: it is put right
        (account(999, COMMENT + ",,,", HOME, NOLOGIN), True, False),
        (account(999, "", HOME, NOLOGIN), True, False),  # as a version without the comment made it
        (THEIRS, False, False),
        (account(1001, COMMENT, HOME, NOLOGIN), False, False),  # a person's
        (account(0, COMMENT, HOME, NOLOGIN), False, False),
        (account(998, "", "/opt/theirs", NOLOGIN), False, False),
    ],
)
def test_whose_an_account_is(found: pwd.struct_passwd, ours: bool, right: bool) -> None:
    assert ownership.is_ours(found, ownership.USER) == ours
    assert not ours or ownership.is_right(found, ownership.USER) == right


class Machine:
    """A machine whose paths of ours lie in a directory, and whose account is the one that a test gives it."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.account: pwd.struct_passwd | None = None
        self.groups: list[str] = []
        self.programs = root / "programs"
        self.programs.mkdir()
        patch.setenv("PATH", f"{self.programs}:/usr/bin:/bin")
        self.nothing_of("nft", "podman", "docker")
        for name in ("DIRECTORIES", "PROGRAMS", "UNIT_PATHS"):
            paths = getattr(ownership, name)
            patch.setattr(ownership, name, tuple(root / str(path).lstrip("/") for path in paths))
        patch.setattr(ownership, "RECORD", root / str(ownership.RECORD).lstrip("/"))
        patch.setattr(units, "UNITS", ownership.UNIT_PATHS[0])
        patch.setattr(ownership, "account", lambda user: self.account)
        patch.setattr(ownership.grp, "getgrnam", self.group)

    def group(self, name: str) -> grp.struct_group:
        if name not in self.groups:
            raise KeyError(name)
        return grp.struct_group((name, "x", 1003, []))

    def have(self, path: str, text: str = "theirs\n") -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def program(self, name: str, script: str) -> None:
        (self.programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.programs / name).chmod(0o755)

    def nothing_of(self, *names: str) -> None:
        for name in names:
            self.program(name, "exit 0")

    def strangers(self) -> list[str]:
        return ownership.strangers(ownership.USER, ["roverwatch-sensor", "roverwatch-node-exporter"])

    def problem(self) -> str:
        (problem,) = self.strangers()
        return problem


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_a_bare_machine_has_nothing_in_the_way(machine: Machine) -> None:
    assert machine.strangers() == []
    assert not ownership.machine_is_ours(ownership.USER)


def test_directories_that_were_made_for_us_are_used(machine: Machine) -> None:
    (machine.root / "data/lost+found").mkdir(parents=True)
    for path in ownership.DIRECTORIES:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(machine.root / "data")
    assert machine.strangers() == []


THINGS: dict[str, tuple[Callable[[Machine], object], str]] = {
    "account": (lambda m: setattr(m, "account", THEIRS), "the account roverwatch (uid 1001, home /home/roverwatch"),
    "group": (lambda m: m.groups.append("roverwatch"), "a group roverwatch (gid 1003)"),
    "directory": (lambda m: m.have("opt/roverwatch/notes"), "opt/roverwatch is there, with notes in it"),
    "data": (lambda m: m.have("var/lib/roverwatch/notes"), "var/lib/roverwatch is there, with notes in it"),
    "file": (lambda m: m.have("etc/roverwatch"), "etc/roverwatch is no directory"),
    "unit": (lambda m: m.have("etc/systemd/system/roverwatch-sensor.service"), "roverwatch-sensor.service is a unit"),
    "package": (lambda m: m.have("usr/lib/systemd/system/roverwatch.slice"), "roverwatch.slice is a unit that"),
    "program": (lambda m: m.have("usr/local/sbin/roverwatch-release"), "roverwatch-release is there"),
    "container": (
        lambda m: m.program("podman", '[ "$1" = ps ] && printf "web\\nroverwatch-sensor\\n" || true'),
        "podman has a container roverwatch-sensor",
    ),
    "image": (
        lambda m: m.program("docker", '[ "$1" = image ] && echo localhost/roverwatch/sensor:1 || true'),
        "docker has an image localhost/roverwatch/sensor:1",
    ),
}


@pytest.mark.parametrize("thing", THINGS)
def test_what_a_stranger_has_under_our_name_is_refused(machine: Machine, thing: str) -> None:
    make, words = THINGS[thing]
    make(machine)
    assert words in machine.problem()
    assert not ownership.machine_is_ours(ownership.USER)


def test_a_table_of_that_name(machine: Machine, space: Space) -> None:
    machine.program("nft", f'exec {" ".join(space.command("/usr/sbin/nft"))} "$@"')
    space.load("table inet theirs {}")
    assert machine.strangers() == []
    space.load("table inet roverwatch {}")
    assert "table inet roverwatch in nftables" in machine.problem()
    machine.account = OURS
    assert machine.strangers() == []


MINE = "[Service]\nEnvironment=ROVERWATCH_REVISION=0123456789abcdef\n"


@pytest.mark.parametrize("mark", ["account", "record"])
def test_on_a_machine_of_ours_all_of_that_is_ours(machine: Machine, mark: str) -> None:
    """Also where a run was cut off, or a former version deployed it."""
    for path in (
        "opt/roverwatch/sensor/x",
        "etc/roverwatch/x",
        "var/lib/roverwatch/x",
        "usr/local/sbin/roverwatch-release",
    ):
        machine.have(path)
    machine.have("etc/systemd/system/roverwatch.slice")
    machine.have("etc/systemd/system/roverwatch-sensor.service", MINE)
    machine.have("etc/systemd/system/roverwatch-node-exporter.service", "")
    if mark == "account":
        machine.account = OURS
    else:
        machine.have("var/lib/roverwatch/machine.json", json.dumps({"name": "robot-1"}))
    assert machine.strangers() == []
    assert ownership.machine_is_ours(ownership.USER)


@pytest.mark.parametrize("place", ["etc/systemd/system", "usr/lib/systemd/system"])
def test_a_strangers_unit_is_seen_there_too(machine: Machine, place: str) -> None:
    machine.account = OURS
    machine.have(f"{place}/roverwatch-sensor.service", "[Service]\nExecStart=/usr/bin/theirs\n")
    assert "roverwatch-sensor.service is a unit that Roverwatch did not make" in machine.problem()
    assert units.instances("roverwatch-sensor") == []


def test_history_that_a_former_version_has_kept(machine: Machine) -> None:
    machine.have("var/lib/roverwatch/victoriametrics/data/x")
    machine.have("var/lib/roverwatch/textfile/roverwatch-sensor.oom.prom")
    assert machine.strangers() == []


def test_a_record_that_a_power_cut_has_emptied_is_a_record(machine: Machine) -> None:
    machine.have("var/lib/roverwatch/machine.json", "")
    assert ownership.record() == {}
    assert ownership.machine_is_ours(ownership.USER)


def test_all_that_is_no_service_is_known() -> None:
    made = {path.name for path in ROOT.glob("roles/*/files/**/*") if path.name.startswith("roverwatch")}
    made -= {"roverwatch.conf"}  # a drop-in of another one's unit
    known = {*ownership.UNITS, *(path.name for path in ownership.PROGRAMS)} - {
        "roverwatch-no-thp",
        "roverwatch-oom-count",
    }
    assert known == made


def test_a_decommissioning_looks_whose_it_is_first() -> None:
    plays = yaml.safe_load((ROOT / "playbooks/decommission.yml").read_text())
    assert [play["hosts"] for play in plays[2:]] == ["robots", "hubs"]
    for play in plays[2:]:
        assert play["tasks"][0]["ansible.builtin.include_role"] == {"name": "base", "tasks_from": "still_ours"}
    look, leave, stop = yaml.safe_load((ROOT / "roles/base/tasks/still_ours.yml").read_text())
    assert "roverwatch.fleet.ownership" in look
    assert leave["ansible.builtin.meta"] == "end_host"
    assert "inventory_hostname" in stop["ansible.builtin.assert"]["that"]
