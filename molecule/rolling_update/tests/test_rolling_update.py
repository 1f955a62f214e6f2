"""Rolling updates on real robots: four of them, a hub, and releases that are good or bad in a known way.

The tests build on each other, in this order: each says which release the fleet is left on.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import fleet
import interruption
import pytest
import releases
import yaml
from fleet import INVENTORY, ROOT, container, docker, eventually, playbook

ROBOTS = ["robot-1", "robot-2", "robot-3", "robot-4"]
ROLLOUTS = ROOT / "rollouts"
ROLES = ROOT / "molecule" / "rolling_update" / "roles"
RULES = yaml.safe_load((ROOT / "group_vars/all/firewall.yml").read_text())["firewall_rules"]

# Short, since ten releases are rolled out here; `make soak` takes what an operator would sooner take.
BAKE_SECONDS = 60 if fleet.SOAK else 15
# Longer than an update of three robots at once with its bake.
DEADLINE_SECONDS = 300
SHORT_DEADLINE_SECONDS = 65 + BAKE_SECONDS

UNTOUCHED = {"roverwatch-node-exporter", "roverwatch-victoriametrics"}


@pytest.fixture(scope="module")
def release_args() -> dict[str, list[str]]:
    args = releases.prepare()
    # What the fleet came with, from the same store.
    args["pinned"] = ["--extra-vars", json.dumps({"artifacts_dir": str(releases.STORE)})]
    args["good"] = [*args["sensor_good"], *args["vmagent_good"]]
    return args


@pytest.fixture(scope="module", autouse=True)
def no_old_rollouts() -> Iterator[None]:
    """Journals of an earlier run would be resumed."""
    for folder in sorted(ROLLOUTS.glob("test-*")):
        shutil.rmtree(folder)
    yield


def arguments(name: str, release_args: Sequence[str], **settings: Any) -> list[str]:
    chosen = {
        "rollout_release": f"test-{name}",
        "rollout_bake": f"{BAKE_SECONDS}s",
        "rollout_deadline": f"{DEADLINE_SECONDS}s",
        "rollout_gate_patience": "20s",
        "sensor_service_ready_timeout": 10,
        **settings,
    }
    return [*release_args, "--extra-vars", json.dumps(chosen)]


class Rolled:
    """A rollout that has ended: what it printed, and what it left."""

    def __init__(self, name: str, run: fleet.Run) -> None:
        self.run = run
        self.folder = ROLLOUTS / f"test-{name}"
        print(run.output[-6000:])
        self.result = json.loads((self.folder / "result.json").read_text())
        self.last_line = run.output.strip().splitlines()[-1]
        outcome = self.result["outcome"]
        assert f"rollout test-{name}: {outcome}" in self.last_line
        assert self.result["reason"] in self.last_line
        assert (run.rc == 0) == (outcome == "updated")
        assert (self.folder / "report.html").stat().st_size > 1000

    @property
    def outcome(self) -> str:
        return self.result["outcome"]

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "journal.jsonl").read_text().splitlines()]

    def phases(self, robot: str) -> list[str]:
        return [line["phase"] for line in self.lines() if line.get("robot") == robot]

    def reason(self, robot: str, phase: str) -> str:
        return [line["reason"] for line in self.lines() if line.get("robot") == robot and line["phase"] == phase][-1]


def roll(name: str, release_args: Sequence[str], **settings: Any) -> Rolled:
    return Rolled(name, playbook("rolling_update.yml", *arguments(name, release_args, **settings)))


def status(robot: str) -> dict[str, Any]:
    return json.loads(docker("exec", container(robot), "/usr/local/sbin/roverwatch-release", "status"))


def release(robot: str) -> tuple[str, str | None]:
    found = status(robot)
    return found["state"], found["release"]


def running(robot: str) -> dict[str, str]:
    """What each service runs, and since when: another value is another process."""
    shown = docker("exec", container(robot), "systemctl", "show", *fleet.CAPS, "--property=InvocationID,ActiveState")
    return dict(zip(fleet.CAPS, shown.strip().split("\n\n"), strict=True))


def versions(robot: str) -> dict[str, str]:
    paths = [f"/etc/roverwatch/services.d/{unit}.json" for unit in fleet.CAPS]
    records = json.loads("[{}]".format(docker("exec", container(robot), "cat", *paths).replace("}\n{", "},{")))
    return {unit: record["version"] for unit, record in zip(fleet.CAPS, records, strict=True)}


def rules(robot: str) -> str:
    """Who may reach it, as the kernel has it."""
    return docker("exec", container(robot), "nft", "--stateless", "list", "table", "inet", "roverwatch")


def rules_tried(robot: str) -> int:
    """How often other rules were loaded."""
    return docker("exec", container(robot), "journalctl", "-t", "roverwatch-firewall", "-o", "cat").count(
        "tries other rules"
    )


def healthy(robot: str) -> bool:
    return fleet.answers(container(robot), *fleet.READY)


def start_rollout(name: str, release_args: Sequence[str], **settings: Any) -> subprocess.Popen[str]:
    command = ["ansible-playbook", "-i", str(INVENTORY), "playbooks/rolling_update.yml"]
    return subprocess.Popen(
        [*command, *arguments(name, release_args, **settings)],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(name: str, process: subprocess.Popen[str]) -> Rolled:
    output, _ = process.communicate(timeout=900)
    return Rolled(name, fleet.Run(process.returncode, output, {}))


def journal_has(name: str, robot: str | None, phase: str, wave: int | None = None) -> bool:
    path = ROLLOUTS / f"test-{name}" / "journal.jsonl"
    if not path.exists():
        return False
    lines = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
    return any(
        line["phase"] == phase and line.get("robot") == robot and (wave is None or line.get("wave") == wave)
        for line in lines
    )


def wait_for(name: str, robot: str | None, phase: str, wave: int | None = None, seconds: float = 240) -> None:
    assert eventually(lambda: journal_has(name, robot, phase, wave), seconds), f"no {phase} of {robot}"


# --- good updates


def test_a_good_update_goes_through_in_waves_and_interrupts_only_what_changes(release_args):
    """Leaves the fleet on `good`."""
    with ExitStack() as stack:
        watches = {robot: stack.enter_context(interruption.watch(robot)) for robot in ROBOTS}
        rolled = roll("good", release_args["good"])
    assert rolled.outcome == "updated"
    waves = [line["wave"] for line in rolled.lines() if line["phase"] == "wave_started"]
    assert waves == [1, 2, 3]
    for robot in ROBOTS:
        print(robot, watches[robot].table(), sep="\n")
        assert release(robot) == ("confirmed", "test-good")
        assert rolled.phases(robot) == ["begun", "deployed", "healthy", "confirmed"]
        assert versions(robot)["roverwatch-sensor"].endswith("-good")
        assert versions(robot)["roverwatch-vmagent"].endswith("-good")
        for unit, seen in watches[robot].services.items():
            assert seen.longest_gap_seconds - watches[robot].stalled_seconds <= 3, (robot, unit)
            assert seen.restarted == (unit not in UNTOUCHED), (robot, unit)
            if unit in UNTOUCHED:
                assert seen.failed_scrapes == 0, (robot, unit)
                # vmagent is what scrapes. One that was due in the moment of its own restart is not taken.
                assert seen.missed_scrapes <= 1, (robot, unit)
    assert eventually(
        lambda: len(fleet.series(container("hub-1"), 'roverwatch_release_info{release="test-good"}')) == 4, 30
    )


def test_the_same_command_again_changes_nothing(release_args):
    before = {robot: running(robot) for robot in ROBOTS}
    rolled = roll("good", release_args["good"])
    assert rolled.outcome == "updated"
    assert rolled.phases("robot-1")[-1] == "skipped"
    assert not rolled.run.changed()
    assert {robot: running(robot) for robot in ROBOTS} == before


def test_check_mode_says_what_an_update_would_do_and_does_nothing(release_args):
    before = {robot: (running(robot), status(robot)) for robot in ROBOTS}
    limit = "--limit=robot-2,robot-3"
    done = playbook("rolling_update.yml", "--check", "--diff", limit, *arguments("checked", release_args["pinned"]))
    assert done.rc == 0, done.output[-3000:]
    assert "wave 2: 1 robot: robot-3" in done.output
    assert "ROVERWATCH_REVISION" in done.output
    assert not (ROLLOUTS / "test-checked").exists()
    assert {robot: (running(robot), status(robot)) for robot in ROBOTS} == before


def test_a_wave_goes_back_and_who_runs_what_is_told(release_args):
    """Leaves robot-4 on what it had before `good`."""
    before = running("robot-1")
    wave = ["-e", "rollback_release=test-good", "-e", "rollback_wave=3", "--limit", "robot-1,robot-4"]
    done = playbook("rollback.yml", *wave, "-e", "rollback_reason='a try'")
    assert done.rc == 0, done.output
    assert release("robot-4")[0] == "rolled_back"
    assert not versions("robot-4")["roverwatch-sensor"].endswith("-good")
    assert healthy("robot-4")
    assert (release("robot-1"), running("robot-1")) == (("confirmed", "test-good"), before)
    again = playbook("rollback.yml", *wave)
    assert (again.rc, again.changed()) == (0, {})

    told = playbook("releases.yml").output
    table = told[told.index("ROBOT ") : told.index("PLAY RECAP")]
    rows = {line.split()[0]: line for line in table.splitlines() if line.startswith("robot-")}
    assert "test-good" in rows["robot-1"]
    assert "confirmed" in rows["robot-1"]
    assert "rolled back" in rows["robot-4"]
    assert "a try" in rows["robot-4"]


def test_what_cannot_work_is_refused_before_anything_changes(release_args):
    before = {robot: status(robot) for robot in ROBOTS}
    for settings, words in (
        ({"rollout_release": "no spaces"}, "rollout_release is 'no spaces'"),
        ({"rollout_waves": ["ten"]}, "rollout_waves: 'ten'"),
        ({"rollout_bake": "long"}, "rollout_bake: 'long' is no duration"),
        ({"rollout_canaries": ["robot-9"]}, "rollout_canaries: robot-9"),
        ({"rollout_deadline": "10s"}, "rollout_deadline is 10 s"),
    ):
        done = playbook("rolling_update.yml", *arguments("refused", release_args["pinned"], **settings))
        assert done.rc != 0
        assert words in done.output
        assert "nothing was changed" in done.output
    assert {robot: status(robot) for robot in ROBOTS} == before


# --- bad releases


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("sensor_crashes", "roverwatch-sensor"),
        ("sensor_never_ready", "not ready"),
        ("sensor_leaks", "OOM-killed"),
        ("sensor_errors", "source failures"),
    ],
)
def test_a_bad_release_stops_after_the_canary_which_is_back_with_its_data(release_args, name: str, reason: str):
    """Leaves the fleet where it was: robots 1 to 3 on `good`. The release brings other firewall rules, too."""
    others = {robot: running(robot) for robot in ROBOTS[1:]}
    before = (versions("robot-1"), release("robot-1"), running("robot-1"))
    let_in, tried = rules("robot-1"), rules_tried("robot-1")
    start = time.time() - 60
    new = {**RULES[0], "name": "new", "groups": ["robots"], "ports": [8427]}
    rolled = roll(name, release_args[name], firewall_rules=[*RULES, new])
    assert rolled.outcome == "stopped"
    assert reason in rolled.result["reason"]
    assert rolled.phases("robot-1")[-1] == "rolled_back"
    assert reason in rolled.reason("robot-1", "rolled_back")
    # The canary is what it was, and its history goes on from before the update.
    assert versions("robot-1") == before[0]
    assert release("robot-1") == ("rolled_back", before[1][1])
    assert {unit: before[2][unit] for unit in UNTOUCHED} == {unit: running("robot-1")[unit] for unit in UNTOUCHED}
    assert healthy("robot-1")
    assert rules_tried("robot-1") == tried + 1
    assert rules("robot-1") == let_in
    samples = fleet.export("robot-1", 'up{job="node-exporter"}', start, time.time())
    assert fleet.count(samples) >= (time.time() - start) / 5 - 2
    # The others never heard of it.
    assert {robot: running(robot) for robot in ROBOTS[1:]} == others
    assert all(rolled.phases(robot) == [] for robot in ROBOTS[1:])


# --- what happens to controllers and robots on the way


def test_a_killed_controller_and_a_power_cut_leave_robots_that_go_back_and_a_rollout_that_resumes(release_args):
    """Leaves the fleet on `pinned`."""
    settings = {"rollout_waves": [1, "100%"], "rollout_deadline": f"{SHORT_DEADLINE_SECONDS}s"}
    before = {robot: versions(robot) for robot in ROBOTS}
    with start_rollout("resumed", release_args["pinned"], **settings) as process:
        try:
            for robot in ROBOTS[1:]:
                wait_for("resumed", robot, "deployed", wave=2)
            # Somebody else, even with the same release, but from another controller, has to wait.
            for name, elsewhere in (("other", {}), ("resumed", {"rollout_dir": str(ROOT / ".lab" / "elsewhere")})):
                refused = playbook("rolling_update.yml", *arguments(name, release_args["good"], **elsewhere))
                assert refused.rc != 0
                assert "robot-2 is being updated to test-resumed by" in refused.output
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    assert status("robot-3")["state"] == "applying"

    # One loses its power, too: it comes up on the old version.
    docker("kill", container("robot-2"))
    docker("start", container("robot-2"))
    assert eventually(lambda: release("robot-2")[0] == "rolled_back", 60, every=2)
    assert versions("robot-2") == before["robot-2"]
    assert eventually(lambda: healthy("robot-2"), 30)
    assert "started in the middle of an update" in status("robot-2")["reason"]

    # The others wait for their deadline.
    for robot in ("robot-3", "robot-4"):
        assert eventually(lambda robot=robot: release(robot)[0] == "rolled_back", SHORT_DEADLINE_SECONDS + 30, every=2)
        assert "not confirmed within" in status(robot)["reason"]
        assert versions(robot) == before[robot]
        assert healthy(robot)
    assert release("robot-1") == ("confirmed", "test-resumed")
    result = json.loads((ROLLOUTS / "test-resumed" / "result.json").read_text())
    assert (result["outcome"], result["reason"]) == ("stopped", "the run has not come to its end")

    canary = running("robot-1")
    rolled = roll("resumed", release_args["pinned"], **settings)
    assert rolled.outcome == "updated"
    assert running("robot-1") == canary
    assert all(release(robot) == ("confirmed", "test-resumed") for robot in ROBOTS)


def test_robots_that_are_off_are_pending_and_those_that_get_lost_go_back_until_a_second_run(release_args):
    """Leaves the fleet on `good` under another name."""
    settings = {
        "rollout_waves": [1, "100%"],
        "rollout_failure_budget": 1,
        "rollout_deadline": f"{SHORT_DEADLINE_SECONDS}s",
    }
    with fleet.cut_off("robot-4"):
        process = start_rollout("offline", release_args["good"], **settings)
        wait_for("offline", "robot-3", "begun")
        with fleet.cut_off("robot-3"):
            rolled = finish("offline", process)
            assert rolled.outcome == "pending"
            assert eventually(lambda: release("robot-3")[0] == "rolled_back", SHORT_DEADLINE_SECONDS + 30, every=2)
    assert rolled.phases("robot-4") == ["pending"]
    assert rolled.phases("robot-3")[-1] == "unreachable"
    assert [release(robot) for robot in ("robot-1", "robot-2")] == [("confirmed", "test-offline")] * 2
    assert healthy("robot-3")

    # Out of the dead zone, their queues go to the hub first; until then nobody could judge them.
    assert eventually(lambda: all(fleet.newest_sample_age("hub-1", robot) < 15 for robot in ROBOTS), 180, every=2)
    rolled = roll("offline", release_args["good"], **settings)
    assert rolled.outcome == "updated"
    assert rolled.phases("robot-1").count("begun") == 1
    assert all(release(robot) == ("confirmed", "test-offline") for robot in ROBOTS)


def test_an_update_that_cuts_off_ssh_comes_back_by_itself(release_args, monkeypatch):
    """Leaves the fleet where it was."""
    monkeypatch.setenv("ANSIBLE_ROLES_PATH", f"{ROOT / 'roles'}:{ROLES}")
    deployed = ["base", "release", "container_engine", "sensor_service"]
    before = (versions("robot-1"), running("robot-2"), rules("robot-1"))
    settings = {"rollout_roles": [*deployed, "cut_off_ssh", "vmagent"], "base_roles": deployed}
    deadline = 45 + BAKE_SECONDS
    rolled = roll("cut_off", release_args["pinned"], rollout_deadline=f"{deadline}s", **settings)
    assert rolled.outcome == "stopped"
    assert rolled.phases("robot-1")[-1] == "unreachable"
    assert eventually(lambda: release("robot-1")[0] == "rolled_back", deadline + 30, every=2)
    assert (versions("robot-1"), running("robot-2"), rules("robot-1")) == before
    assert playbook("releases.yml", "--limit", "robot-1").output.count("rolled back") == 1


def test_without_the_hub_the_rollout_pauses_and_the_same_command_resumes(release_args):
    """Leaves the fleet on `pinned` under another name."""
    hub = container("hub-1")
    before = {robot: running(robot) for robot in ROBOTS}
    docker("stop", "--time=5", hub)
    try:
        rolled = roll("paused", release_args["pinned"])
        assert rolled.outcome == "paused"
        assert "was not begun" in rolled.result["reason"]
        assert {robot: running(robot) for robot in ROBOTS} == before
    finally:
        docker("start", hub)
    assert eventually(lambda: fleet.answers(hub, "8428/health"), 60)

    process = start_rollout("paused", release_args["pinned"], rollout_waves=[1, "100%"])
    wait_for("paused", "robot-1", "deployed")
    docker("stop", "--time=5", hub)
    try:
        rolled = finish("paused", process)
        assert rolled.outcome == "paused"
        # It waits for its confirmation, healthy, until its deadline.
        assert status("robot-1")["state"] == "applying"
        assert rolled.phases("robot-1")[-1] == "healthy"
    finally:
        docker("start", hub)
    assert eventually(lambda: fleet.answers(hub, "8428/health"), 60)

    rolled = roll("paused", release_args["pinned"], rollout_waves=[1, "100%"])
    assert rolled.outcome == "updated"
    assert all(release(robot) == ("confirmed", "test-paused") for robot in ROBOTS)
