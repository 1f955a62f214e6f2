"""When a unit counts as ready: its own process answers, and is there to stay. systemd is a table, the rest is real."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import loopback
import pytest
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.service import capped_unit
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.system import cgroup, systemd, units

EXE = str(Path("/proc/self/exe").readlink())


class Robot:
    """A machine on which this very process is the service, unless a test says otherwise."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.answered = 0
        self.url = ""
        self.state = {
            "ActiveState": "active",
            "SubState": "running",
            "MainPID": str(os.getpid()),
            "UnitFileState": "enabled",
            "NeedDaemonReload": "no",
            "Result": "success",
            "NRestarts": "0",
            "ControlGroup": "/roverwatch.slice/roverwatch-x.service",
            "ExecMainStartTimestampMonotonic": "0",
        }
        self.cgroup = root / "roverwatch.slice" / "roverwatch-x.service"
        self.cgroup.mkdir(parents=True)
        (self.cgroup / "cgroup.procs").write_text(f"{os.getpid()}\n")
        self.then: Callable[[], None] = lambda: None

    def show(self, *_: object) -> dict[str, str]:
        self.then()
        return dict(self.state)

    def answer(self, _: str) -> loopback.Answer:
        self.answered += 1
        return 200, b"OK"

    def started(self, seconds_ago: float) -> None:
        at = time.clock_gettime(time.CLOCK_MONOTONIC) - seconds_ago
        self.state["ExecMainStartTimestampMonotonic"] = str(int(at * 1e6))

    def unit(self, **service: Any) -> capped_unit.CappedUnit:
        wanted = {
            "name": "roverwatch-x",
            "unit": "[Service]\n",
            "files": [],
            "secrets": {},
            "secrets_dir": None,
            "service": {"kind": "binary", "exe": EXE, "ready_url": f"{self.url}/health", **service},
            "replaces": [],
            "scrape": {},
            "ready_timeout": 5,
        }
        found = capped_unit.CappedUnit(wanted, check_mode=False)
        found.restart = False
        return found

    def prove(self, **service: Any) -> dict[str, Any]:
        return self.unit(**service)._prove(int(self.state["NRestarts"]))


@pytest.fixture
def robot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Robot]:
    robot = Robot(tmp_path)
    monkeypatch.setattr(systemd, "show", robot.show)
    monkeypatch.setattr(systemd, "journal_tail", lambda *_: ["bind: address already in use"])
    monkeypatch.setattr(cgroup, "find_controller", lambda: cgroup.Controller(2, tmp_path, "/"))
    monkeypatch.setattr(units, "UNITS", tmp_path / "units")
    monkeypatch.setattr(units, "CONFIG", tmp_path / "etc")
    with loopback.served(robot.answer) as robot.url:
        yield robot


def test_one_answer_of_a_process_that_has_long_run_is_enough(robot: Robot) -> None:
    assert robot.prove()["main_pid"] == os.getpid()
    assert robot.answered == 1


def test_a_process_that_has_just_started_lives_through_some_probes(robot: Robot) -> None:
    robot.started(0)
    robot.prove()
    assert robot.answered == capped_unit.ANSWERS


def test_a_process_that_ends_in_between_begins_again(robot: Robot, monkeypatch: pytest.MonkeyPatch) -> None:
    robot.started(0)
    unit = robot.unit()
    seen = iter([1, 2])
    monkeypatch.setattr(unit, "process", lambda _: next(seen, os.getpid()))
    monkeypatch.setattr(unit, "other_program", lambda _: "")
    unit._prove(0)
    assert robot.answered == 2 + capped_unit.ANSWERS


def crash_loop(robot: Robot) -> None:
    """Each look finds the unit between two starts, one restart later."""
    (robot.cgroup / "cgroup.procs").write_text("")
    robot.state |= {"ActiveState": "activating", "SubState": "auto-restart", "MainPID": "0", "ControlGroup": ""}
    robot.state["Result"] = "exit-code"

    def again() -> None:
        robot.state["NRestarts"] = str(int(robot.state["NRestarts"]) + 1)

    robot.then = again


