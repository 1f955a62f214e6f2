"""What `make test` runs for what is asked, how it runs it, and what it says of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import run
import stages
from run import Case, Machine, Runner, Stage
from stages import LANES, ROOT, SCENARIOS, STAGES, TOUCHES


def test_every_tracked_file_has_a_row_of_what_it_touches() -> None:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    patterns = [pattern for pattern, _ in TOUCHES]
    assert [file for file in done.stdout.splitlines() if not any(stages.fnmatch(file, one) for one in patterns)] == []


def test_every_row_is_of_a_file_and_of_stages_that_there_are() -> None:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    files = done.stdout.splitlines()
    first = {next(pattern for pattern, _ in TOUCHES if stages.fnmatch(file, pattern)) for file in files}
    assert [pattern for pattern, _ in TOUCHES if pattern not in first] == []
    assert {stage for _, touched in TOUCHES for stage in touched} == set(SCENARIOS)


def test_no_stage_is_in_two_lanes() -> None:
    assert len(STAGES) == len(set(STAGES))


@pytest.mark.parametrize(
    ("file", "scenarios"),
    [
        ("docs/runbook.md", set()),
        ("roles/vmagent/README.md", set()),
        ("molecule/hub/tests/test_backup.py", {"hub"}),
        ("roles/rollout/tasks/main.yml", {"rolling_update", "power"}),
        ("plugins/module_utils/roverwatch/system/units.py", set(SCENARIOS)),
        ("something/new", set(SCENARIOS)),
    ],
)
def test_a_change_touches_lint_unit_and_the_scenarios_of_its_row(file: str, scenarios: set[str]) -> None:
    assert set(stages.touched([file])) == {"lint", "unit"} | scenarios


def test_only_and_changed_choose_and_nothing_said_is_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "changed", lambda: ("the last commit", ["docs/x.md", "playbooks/dashboards.yml"]))
    assert stages.chosen({}) == (STAGES, [])
    assert stages.chosen({"ONLY": "unit,hub"}) == (("hub", "unit"), [])
    assert stages.chosen({"CHANGED": "1"}) == (
        ("hub", "lint", "unit"),
        [
            "CHANGED: 2 files differ from the last commit",
            "  lint: docs/x.md",
            "  unit: docs/x.md",
            "  hub: playbooks/dashboards.yml",
        ],
    )
    with pytest.raises(stages.UnknownStage, match=f"no stage huh; there are: {' '.join(STAGES)}"):
        stages.chosen({"ONLY": "hub,huh"})


def test_what_has_changed_is_what_the_branch_and_the_work_tree_have(tmp_path: Path) -> None:
    def git(*args: str) -> None:
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        subprocess.run(["git", *identity, *args], cwd=tmp_path, check=True, capture_output=True)

    def commit(file: str) -> None:
        (tmp_path / file).write_text(file)
        git("add", file)
        git("commit", "--message", file)

    with pytest.raises(stages.NothingToCompare):
        stages.changed(tmp_path)
    git("init", "--initial-branch", "main")
    commit("before")
    (tmp_path / "before").write_text("edited")
    assert stages.changed(tmp_path) == ("the last commit", ["before"])
    git("update-ref", "refs/remotes/origin/main", "HEAD")
    commit("committed")
    (tmp_path / "new").touch()
    against, files = stages.changed(tmp_path)
    assert "origin/main" in against
    assert files == ["before", "committed", "new"]


def test_shared_machines_are_made_before_the_first_scenario_and_removed_after_the_last() -> None:
    names = [stage.name for stage in run.commands("shared", ["docker_engine", "hub", "lint"])]
    assert names == ["machines", "hub", "docker_engine", "removing the machines"]
    assert run.commands("shared", ["lint", "rolling_update"]) == []


# --- running


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runner:
    monkeypatch.setattr(run, "LOGS", tmp_path)
    monkeypatch.setattr(run, "containers", list)
    return Runner(Machine(), live=False)


def stage(name: str, script: str) -> Stage:
    return Stage(name, ["sh", "-c", script])


def test_a_stage_that_fails_keeps_none_from_running(runner: Runner, capfd: pytest.CaptureFixture[str]) -> None:
    runner([[stage("bad", "echo out; echo err >&2; exit 3"), stage("next", "true")], [stage("beside", "true")]])
    assert {one.name: one.status for one in runner.ended} == {"bad": 3, "next": 0, "beside": 0}
    out, err = capfd.readouterr()
    assert "out\nerr\n== bad: FAILED in 0 s\n" in out
    assert err == ""


def test_lanes_run_beside_each_other(runner: Runner, tmp_path: Path) -> None:
    """Each waits for the other."""
    meet = "touch {0}; until [ -e {1} ]; do sleep 0.01; done".format
    one, other = tmp_path / "one", tmp_path / "other"
    runner([[stage("one", meet(one, other))], [stage("other", meet(other, one))]])
    assert [one.status for one in runner.ended] == [0, 0]


def test_what_a_stage_computes_is_its_own(runner: Runner) -> None:
    busy = stage("busy", f"{sys.executable} -c 'import time\nwhile time.process_time() < 0.5: pass'")
    runner([[busy], [stage("waits", "sleep 0.5")]])
    cpu = {one.name: one.cpu for one in runner.ended}
    assert cpu["busy"] >= 0.5
    assert cpu["waits"] < 0.5


INTERRUPTED = """
import sys, run
from pathlib import Path
run.LOGS, run.END_SECONDS = Path(sys.argv[1]), 1.0
run.containers = list
script = "trap '' INT; setsid sleep 1000 & touch {}/started-{}; while :; do sleep 1000; done"
run.commands = lambda name, _: [run.Stage(name, ["sh", "-c", script.format(sys.argv[1], name)]) for _ in range(2)]
runner = run.Runner(run.Machine(), live=False)
try:
    run.run(runner, ["lint"])
