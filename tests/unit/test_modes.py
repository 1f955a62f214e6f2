"""What a machine gets is root's, and the services can read it, whatever umask a login has; if not, it is put right."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.artifact import installed
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.service import capped_unit, secret_files
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.system import (
    disk,
    machine_files,
    systemd,
    units,
)

ARCH = platform.machine()
ME = os.geteuid()
PROGRAM = b"\x7fELF"


class Robot:
    """A machine below a directory, and each writer that puts something onto it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.etc, self.opt, self.units = root / "etc/roverwatch", root / "opt/roverwatch", root / "units"
        self.staged = root / "staged"
        self.units.mkdir()
        (root / "etc").mkdir()
        (root / "opt").mkdir()
        self.entry = {
            "name": "x",
            "version": "1",
            "kind": "binary",
            "file": "x",
            "sha256": hashlib.sha256(PROGRAM).hexdigest(),
        }
        self.wanted = {
            "directories": [str(self.etc), str(root / "var/lib/roverwatch/textfile")],
            "files": [
                {
                    "path": str(self.etc / "gate/rules"),
                    "mode": "0644",
                    "sha256": hashlib.sha256(b"a").hexdigest(),
                    "content": "a",
                }
            ],
            "enabled": [],
        }

    def unit(self) -> capped_unit.CappedUnit:
        return capped_unit.CappedUnit(
            {
                "name": "roverwatch-x",
                "unit": "[Service]\n",
                "files": [{"path": str(self.etc / "x/x.yml"), "content": "c", "mode": "0644", "validate": []}],
                "secrets": {"password": "s"},
                "secrets_dir": str(self.etc / "x" / "secrets"),
                "secrets_owner": str(ME),
                "service": {"kind": "binary", "exe": "/x"},
                "replaces": [],
                "scrape": {},
                "ready_timeout": 1,
            },
            check_mode=False,
        )

    def deploy(self) -> bool:
        """As the modules do it; says whether anything was changed."""
        self.staged.write_bytes(PROGRAM)
        changed = any(machine_files.look(self.wanted).values())
        machine_files.apply(self.wanted, lambda *_: None)
        candidates = {"x": {ARCH: self.entry}}
        try:
            _, brought = installed.ensure(candidates, {}, None, False)
        except installed.Lacking:
            _, brought = installed.ensure(candidates, {"x": str(self.staged)}, None, False)
        unit = self.unit()
        changed = changed or bool(brought) or bool(unit.due or unit.secrets_due)
        if unit.due or unit.secrets_due:
            unit.apply(bool(brought))
        return changed

    def seen(self) -> dict[str, tuple[str, int, int]]:
        """Mode, owner and group of everything that was made."""
        found = {}
        for place in ("etc", "opt", "units", "var"):
            for path in (self.root / place).rglob("*"):
                status = path.stat()
                mode = f"{status.st_mode & 0o7777:04o}"
                found[str(path.relative_to(self.root))] = (mode, status.st_uid, status.st_gid)
        return found


@pytest.fixture
def robot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Robot]:
    robot = Robot(tmp_path)
    state = {"ActiveState": "active", "UnitFileState": "enabled", "NeedDaemonReload": "no", "MainPID": "0"}
    state |= {"NRestarts": "0", "ControlGroup": ""}
    monkeypatch.setattr(systemd, "show", lambda *_: state)
    monkeypatch.setattr(systemd, "show_many", lambda names, _: dict.fromkeys(names, state))
    monkeypatch.setattr(units, "UNITS", robot.units)
    monkeypatch.setattr(units, "CONFIG", robot.etc)
    monkeypatch.setattr(installed, "ROOT", robot.opt)
    monkeypatch.setattr(disk, "OURS", [robot.etc, robot.opt, tmp_path / "var/lib/roverwatch"])
    monkeypatch.setattr(disk, "sync", lambda *_: None)
    monkeypatch.setattr(capped_unit, "_systemctl", lambda *_, **__: None)
    monkeypatch.setattr(capped_unit.CappedUnit, "_prove", lambda *_: {})
    before = os.umask(0o022)
    yield robot
    os.umask(before)


