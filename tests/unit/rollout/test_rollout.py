"""The waves, the failure budget, the journal and what is told of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from ansible_collections.roverwatch.fleet.plugins.action.release import PHASES
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.rollout import claim, journal, judging, planning, summary
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.rollout.planning import Wave

ROOT = Path(__file__).resolve().parents[3]
FLEET = [f"robot-{number}" for number in range(1, 101)]
SIZES = [1, "10%", "50%", "100%"]


def sizes(found: list[Wave]) -> list[tuple[int, int]]:
    return [(wave.number, len(wave.robots)) for wave in found]


def test_waves_grow_up_to_the_whole_fleet():
    found = planning.waves(SIZES, [], FLEET, [], [])
    assert sizes(found) == [(1, 1), (2, 9), (3, 40), (4, 50)]
    assert [robot for wave in found for robot in wave.robots] == FLEET


def test_a_small_fleet_has_no_empty_waves():
    assert sizes(planning.waves(SIZES, [], FLEET[:4], [], [])) == [(1, 1), (2, 1), (3, 2)]
    assert sizes(planning.waves(SIZES, [], FLEET[:1], [], [])) == [(1, 1)]


def test_a_resumed_rollout_goes_on_with_the_wave_that_it_was_in():
    assert sizes(planning.waves(SIZES, [], FLEET[4:], FLEET[:4], [])) == [(2, 6), (3, 40), (4, 50)]
    assert sizes(planning.waves(SIZES, [], FLEET[98:], FLEET[:98], [])) == [(4, 2)]
    assert planning.waves(SIZES, [], [], FLEET, []) == []


def test_robots_that_are_not_there_count_in_the_size_of_the_fleet_and_are_in_no_wave():
    found = planning.waves(SIZES, [], FLEET[:50], [], FLEET[50:])
    assert sizes(found) == [(1, 1), (2, 9), (3, 40)]


def test_named_canaries_are_the_first_wave_together():
    found = planning.waves(SIZES, ["robot-7", "robot-90"], [*FLEET[:4], "robot-7", "robot-90"], [], [])
    assert found[0] == Wave(1, ["robot-7", "robot-90"])
    assert sizes(found) == [(1, 2), (2, 1), (3, 3)]
    many = FLEET[:20]
    assert sizes(planning.waves(SIZES, many, FLEET[:40], [], []))[0] == (1, 20)


def test_the_last_wave_takes_all_whatever_its_size_says():
    assert sizes(planning.waves([1, "20%"], [], FLEET[:10], [], [])) == [(1, 1), (2, 9)]


@pytest.mark.parametrize(
    ("sizes_", "canaries", "pending", "names"),
    [
        ([], [], [], "rollout_waves is empty"),
        (["ten"], [], [], "rollout_waves: 'ten' is neither"),
        (["150%"], [], [], "rollout_waves: '150%'"),
        ([1], ["robot-0"], [], "rollout_canaries: robot-0 is not among"),
        ([1], ["robot-9"], ["robot-9"], "rollout_canaries: robot-9 cannot be reached"),
    ],
)
def test_bad_waves_are_named(sizes_: list[Any], canaries: list[str], pending: list[str], names: str):
    with pytest.raises(planning.RolloutError, match=names):
        planning.waves(sizes_, canaries, FLEET[:4], [], pending)


@pytest.mark.parametrize("release", ["", "a b", "-x", "x" * 65, 1.10, None, "../up"])
def test_a_release_without_a_proper_name_is_refused(release: object):
    with pytest.raises(planning.RolloutError, match="rollout_release is"):
        planning.check_release(release)


def test_the_budget_is_a_number_or_a_share():
    assert planning.share("2%", 400, "x") == 8
    assert int(planning.share("2%", 4, "x")) == 0
    assert planning.share(3, 4, "x") == 3


# --- who is what

ME, HERE = "alice@laptop 1234abcd", "2026.11.2"


def status(state: str, release: str | None = "2026.11.1", **more: Any) -> dict[str, Any]:
    return {"state": state, "release": release, "applying": None, "modified": False, **more}


def applying(holder: str, release: str) -> dict[str, Any]:
    return status("applying", applying={"id": release, "holder": holder, "begun": 0.0, "deadline": 60.0})


@pytest.mark.parametrize(
    "found",
    [
        status("confirmed"),
        status("unreleased", None),
        status("rolled_back"),
        status("failed"),
        status("confirmed", HERE, modified=True),
        applying(ME, HERE),
    ],
)
def test_whoever_has_not_the_release_unchanged_is_to_be_updated(found: dict[str, Any]):
    assert planning.sort_robots({"robot-1": found}, HERE, ME, {}).todo == ["robot-1"]


def test_who_has_it_is_left_alone():
    assert planning.sort_robots({"robot-1": status("confirmed", HERE)}, HERE, ME, {}).updated == ["robot-1"]


def test_who_is_off_is_pending_unless_the_journal_knows_that_it_has_the_release():
    off = {"unreachable": True, "msg": "no route to host"}
    told = {"robot-1": line("robot-1", "confirmed"), "robot-2": line("robot-2", "rolled_back")}
    found = planning.sort_robots({"robot-1": off, "robot-2": off, "robot-3": off}, HERE, ME, told)
    assert (found.updated, found.pending) == (["robot-1"], dict.fromkeys(["robot-2", "robot-3"], "no route to host"))


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (applying("bob@desk 99", HERE), "robot-1 is being updated to 2026.11.2 by bob@desk 99"),
        (applying(ME, "2026.11.0"), "robot-1 is being updated to 2026.11.0 by alice@laptop"),
        ({"failed": True, "msg": "No such file"}, "robot-1: No such file. If it has no roverwatch-release yet"),
    ],
)
def test_what_is_in_the_way_is_said_with_its_remedy(found: dict[str, Any], words: str):
    (problem,) = planning.sort_robots({"robot-1": found, "robot-2": status("confirmed")}, HERE, ME, {}).problems
    assert words in problem
    assert "--limit robot-1" in problem


@pytest.mark.parametrize(
    ("deadline", "bake", "refused"), [(1800, 300, False), (60, 30, False), (59, 30, True), (300, 300, True)]
)
def test_a_deadline_that_nobody_could_meet_is_refused(deadline: float, bake: float, refused: bool):
    with pytest.raises(planning.RolloutError, match="rollout_deadline is") if refused else nullcontext():
        planning.check_times(deadline, bake)


# --- the journal


def line(robot: str, phase: str, run: str = "a", **more: Any) -> dict[str, Any]:
    return {"time": "2026-11-21T10:00:00.000+00:00", "run": run, "robot": robot, "phase": phase, "wave": 2, **more}


def test_lines_of_several_processes_are_whole_and_in_the_order_of_each(tmp_path: Path):
    path = tmp_path / "r" / "journal.jsonl"
    code = (
        "import sys; from pathlib import Path\n"
        "from ansible_collections.roverwatch.fleet.plugins.plugin_utils.rollout import journal\n"
        "for n in range(100): journal.append(Path(sys.argv[1]), {'run': sys.argv[2], 'n': n, 'reason': 'x' * 3000})"
    )
    env = {**os.environ, "PYTHONPATH": "collections"}
    writers = [subprocess.Popen(["python", "-c", code, str(path), name], env=env) for name in "abc"]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    lines = journal.read(path)
    assert len(lines) == 300
    assert [found["n"] for found in journal.of_run(lines, "b")] == list(range(100))


def test_a_line_that_the_end_of_a_controller_cut_off_is_left_out_and_the_next_one_is_not_lost(tmp_path: Path):
    path = tmp_path / "journal.jsonl"
    journal.append(path, {"run": "a", "phase": "planned"})
    with path.open("a") as file:
        file.write('{"time": "2026-11-21T10:00:00.0')
    journal.append(path, {"run": "b", "phase": "planned"})
    assert [found["run"] for found in journal.read(path)] == ["a", "b"]


def test_there_is_no_journal_before_the_first_run(tmp_path: Path):
    assert journal.read(tmp_path / "journal.jsonl") == []


WAVE = Wave(2, ["robot-2", "robot-3"])


def test_a_failure_within_the_budget_does_not_stop_a_later_wave():
    lines = [line("robot-2", "rolled_back", reason="leaks"), line("robot-3", "healthy")]
    assert judging.judge_budget(lines, "a", WAVE, 1, first=False).outcome == "pass"


def test_one_failure_more_than_the_budget_stops():
    lines = [
        line("robot-1", "unreachable", reason="lost"),
        line("robot-2", "rolled_back", reason="leaks"),
        line("robot-3", "healthy"),
    ]
    verdict = judging.judge_budget(lines, "a", WAVE, 1, first=False)
    assert verdict.outcome == "fail"
    assert "2 robots failed, rollout_failure_budget allows 1" in verdict.reason
    assert "robot-1 unreachable: lost" in verdict.reason
    assert "robot-2 rolled back: leaks" in verdict.reason


def test_in_the_first_wave_nobody_may_fail():
    lines = [line("robot-2", "failed", reason="x"), line("robot-3", "healthy")]
    assert judging.judge_budget(lines, "a", WAVE, 50, first=True).outcome == "fail"


def test_a_wave_in_which_nobody_succeeds_stops_whatever_the_budget_is():
    lines = [line("robot-2", "unreachable"), line("robot-3", "rolled_back")]
    assert judging.judge_budget(lines, "a", WAVE, 50, first=False).outcome == "fail"


def test_failures_of_an_earlier_run_and_of_robots_that_made_it_later_do_not_count():
    lines = [line("robot-2", "rolled_back", run="before"), line("robot-3", "unreachable"), line("robot-3", "confirmed")]
    assert journal.failures(lines, "a") == []


def answer(hub: str, outcome: str) -> dict[str, Any]:
    return {"hub": hub, "outcome": outcome, "reason": f"{outcome} of {hub}"}


def able(*robots: str) -> dict[str, Any]:
    return {**answer("hub-1", "pass"), "judgeable": list(robots)}


THERE: dict[str, dict[str, Any]] = {"robot-2": {"state": "confirmed"}, "robot-3": {"state": "confirmed"}}
OFF = {"unreachable": True, "msg": "no route to host"}


def test_a_wave_takes_those_that_are_there_and_that_a_hub_can_judge():
    assert judging.admit(WAVE, THERE, [able("robot-2", "robot-3")])[:2] == (["robot-2", "robot-3"], {})
    assert judging.admit(WAVE, THERE, [able("robot-2"), able("robot-3")])[:2] == (["robot-2", "robot-3"], {})
    robots, pending, verdict = judging.admit(WAVE, {**THERE, "robot-3": OFF}, [able("robot-2")])
    assert (robots, pending, verdict.outcome) == (["robot-2"], {"robot-3": "no route to host"}, "pass")
    robots, pending, verdict = judging.admit(WAVE, THERE, [able("robot-1", "robot-3")])
    assert (robots, list(pending), verdict.outcome) == (["robot-3"], ["robot-2"], "pass")


def test_a_wave_that_no_hub_can_judge_is_not_begun():
    robots, pending, verdict = judging.admit(WAVE, THERE, [able(), able()])
    assert (robots, pending, verdict.outcome) == ([], {}, "no_data")


def test_where_no_hub_is_asked_a_wave_takes_who_is_there():
    assert judging.admit(WAVE, {**THERE, "robot-2": OFF}, [])[0] == ["robot-3"]


def test_a_wave_of_which_nobody_could_be_updated_stops_nothing():
    assert judging.judge_budget([], "a", Wave(2, []), 0, first=False).outcome == "pass"


@pytest.mark.parametrize(
    ("outcomes", "verdict"),
    [
        ([], "pass"),
        (["pass"], "pass"),
        (["fail"], "fail"),
        (["no_data"], "no_data"),
        (["no_data", "pass"], "pass"),
        (["no_data", "fail"], "fail"),
        (["pass", "fail"], "fail"),
        (["no_data", "no_data"], "no_data"),
    ],
)
def test_one_hub_that_sees_a_fault_decides_and_one_that_has_data_is_enough(outcomes: list[str], verdict: str):
    found = judging.judge_hubs([answer(f"hub-{number}", outcome) for number, outcome in enumerate(outcomes)])
    assert found.outcome == verdict
    assert verdict == "pass" or f"{verdict} of hub" in found.reason


# --- one at a time


def test_a_second_rollout_of_the_same_robots_is_refused_while_the_first_one_runs(tmp_path: Path):
    with subprocess.Popen(["sleep", "60"]) as first:
        try:
            claim.claim(tmp_path, first.pid, "r1", ["robot-1", "robot-2"])
            with pytest.raises(
                planning.RolloutError, match=f"r1 is being rolled out to robot-2 by process {first.pid}"
            ):
                claim.claim(tmp_path, os.getpid(), "r2", ["robot-2", "robot-3"])
            claim.claim(tmp_path, os.getpid(), "r2", ["robot-3"])
            claim.disclaim(tmp_path, os.getpid())
        finally:
            first.kill()
    # Killed, it cannot take its claim back itself.
    claim.claim(tmp_path, os.getpid(), "r2", ["robot-2"])


# --- the summary


def told() -> list[dict[str, Any]]:
    def at(second: int, **more: Any) -> dict[str, Any]:
        return {"time": f"2026-11-21T10:00:{second:02d}.000+00:00", "run": "a", **more}

    wave = {"wave": 1, "to": "r2"}
    return [
        at(0, phase="planned", release="r2", operator="alice@laptop", allowed=1, holder="alice@laptop 1234",
           robots=["robot-1", "robot-2", "robot-3", "robot-4"],
           waves=[{"number": 1, "robots": ["robot-1"]}, {"number": 2, "robots": ["robot-2", "robot-3"]}]),
        at(1, robot="robot-4", phase="pending", to="r2", reason="cannot be reached: no route"),
        at(2, phase="wave_started", wave=1, reason=""),
        at(3, robot="robot-1", phase="begun", **{**wave, "from": "r1"}, reason=""),
        at(9, robot="robot-1", phase="healthy", **wave, reason=""),
        at(10, phase="gate", wave=1, gate="hub-1: error_ratio", outcome="pass", reason="0 of 5 %"),
        at(11, robot="robot-1", phase="confirmed", **wave, reason=""),
        at(12, phase="wave_ended", wave=1, outcome="passed", reason=""),
        at(13, phase="wave_started", wave=2, reason=""),
        at(14, robot="robot-2", phase="begun", wave=2, to="r2", reason="", **{"from": "r1"}),
        at(15, robot="robot-2", phase="rolled_back", wave=2, to="r2", reason="not ready"),
    ]  # fmt: skip


def test_the_summary_says_what_became_of_whom():
    found = summary.summary(told())
    assert (found["outcome"], found["release"], found["from"], found["ended"]) == ("running", "r2", ["r1"], None)
    assert found["budget"] == {"allowed": 1, "used": 1}
    assert {robot["robot"]: robot["state"] for robot in found["robots"]} == {
        "robot-1": "updated",
        "robot-2": "rolled_back",
        "robot-3": "waiting",
        "robot-4": "pending",
    }
    one, two = found["waves"]
    assert (one["outcome"], one["ended"] - one["started"], len(one["gates"])) == ("passed", 10.0, 1)
    assert (two["outcome"], two["ended"]) == ("running", None)
    assert found["robots"][0]["phases"][0] == {
        "phase": "begun",
        "time": journal.seconds(told()[3]["time"]),
        "reason": "",
    }
    json.dumps(found)


def test_a_second_run_tells_of_its_own_attempts_and_keeps_what_was_done():
    lines = told()
    again = {
        **lines[0],
        "run": "b",
        "time": "2026-11-21T11:00:00.000+00:00",
        "waves": [{"number": 2, "robots": ["robot-2"]}],
    }
    lines += [
        again,
        line("robot-1", "skipped", "b", reason="has this release"),
        line("robot-2", "begun", "b", **{"from": "r1"}),
        line("robot-2", "confirmed", "b"),
    ]
    found = {robot["robot"]: robot for robot in summary.summary(lines)["robots"]}
    assert found["robot-1"]["state"] == found["robot-2"]["state"] == "updated"
    assert [phase["phase"] for phase in found["robot-2"]["phases"]] == ["begun", "confirmed"]
    assert [phase["phase"] for phase in found["robot-1"]["phases"]] == ["begun", "healthy", "confirmed"]


def test_a_rollout_is_updated_only_if_every_robot_is():
    lines = told()
    verdict = judging.judge_rollout(lines)
    assert verdict.outcome == "pending"
    assert "robot-2 (rolled back), robot-3 (waiting), robot-4 (pending)" in verdict.reason
    for robot in ("robot-2", "robot-3", "robot-4"):
        lines.append(line(robot, "confirmed"))
    assert judging.judge_rollout(lines).outcome == "updated"


def test_the_result_has_the_outcome_its_reason_and_the_counts():
    lines = [*told(), {**told()[0], "phase": "ended", "outcome": "stopped", "reason": "wave 2: leaks"}]
    whole = summary.summary(lines)
    assert summary.result(whole)["robots"] == {"pending": 1, "rolled_back": 1, "updated": 1, "waiting": 1}
    assert summary.sentence(whole) == "rollout r2: stopped, 1 of 4 robots: wave 2: leaks"


def test_the_tally_is_of_this_run_and_of_the_last_phase():
    lines = [line("robot-2", "deployed"), line("robot-2", "healthy"), line("robot-3", "healthy", run="before")]
    assert journal.at_phase(lines, "a", WAVE.robots, "healthy") == ["robot-2"]
    assert journal.at_phase(lines, "a", WAVE.robots, "deployed") == []


def test_a_robot_that_nothing_is_known_of_is_never_taken_for_well():
    lines = [line("robot-2", "healthy"), line("robot-3", "deployed")]
    verdict = judging.judge_budget(lines, "a", WAVE, 50, first=False)
    assert (verdict.outcome, "robot-3" in verdict.reason) == ("fail", True)


# --- what a robot that goes back is told


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (
            {"msg": "Nothing was changed:\n- the disk is full", "problems": ["the disk is full"]},
            "Nothing was changed: - the",
        ),
        (
            {"problems": [{"service": "roverwatch-sensor", "what": "was\nOOM-killed"}]},
            "roverwatch-sensor was OOM-killed",
        ),
        ({"msg": "items", "results": [{"failed": False}, {"failed": True, "msg": "the second"}]}, "the second"),
        ({}, "failed"),
    ],
)
def test_a_robot_that_goes_back_is_told_what_failed(result: dict[str, Any], reason: str):
    (task, *_) = yaml.safe_load((ROOT / "roles" / "rollout" / "tasks" / "robot_roll_back.yml").read_text())
    variables = {"ansible_failed_result": result, "ansible_failed_task": {"name": "Look"}}
    variables |= {name: trust_as_template(text) for name, text in task["vars"].items()}
    templar = Templar(loader=DataLoader(), variables=variables)
    said = templar.template(trust_as_template(task["roverwatch.fleet.release"]["reason"]))
    assert said.startswith(f"Look: {reason}")


def test_a_robot_gets_its_roles_in_their_order():
    """The first one, base, looks before anything is touched."""
    tasks = yaml.safe_load((ROOT / "roles" / "rollout" / "tasks" / "robot_update.yml").read_text())
    (loop,) = [task["loop"] for task in tasks if "loop" in task]
    roles = ["base", "release", "host_firewall", "container_engine", "sensor_service", "node_exporter", "vmagent"]
    templar = Templar(loader=DataLoader(), variables={"rollout_roles": roles})
    assert list(templar.template(trust_as_template(loop))) == [role for role in roles if role != "release"]


# --- what a robot goes through


def test_the_diagram_has_the_phases_of_the_journal():
    text = (ROOT / "docs" / "architecture.md").read_text().partition("stateDiagram-v2\n")[2].partition("```")[0]
    arrows = re.findall(r"^ +(\S+) --> (\S+?)(?::.*)?$", text, re.MULTILINE)
    assert len(arrows) == len(text.strip().splitlines())
    assert {state for arrow in arrows for state in arrow} - {"[*]"} == set(journal.PHASES)


def test_the_journal_has_no_other_phases():
    written = re.compile(r"""phase(?:="|: )(\w+)""")
    files = [ROOT / "plugins/action/rollout.py", ROOT / "plugins/callback/rollout.py"]
    files += (ROOT / "roles/rollout/tasks").glob("*.yml")
    found = {phase for file in files for phase in written.findall(file.read_text())} | set(PHASES.values())
    assert found == {*journal.PHASES, *journal.ROLLOUT_PHASES}


def test_the_diagram_names_files_of_the_role():
    text = (ROOT / "docs" / "architecture.md").read_text().partition("stateDiagram-v2\n")[2].partition("```")[0]
    named = set(re.findall(r"\b(?:robot|wave)_[a-z_]+\b", text))
    assert named
    assert named <= {path.stem for path in (ROOT / "roles/rollout/tasks").glob("*.yml")}
