"""Asking systemd: one call, whatever the number of units, and no answer goes to the wrong one."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.system import systemd

SHOWN = """\
Id=roverwatch-vmagent.service
ActiveState=active
ExecStart={ path=/bin/true ; argv[]=/bin/true a=b ; }

Id=roverwatch.slice
ActiveState=inactive
"""


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of fake programs, in front of the real ones."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def fake(programs: Path, name: str, body: str) -> Path:
    """A program that logs its arguments, one per line, and then runs `body`; returns the log."""
    log = programs / f"{name}.log"
    program = programs / name
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >>{log}\n{body}\n')
    program.chmod(0o755)
    return log


def test_bare_name_is_a_service() -> None:
    assert systemd.full_name("roverwatch-vmagent") == "roverwatch-vmagent.service"
    assert systemd.full_name("roverwatch.slice") == "roverwatch.slice"
    assert systemd.full_name("dotted.name") == "dotted.name.service"


def test_many_units_cost_one_call(programs: Path) -> None:
    (programs / "shown").write_text(SHOWN)
    log = fake(programs, "systemctl", f"cat {programs}/shown")
    answer = systemd.show_many(["roverwatch-vmagent", "roverwatch.slice"], ["ActiveState", "ExecStart"])
    assert log.read_text().splitlines() == [
        "show",
        "--no-pager",
        "--property=Id,ActiveState,ExecStart",
        "--",
        "roverwatch-vmagent.service",
        "roverwatch.slice",
    ]
    assert answer["roverwatch-vmagent"]["ActiveState"] == "active"
    assert answer["roverwatch-vmagent"]["ExecStart"] == "{ path=/bin/true ; argv[]=/bin/true a=b ; }"
    assert answer["roverwatch.slice"] == {"Id": "roverwatch.slice", "ActiveState": "inactive"}


def test_no_units_cost_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    # `systemctl show` without a unit would describe the manager itself.
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a program was run"))
    assert systemd.show_many([], ["ActiveState"]) == {}


def test_one_unit(programs: Path) -> None:
    fake(programs, "systemctl", "echo Id=a.service; echo NRestarts=3")
    assert systemd.show("a", ["NRestarts"])["NRestarts"] == "3"


def test_refusal_carries_stderr(programs: Path) -> None:
    fake(programs, "systemctl", "echo 'Failed to connect to bus: Host is down' >&2; exit 1")
    with pytest.raises(systemd.SystemdError, match="exited with 1: Failed to connect to bus: Host is down"):
        systemd.show("a", ["Id"])


def test_missing_program_is_the_same_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(systemd.SystemdError, match="systemctl"):
        systemd.show("a", ["Id"])


def test_answer_for_another_number_of_units_is_refused(programs: Path) -> None:
    fake(programs, "systemctl", "echo Id=a.service")
    with pytest.raises(systemd.SystemdError, match="1 blocks for 2 units"):
        systemd.show_many(["a", "b"], ["Id"])


def test_manager_that_hangs_is_left(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "COMMAND_TIMEOUT_SECONDS", 0.2)
    fake(programs, "systemctl", "exec sleep 5")
    with pytest.raises(systemd.SystemdError, match="timed out"):
        systemd.show("a", ["Id"])


def test_journal_tail(programs: Path) -> None:
    log = fake(programs, "journalctl", "echo one; echo two")
    assert systemd.journal_tail("a", lines=7) == ["one", "two"]
    assert "--lines=7" in log.read_text()
    assert "--unit=a.service" in log.read_text()


def test_no_journal_is_an_empty_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert systemd.journal_tail("a") == []


def test_restarts_are_counted_in_the_journal(programs: Path) -> None:
    log = fake(programs, "journalctl", "echo 'a.service: Scheduled restart job, restart counter is at 1.'; echo again")
    assert systemd.restarts_in_journal("a", 600.0) == 2
    asked = log.read_text().splitlines()
    assert {"--since=-600s", "UNIT=a.service", "MESSAGE_ID=5eb03494b6584870a536b337290809b3"} <= set(asked)


def test_where_there_is_no_journal_none_are_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert systemd.restarts_in_journal("a", 600.0) == 0