except KeyboardInterrupt:
    print("ended", len(runner.ended), "children", run.children())
"""


def test_an_interruption_ends_the_stages_and_all_that_they_have_started(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        while len([*tmp_path.glob("started-*")]) < len(LANES):
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate()
    # Of each lane the first; the second was not begun.
    assert out.splitlines()[-1] == f"ended {len(LANES)} children []"


# --- what is said


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("cpuacct/docker/abc/cpuacct.usage", "2500000000\n"),
        ("docker/abc/cpu.stat", "usage_usec 2500000\nuser_usec 1\n"),
        ("system.slice/docker-abc.scope/cpu.stat", "usage_usec 2500000\nuser_usec 1\n"),
    ],
)
def test_what_a_machine_of_the_lab_computes_is_read_from_its_cgroup(tmp_path: Path, file: str, text: str) -> None:
    assert run.cpu_seconds("abc", tmp_path) is None
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(text)
    assert run.cpu_seconds("abc", tmp_path) == 2.5


def test_a_machine_that_was_off_counts_on_and_one_that_is_gone_has_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, used = Machine(), {"a": 10.0}
    monkeypatch.setattr(run, "containers", lambda: [(name, "test") for name in used])
    monkeypatch.setattr(run, "cpu_seconds", lambda container: used[container])
    start = machine.computed("test")
    used["a"] = 12
    assert machine.computed("test") - start == 2
    used["a"] = 3
    assert machine.computed("test") - start == 5
    del used["a"]
    assert machine.computed("test") - start == 5
    assert machine.computed("rollout") == 0


REPORT = """<testsuites><testsuite>
<testcase classname="tests.unit.test_x" name="test_long[a]" time="61.5"/>
<testcase classname="tests.unit.test_x" name="test_left" time="0.0"><skipped message="no nft">x</skipped></testcase>
<testcase classname="tests.unit.test_x" name="test_out" time="0.0"><skipped message="no nft">x</skipped></testcase>
</testsuite></testsuites>"""


def test_the_last_lines_say_what_took_the_time_what_was_skipped_and_the_longest_tests(runner: Runner) -> None:
    unit, hub = stage("unit", ""), stage("hub", "")
    unit.report.write_text(REPORT)
    unit.seconds, unit.cpu, unit.idle, unit.started = 70, 100, 0.25, 2
    hub.seconds, hub.cpu, hub.lab_cpu, hub.started, hub.status = 90, 30, 40, 1, 1
    assert run.summary([unit, hub], ["robot"], (120, 175, 0.1)).splitlines() == [
        "== what took the time",
        "  stage                           wall     CPU  in lab   idle",
        "  hub                             90 s    30 s    40 s     0%",
        "  unit                            70 s   100 s     0 s    25%",
        "  in all                         120 s   175 s    40 s    10%",
        "  wall, CPU: seconds; in lab: CPU of its machines; idle: the share of its time with no core at work",
        "== skipped",
        "    2 of unit: no nft",
        "== the longest of 3 tests",
        "    61.5 s  unit: test_x::test_long[a]",
        "     0.0 s  unit: test_x::test_left",
        "     0.0 s  unit: test_x::test_out",
        "FAILED: hub",
        "not run: robot",
        "stages: 1 passed, 1 failed",
    ]


def test_of_the_longest_tests_there_are_ten() -> None:
    assert len(run.longest([Case("unit", str(number), number, "") for number in range(20)])) == 10
