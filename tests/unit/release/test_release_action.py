"""What the action plugin `release` makes of the answers of the robot's tool."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.roverwatch.fleet.plugins.action import release


def ran(answer: dict[str, Any], plan: dict[str, Any] | None = None, **args: Any) -> dict[str, Any]:
    """The task's result, where the tool on the robot answers so."""
    task = SimpleNamespace(args=args, check_mode=False, async_val=0, diff=False, delegate_to=None)
    connection = SimpleNamespace(_shell=SimpleNamespace(tmpdir="/nowhere"))
    action = release.ActionModule(task, connection, None, None, None, None)
    action._execute_module = lambda *_, **__: answer
    return action.run(task_vars={"inventory_hostname": "robot-1", "__rollout_plan": plan or {}})


def status(state: str) -> str:
    return json.dumps({"state": state, "release": "r1", "reason": "roverwatch-sensor is failed", "changed": True})


@pytest.mark.parametrize(("state", "rc", "failed"), [("rolled_back", 0, False), ("failed", 3, True)])
def test_a_robot_that_is_back_and_not_well_is_a_failure_of_who_asked(state: str, rc: int, failed: bool):
    found = ran({"rc": rc, "stdout": status(state)}, command="rollback", reason="the arm drifts")
    assert found["failed"] is failed
    assert found["msg"].startswith("the arm drifts")
    assert ("roverwatch-sensor is failed" in found["msg"]) is failed


def test_a_refusal_is_said_in_the_tools_own_words():
    found = ran({"rc": 1, "stderr": "r2 cannot be confirmed: …; begin it anew\n"}, command="confirm", id="r2")
    assert (found["failed"], found["msg"]) == (True, "r2 cannot be confirmed: …; begin it anew")


def test_a_robot_that_does_not_answer_is_unreachable():
    assert ran({"unreachable": True, "msg": "no route"}, command="status")["unreachable"] is True


@pytest.mark.parametrize(("journal", "lines"), [(True, 1), ("yes", 1), (False, 0), ("no", 0)])
def test_it_writes_into_the_journal_if_it_is_told_to(journal: object, lines: int, tmp_path: Path):
    plan = {"directory": str(tmp_path), "run": "a", "release": "r1"}
    ran({"rc": 0, "stdout": status("confirmed")}, command="confirm", id="r1", journal=journal, plan=plan)
    path = tmp_path / "journal.jsonl"
    assert len(path.read_text().splitlines() if path.exists() else []) == lines