EXPECTED = {
    "etc/roverwatch": "0755",
    "etc/roverwatch/gate": "0755",
    "etc/roverwatch/gate/rules": "0644",
    "etc/roverwatch/scrape.d": "0755",
    "etc/roverwatch/scrape.d/roverwatch-x.yml": "0644",
    "etc/roverwatch/services.d": "0755",
    "etc/roverwatch/services.d/roverwatch-x.json": "0644",
    "etc/roverwatch/x": "0755",
    "etc/roverwatch/x/secrets": "0700",
    "etc/roverwatch/x/secrets/.generation": "0400",
    "etc/roverwatch/x/secrets/password": "0400",
    "etc/roverwatch/x/x.yml": "0644",
    "opt/roverwatch": "0755",
    "opt/roverwatch/x": "0755",
    "opt/roverwatch/x/1": "0755",
    "opt/roverwatch/x/1/installed.json": "0644",
    "opt/roverwatch/x/1/x": "0755",
    "units/roverwatch-x.service": "0644",
    "var/lib": "0755",
    "var/lib/roverwatch": "0755",
    "var/lib/roverwatch/textfile": "0755",
}


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o007])
def test_whatever_the_umask_is_the_modes_are_the_same(robot: Robot, umask: int) -> None:
    os.umask(umask)
    assert robot.deploy()
    assert robot.seen() == {path: (mode, ME, os.getegid()) for path, mode in EXPECTED.items()}
    assert not robot.deploy()


@pytest.mark.parametrize("path", sorted(set(EXPECTED) - {"var/lib"}))
def test_what_an_earlier_run_has_left_closed_is_put_right_and_reported(robot: Robot, path: str) -> None:
    robot.deploy()
    before = robot.seen()
    (robot.root / path).chmod(0o700 if (robot.root / path).is_dir() else 0o600)
    if path.endswith("secrets"):
        (robot.root / path).chmod(0o755)
    os.umask(0o077)
    assert robot.deploy(), "it says that it has changed something"
    secrets = {name for name in before if name.endswith(".generation")}
    assert {name: seen for name, seen in robot.seen().items() if name not in secrets} == {
        name: seen for name, seen in before.items() if name not in secrets
    }
    assert not robot.deploy()


@pytest.mark.skipif(ME != 0, reason="gives files away, which root alone may")
@pytest.mark.parametrize("path", ["etc/roverwatch/x/x.yml", "opt/roverwatch/x/1/x", "etc/roverwatch/services.d"])
def test_what_belongs_to_somebody_else_is_roots_again(robot: Robot, path: str) -> None:
    robot.deploy()
    os.chown(robot.root / path, 65534, 65534)
    assert robot.deploy()
    assert robot.seen()[path] == (EXPECTED[path], 0, 0)
    assert not robot.deploy()


def test_a_directory_of_secrets_is_not_opened_on_the_way_to_one(robot: Robot) -> None:
    secrets = secret_files.SecretFiles(robot.etc / "y" / "secrets", ME, {"a": "b"})
    secrets.write("1")
    assert (robot.etc / "y" / "secrets").stat().st_mode & 0o7777 == 0o700
    assert (robot.etc / "y").stat().st_mode & 0o7777 == 0o755
    assert json.loads(json.dumps(secrets.differing())) == []


def test_directories_of_the_system_are_left_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "OURS", [tmp_path / "etc" / "roverwatch"])
    (tmp_path / "etc").mkdir(mode=0o711)
    (tmp_path / "etc").chmod(0o711)
    disk.place(tmp_path / "etc" / "roverwatch" / "x" / "file", "")
    disk.place(tmp_path / "etc" / "unit", "")
    assert (tmp_path / "etc").stat().st_mode & 0o7777 == 0o711


def names(value: Any) -> list[str]:
    return [str(path) for path in value]


def test_the_way_to_a_file_begins_where_the_system_ends() -> None:
    assert names(disk.way(Path("/etc/systemd/system/x.service"))) == []
    assert names(disk.way(Path("/usr/local/sbin/x"))) == []
    assert names(disk.way(Path("/opt/roverwatch/a/1/a"))) == [
        "/opt/roverwatch",
        "/opt/roverwatch/a",
        "/opt/roverwatch/a/1",
    ]
    assert names(disk.way(Path("/usr/share/prometheus/alertmanager/x.tmpl"))) == [
        "/usr/share/prometheus",
        "/usr/share/prometheus/alertmanager",
    ]