def test_a_stranger_on_the_port_is_no_proof_for_a_unit_that_starts_again_and_again(robot: Robot) -> None:
    crash_loop(robot)
    with pytest.raises(capped_unit.Refused) as refused:
        robot.prove()
    said = str(refused.value)
    port = robot.url.rpartition(":")[2]
    assert f"port {port} is answered by " in said
    assert f"(pid {os.getpid()}" in said
    assert "roverwatch-x is activating/auto-restart (exit-code, started again by systemd" in said
    assert "address already in use" in said
    assert "Errno" not in said


def test_nor_for_one_that_runs_and_does_not_listen(robot: Robot) -> None:
    (robot.cgroup / "cgroup.procs").write_text("1\n")
    unit = robot.unit()
    unit.ready_timeout = 0
    with pytest.raises(capped_unit.Refused, match=r"answered by .*\(pid .*, and not by roverwatch-x"):
        unit._prove(0)


def test_a_process_that_systemd_has_started_again_gets_old_first(robot: Robot, monkeypatch: pytest.MonkeyPatch) -> None:
    robot.started(0)
    robot.state["NRestarts"] = "4"
    unit = robot.unit()
    unit.ready_timeout = 0
    with pytest.raises(capped_unit.Refused, match=r"systemd has started it again 4 times, 0 s ago the last time"):
        unit._prove(4)
    monkeypatch.setattr(capped_unit, "STEADY_SECONDS", 0.5)
    assert robot.prove()["main_pid"] == os.getpid()


def test_another_program_is_no_proof(robot: Robot) -> None:
    unit = robot.unit(exe="/opt/roverwatch/x/2/x")
    unit.ready_timeout = 0
    with pytest.raises(capped_unit.Refused, match=f"but it runs {EXE} instead of /opt/roverwatch/x/2/x"):
        unit._prove(0)


def test_a_container_answers_from_its_own_cgroup(robot: Robot, monkeypatch: pytest.MonkeyPatch) -> None:
    cid_file = robot.root / "cid"
    cid_file.write_text("c0ffee")
    scope = robot.cgroup.parent / "libpod-c0ffee.scope" / "container"
    scope.mkdir(parents=True)
    (scope / "cgroup.procs").write_text(f"{os.getpid()}\n")
    (robot.cgroup / "cgroup.procs").write_text("1\n")  # the supervisor
    inspected = capped_unit.subprocess.CompletedProcess([], 0, stdout="sha256:1\n", stderr="")
    monkeypatch.setattr(capped_unit, "_run", lambda _: inspected)
    service = {"kind": "container", "cid_file": str(cid_file), "engine": "podman", "image_id": "sha256:1"}
    assert robot.prove(**service)["main_pid"] == os.getpid()
    (scope / "cgroup.procs").write_text("1\n")
    unit = robot.unit(**service)
    unit.ready_timeout = 0
    with pytest.raises(capped_unit.Refused, match="answered by"):
        unit._prove(0)


def reset_failed(robot: Robot, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What systemctl is called with from now on; of that only reset-failed does something."""
    called: list[tuple[str, ...]] = []

    def systemctl(*args: str, journal_of: str) -> None:
        called.append(args)
        if args[0] == "reset-failed":
            robot.state["NRestarts"] = "0"

    monkeypatch.setattr(capped_unit, "_systemctl", systemctl)
    return called


def test_restarts_of_before_do_not_count_for_a_process_that_this_run_starts(
    robot: Robot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd counts on through a restart that meets the unit between two starts."""
    called = reset_failed(robot, monkeypatch)
    robot.state |= {"NRestarts": "40", "ActiveState": "activating"}
    unit = robot.unit()
    robot.state["ActiveState"] = "active"
    unit.due = []
    unit.apply(False)
    assert [args[0] for args in called] == ["reset-failed", "start"]
    assert robot.state["NRestarts"] == "0"


@pytest.mark.parametrize("mended", [True, False])
def test_nor_for_one_whose_program_was_mended_under_it(
    robot: Robot, monkeypatch: pytest.MonkeyPatch, mended: bool
) -> None:
    """systemd may have started it by itself in the moment in which its image was whole again."""
    called = reset_failed(robot, monkeypatch)
    robot.state["NRestarts"] = "5"
    monkeypatch.setattr(capped_unit.CappedUnit, "_runs", lambda *_: True)
    unit = robot.unit()
    unit.due = []
    unit.apply(mended)
    assert [args[0] for args in called] == (["reset-failed"] if mended else [])
