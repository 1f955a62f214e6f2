"""An update as a transaction: what is refused, what comes back, what stays, and what a power cut does to it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import release_robot
from release_robot import IMAGE, NFT_TABLE, Robot

CUT = 42


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    loaded = release_robot.load()
    monkeypatch.setattr(loaded, "STOP_SECONDS", 0.3)
    monkeypatch.setattr(loaded, "HEALTH_SECONDS", 0.6)
    return loaded


@pytest.fixture
def ready() -> Iterator[tuple[str, dict[str, int]]]:
    with release_robot.answering() as found:
        yield found


@pytest.fixture
def robot(tmp_path: Path, module: ModuleType, ready: tuple[str, dict[str, int]]) -> Robot:
    return Robot(tmp_path, module, ready[0])


def refused(robot: Robot, command: Callable[[], object]) -> str:
    """The text of a refusal, which changes nothing."""
    before, state = robot.tree(), robot.status()
    with pytest.raises(robot.module.Refused) as error:
        command()
    assert robot.tree() == before
    assert robot.status() == state
    return str(error.value)


def command(robot: Robot, *arguments: str) -> tuple[int, dict[str, Any], str]:
    done = subprocess.run([robot.fake / "tool", *arguments], capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr


def test_what_an_update_may_change_is_ours_and_not_the_tool_itself(module, tmp_path):
    units = tmp_path / "etc/systemd/system"
    mine = ["roverwatch.slice", "multi-user.target.wants/roverwatch-x.service", "nftables.service.d/roverwatch.conf"]
    for name in [*mine, "roverwatch-release-boot.service", "ssh.service", "nftables.service.d/other.conf"]:
        (units / name).parent.mkdir(parents=True, exist_ok=True)
        (units / name).write_text("")
    assert {str(path.relative_to(units)) for path in module.managed(tmp_path)} == set(mine)


# --- states


def test_a_robot_without_any_update_says_so_and_writes_nothing(robot):
    assert robot.status() == {
        "release": None,
        "previous": None,
        "state": "unreleased",
        "since": 0.0,
        "reason": "",
        "rolled_back_from": None,
        "applying": None,
        "modified": False,
        "changed": False,
    }
    assert not (robot.root / "var").exists()


def test_begin_arms_first_and_says_who_and_until_when(robot):
    robot.release.begin("R1", 600, "alice")
    status = robot.status()
    assert (status["state"], status["release"], status["applying"]["id"]) == ("applying", None, "R1")
    assert status["applying"]["holder"] == "alice"
    assert status["applying"]["deadline"] == pytest.approx(time.time() + 600, abs=30)
    (armed,) = [call for call in robot.calls() if call.startswith("systemd-run")]
    assert "--on-active=600" in armed
    assert armed.endswith("/usr/local/sbin/roverwatch-release expire")
    assert (robot.release.directory.stat().st_mode & 0o777) == 0o700


def test_begin_again_by_the_same_holder_keeps_the_snapshot_and_moves_the_deadline(robot):
    robot.update("R1", "2.0", "bbbb")
    before, old_timer = robot.release.snapshot_path(None).read_bytes(), robot.release.state().applying.timer
    robot.calls()
    assert robot.release.begin("R1", 3000, "alice")
    assert robot.release.snapshot_path(None).read_bytes() == before
    assert robot.status()["applying"]["deadline"] == pytest.approx(time.time() + 3000, abs=30)
    armed, stopped = [call for call in robot.calls() if "timer" in call]
    assert "--on-active=3000" in armed  # there is no moment without a timer
    assert stopped == f"systemctl stop {old_timer}.timer"


@pytest.mark.parametrize(("release", "holder"), [("R1", "bob"), ("R2", "bob"), ("R2", "alice")])
def test_a_second_update_is_refused_and_hears_of_the_first(robot, release, holder):
    robot.release.begin("R1", 600, "alice")
    text = refused(robot, lambda: robot.release.begin(release, 600, holder))
    assert "R1 is being applied by alice since" in text
    assert "with a deadline at" in text


@pytest.mark.parametrize("release", ["", "-x", ".x", "a/b", "a b", "x" * 65, "unreleased"])
def test_what_is_no_release_id_is_refused(robot, release):
    assert "is no release id" in refused(robot, lambda: robot.release.begin(release, 600, "alice"))


@pytest.mark.parametrize(("seconds", "holder"), [(0, "alice"), (-5, "alice"), (60, " ")])
def test_an_update_without_a_deadline_or_a_holder_is_refused(robot, seconds, holder):
    assert "needs a deadline" in refused(robot, lambda: robot.release.begin("R1", seconds, holder))


def test_an_update_that_cannot_be_armed_is_not_begun(robot):
    (robot.fake / "no-timers").touch()
    with pytest.raises(robot.module.Broken, match="no bus"):
        robot.release.begin("R1", 600, "alice")
    assert robot.status()["state"] == "unreleased"
    assert not robot.release.ballast.exists()


def test_confirm_ends_the_update_and_once_more_changes_nothing(robot):
    robot.update("R1", "2.0", "bbbb")
    robot.calls()
    assert robot.release.confirm("R1")
    status = robot.status()
    assert (status["state"], status["release"], status["previous"]) == ("confirmed", "R1", None)
    assert status["applying"] is None
    assert "systemctl stop roverwatch-release-deadline-*.timer" in robot.calls()
    assert not robot.release.ballast.exists()
    assert not robot.release.confirm("R1")


def test_what_is_not_under_way_cannot_be_confirmed(robot):
    assert "no update is under way" in refused(robot, lambda: robot.release.confirm("R1"))
    robot.released("R1", "2.0", "bbbb")
    assert "R1 runs here" in refused(robot, lambda: robot.release.confirm("R2"))
    robot.update("R2", "3.0", "cccc")
    assert "R2 is being applied by alice" in refused(robot, lambda: robot.release.confirm("R3"))
    # Neither the release that it had: it is no longer what runs.
    assert "R2 is being applied by alice" in refused(robot, lambda: robot.release.confirm("R1"))


def test_what_was_rolled_back_cannot_be_confirmed_and_hears_why(robot):
    robot.update("R1", "2.0", "bbbb")
    robot.release.rollback("it leaks", None)
    text = refused(robot, lambda: robot.release.confirm("R1"))
    assert re.search(r"R1 was rolled back at \d{4}-.* UTC \(it leaks\)", text)


def test_nothing_begins_nor_is_confirmed_while_the_robot_goes_back(robot):
    robot.update("R1", "2.0", "bbbb")
    (robot.fake / "lost").touch()
    robot.release.rollback("it leaks", None)
    assert robot.status()["state"] == "rolling_back"
    assert "R1 is being rolled back since" in refused(robot, lambda: robot.release.begin("R1", 600, "alice"))
    assert "R1 is being rolled back since" in refused(robot, lambda: robot.release.confirm("R1"))


def test_a_robot_that_never_had_an_update_has_nothing_to_go_back_to(robot):
    assert "nothing to go back to" in refused(robot, lambda: robot.release.rollback("why not", None))


def test_a_rollback_of_another_release_is_refused(robot):
    robot.released("R1", "2.0", "bbbb")
    assert "R7 is not what would" in refused(robot, lambda: robot.release.rollback("bad", "R7"))
    robot.update("R2", "3.0", "cccc")
    # It would take R2 back, not R1.
    assert "R2 is being applied" in refused(robot, lambda: robot.release.rollback("bad", "R1"))
    assert robot.release.rollback("bad", "R2")
    assert robot.status()["release"] == "R1"
    # Asked again, as after an answer that got lost.
    assert not robot.release.rollback("bad", "R2")


def test_a_confirmed_release_goes_back_to_the_one_before_and_no_further(robot):
    robot.released("R1", "2.0", "bbbb")
    kept = robot.tree()
    robot.released("R2", "3.0", "cccc")
    assert robot.tree() != kept
    assert robot.release.rollback("errors", "R2")
    status = robot.status()
    assert (status["state"], status["release"], status["previous"]) == ("rolled_back", "R1", None)
    assert (status["rolled_back_from"], status["reason"]) == ("R2", "errors")
    assert robot.tree() == kept
    assert not robot.release.rollback("errors", None)
    assert robot.tree() == kept


def test_the_first_release_goes_back_to_none(robot):
    bare = robot.tree()
    robot.released("R1", "2.0", "bbbb")
    robot.release.rollback("errors", None)
    assert (robot.status()["state"], robot.status()["release"]) == ("rolled_back", None)
    assert robot.tree() == bare


def test_the_same_release_once_more_still_goes_back_to_the_one_before(robot):
    robot.released("R1", "2.0", "bbbb")
    kept = robot.tree()
    robot.released("R2", "3.0", "cccc")
    robot.released("R2", "3.0", "dddd")
    assert (robot.status()["release"], robot.status()["previous"]) == ("R2", "R1")
    robot.release.rollback("errors", None)
    assert robot.tree() == kept


def test_files_that_changed_after_the_release_show(robot):
    robot.released("R1", "2.0", "bbbb")
    assert not robot.status()["modified"]
    robot.write("etc/roverwatch/vmagent/scrape.yml", "by hand\n")
    assert robot.status()["modified"]
    robot.release.begin("R2", 600, "alice")
    assert not robot.status()["modified"]


def test_a_state_of_another_version_is_refused_and_named(robot):
    robot.release.begin("R1", 600, "alice")
    state = robot.release.directory / "state.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "schema": 99}))
    with pytest.raises(robot.module.Refused, match=r"state\.json cannot be used"):
        robot.status()


# --- what comes back


def test_every_managed_file_comes_back_with_mode_and_links(robot):
    secret = robot.root / "etc/roverwatch/vmagent/secrets/hub_password"
    robot.write("etc/systemd/system/roverwatch-sensor.service.d/own.conf", "[Service]\n", 0o640)
    (robot.root / "etc/roverwatch/current").symlink_to("vmagent/scrape.yml")
    before = robot.tree()

    robot.update("R1", "2.0", "bbbb")
    secret.unlink()
    secret.parent.rmdir()
    secret.parent.write_text("a file where a directory was")
    (robot.root / "etc/roverwatch/current").unlink()
    (robot.root / "etc/roverwatch/current").mkdir()
    robot.write("etc/roverwatch/current/deep/er", "new")
    (robot.root / "etc/roverwatch/vmagent/scrape.yml").chmod(0o600)
    (robot.root / "etc/systemd/system/roverwatch-sensor.service.d/own.conf").unlink()
    robot.write("usr/local/sbin/roverwatch-no-thp", "#!/bin/sh\nexit 1\n", 0o700)
    robot.write("usr/local/sbin/roverwatch-new", "new", 0o755)
    # What a cut-off write leaves behind goes, too.
    robot.write("etc/roverwatch/vmagent/scrape.yml.release-new", "half of it")
    assert robot.release.rollback("bad", None)
    assert robot.tree() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_every_managed_file_comes_back_with_its_owner(robot):
    secret = robot.root / "etc/roverwatch/vmagent/secrets/hub_password"
    os.chown(secret.parent, 999, 0)
    os.chown(secret, 999, 997)
    before = robot.tree()

    robot.update("R1", "2.0", "bbbb")
    secret.unlink()
    secret.parent.rmdir()
    assert robot.release.rollback("bad", None)
    assert robot.tree() == before
    assert not robot.status()["modified"]


def test_what_is_not_managed_stays(robot):
    robot.update("R1", "2.0", "bbbb")
    robot.write("etc/systemd/system/ssh.service", "[Unit]\nnew\n")
    robot.write("usr/local/sbin/roverwatch-release", "a newer tool\n", 0o755)
    robot.write("etc/systemd/system/roverwatch-release-boot.service", "[Unit]\nnewer\n")
    robot.write("var/lib/roverwatch/vmagent/queue", "samples")
    robot.release.rollback("bad", None)
    for path in ("etc/systemd/system/ssh.service", "etc/systemd/system/roverwatch-release-boot.service"):
        assert "new" in (robot.root / path).read_text()
    assert (robot.root / "usr/local/sbin/roverwatch-release").read_text() == "a newer tool\n"
    assert (robot.root / "var/lib/roverwatch/vmagent/queue").read_text() == "samples"
    assert (robot.root / "opt/roverwatch/vmagent/2.0/vmagent").exists()


def test_only_what_differs_is_written_and_restarted(robot):
    robot.release.begin("R1", 600, "alice")
    untouched = robot.root / "etc/systemd/system/roverwatch-sensor.service"
    inode, pid = untouched.stat().st_ino, robot.pid("roverwatch-sensor")
    unit = "ExecStart=/opt/roverwatch/vmagent/1.0/vmagent -other\nEnvironment=ROVERWATCH_REVISION=bbbb"
    robot.unit("roverwatch-vmagent", unit)
    robot.systemctl("restart", "roverwatch-vmagent")
    robot.calls()
    robot.release.rollback("bad", None)
    assert untouched.stat().st_ino == inode
    assert robot.pid("roverwatch-sensor") == pid
    calls = robot.calls()
    assert "systemctl restart --no-block -- roverwatch-vmagent" in calls
    assert "systemctl daemon-reload" in calls


def test_a_configuration_that_came_back_restarts_nothing_that_runs_what_it_should(robot):
    robot.release.begin("R1", 600, "alice")
    robot.write("etc/roverwatch/vmagent/scrape.yml", "new, and not yet read\n")
    robot.calls()
    robot.release.rollback("bad", None)
    assert not [call for call in robot.calls() if re.search(r" (restart|daemon-reload)", call)]


def test_units_that_were_read_before_their_files_came_back_are_read_again(robot):
    robot.release.begin("R1", 600, "alice")
    (robot.fake / "stale").write_text("yes")
    robot.release.rollback("bad", None)
    assert "systemctl daemon-reload" in robot.calls()


def test_a_unit_that_is_new_is_stopped_before_its_files_go(robot):
    before = robot.tree()
    robot.update("R1", "2.0", "bbbb")
    robot.unit("roverwatch-new", "ExecStart=/bin/sleep 9\nEnvironment=ROVERWATCH_REVISION=1")
    robot.write("etc/systemd/system/roverwatch-new.timer", "[Timer]\n")
    robot.systemctl("restart", "roverwatch-new")
    robot.calls()
    robot.release.rollback("bad", None)
    stop = "systemctl stop --no-block -- roverwatch-new.service roverwatch-new.timer"
    calls = robot.calls()
    assert calls.index(stop) < calls.index("systemctl daemon-reload")
    assert robot.tree() == before


def test_a_new_unit_that_does_not_stop_is_killed(robot):
    robot.update("R1", "2.0", "bbbb")
    robot.unit("roverwatch-new", "ExecStart=/bin/sleep 9\nEnvironment=ROVERWATCH_REVISION=1")
    robot.systemctl("restart", "roverwatch-new")
    (robot.fake / "deaf/roverwatch-new").write_text("yes")
    robot.release.rollback("bad", None)
    assert "systemctl kill --signal=KILL -- roverwatch-new.service" in robot.calls()
    assert robot.status()["state"] == "rolled_back"


def test_a_service_that_is_down_is_started(robot):
    robot.update("R1", "2.0", "bbbb", exe="broken")
    robot.release.rollback("bad", None)
    assert robot.status()["state"] == "rolled_back"
    assert "ActiveState=active" in (robot.fake / "units/roverwatch-vmagent").read_text()


def test_an_image_tag_that_moved_is_put_back_and_its_container_restarted(robot):
    robot.release.begin("R1", 600, "alice")
    (robot.fake / "tags").write_text(f"{IMAGE}:1.0 another\n")
    robot.systemctl("restart", "roverwatch-sensor")
    robot.calls()
    robot.release.rollback("bad", None)
    assert (robot.fake / "tags").read_text() == f"{IMAGE}:1.0 id-1.0\n"
    calls = robot.calls()
    assert f"podman tag id-1.0 {IMAGE}:1.0" in calls
    assert "systemctl restart --no-block -- roverwatch-sensor" in calls


def test_a_container_that_hangs_is_killed_and_one_that_answers_is_not(robot, ready):
    with subprocess.Popen(["sleep", "60"]) as hanging:
        for status, killed in ((200, False), (503, True)):
            robot.release.begin("R1", 600, "alice")
            revision = "Environment=ROVERWATCH_REVISION=bad0"
            robot.unit("roverwatch-sensor", f"ExecStart=/usr/bin/conmon\n{revision}")
            robot.write(f"proc/{hanging.pid}/environ", "ROVERWATCH_REVISION=bad0\0")
            (robot.fake / "containers").write_text(f"cid {hanging.pid} id-1.0\n")
            ready[1]["status"] = status
            robot.release.start_rollback(robot.release.state(), "bad")
            robot.release.finish()
            assert (hanging.poll() is not None) == killed
            ready[1]["status"] = 200
            (robot.fake / "containers").write_text(f"cid {robot.pid('roverwatch-sensor')} id-1.0\n")


def test_the_table_comes_back_in_one_step_and_no_other_is_touched(robot):
    (robot.fake / "table").write_text(NFT_TABLE)
    robot.release.begin("R1", 600, "alice")
    (robot.fake / "table").write_text("table inet roverwatch {\n\tchain input { tcp dport 22 drop; }\n}\n")
    robot.release.rollback("cut off", None)
    script = (robot.fake / "script").read_text()
    assert script == "table inet roverwatch {}\ndelete table inet roverwatch\n" + NFT_TABLE
    assert (robot.fake / "table").read_text() == NFT_TABLE


def test_a_table_that_is_new_goes(robot):
    robot.release.begin("R1", 600, "alice")
    (robot.fake / "table").write_text(NFT_TABLE)
    robot.release.rollback("cut off", None)
    assert not (robot.fake / "table").exists()


def test_a_table_that_is_as_it_was_is_left_alone(robot):
    (robot.fake / "table").write_text(NFT_TABLE)
    robot.release.begin("R1", 600, "alice")
    robot.release.rollback("bad", None)
    assert not (robot.fake / "script").exists()


def test_a_robot_without_nft_can_be_updated(robot):
    (robot.programs / "nft").unlink()
    object.__setattr__(robot.machine, "path", f"{robot.programs}:/bin")
    if robot.machine.has("nft"):
        pytest.skip("nft is in /bin here")
    robot.release.begin("R1", 600, "alice")
    assert robot.release.take().nftables is None


# --- health afterwards


def test_a_robot_that_is_back_but_not_ready_has_failed_and_can_try_again(robot, ready):
    robot.update("R1", "2.0", "bbbb")
    ready[1]["status"] = 503
    robot.release.rollback("bad", None)
    status = robot.status()
    assert (status["state"], status["release"], status["rolled_back_from"]) == ("failed", None, "R1")
    assert "roverwatch-vmagent is not ready" in status["reason"]
    assert "(rolled back: bad)" in status["reason"]
    assert not status["modified"]
    ready[1]["status"] = 200
    robot.calls()
    assert robot.release.rollback("once more", "R1")
    assert robot.status()["state"] == "rolled_back"
    # How often services have ended meanwhile says nothing of what runs now.
    assert "systemctl reset-failed -- roverwatch-sensor roverwatch-vmagent" in robot.calls()


def test_what_another_program_answers_is_not_ready(robot, ready):
    robot.update("R1", "2.0", "bbbb")
    for unit, inode in (("roverwatch-vmagent", 7), ("roverwatch-sensor", 7), ("stranger", 8)):
        pid = robot.pid(unit) if unit != "stranger" else "4711"
        robot.write(f"proc/{pid}/cgroup", f"0::/{unit}\n")
        (robot.root / f"proc/{pid}/fd").mkdir()
        (robot.root / f"proc/{pid}/fd/3").symlink_to(f"socket:[{inode}]")
    services = robot.module.services_in(robot.module.scan(robot.root))

    def unhealthy(inode: int) -> dict[str, str]:
        port = int(robot.ready_url.rpartition(":")[2].partition("/")[0])
        robot.write("proc/net/tcp", f"head\n 0: 0100007F:{port:04X} 0:0 0A 0 0 0 0 0 {inode}\n")
        found: dict[str, str] = robot.release.services.unhealthy(services)
        return found

    assert unhealthy(7) == {}
    taken = f"is not what answers at {robot.ready_url}: another program has its port"
    assert unhealthy(8) == {"roverwatch-vmagent": taken, "roverwatch-sensor": taken}


def test_a_part_that_fails_does_not_keep_the_rest_from_coming_back(robot):
    before = robot.tree()
    robot.update("R1", "2.0", "bbbb")
    (robot.fake / "table").write_text(NFT_TABLE)
    (robot.programs / "nft").write_text("#!/bin/sh\necho 'table inet roverwatch'; [ $1 = list ]\n")
    robot.release.rollback("bad", None)
    assert robot.tree() == before
    assert robot.status()["state"] == "failed"
    assert "nft" in robot.status()["reason"]
    assert "ROVERWATCH_REVISION=aaaa" in (robot.root / "proc" / robot.pid("roverwatch-vmagent") / "environ").read_text()


def test_a_robot_that_could_not_go_back_begins_from_its_last_good_snapshot(robot, ready):
    good = robot.tree()
    robot.update("R1", "2.0", "bbbb")
    ready[1]["status"] = 503
    robot.release.rollback("bad", None)
    robot.write("etc/roverwatch/vmagent/scrape.yml", "who knows\n")
    ready[1]["status"] = 200
    robot.update("R2", "3.0", "cccc")
    robot.release.rollback("bad, too", None)
    assert robot.status()["state"] == "rolled_back"
    assert robot.tree() == good


def test_a_snapshot_that_is_gone_ends_as_failed_and_not_in_a_loop(robot):
    robot.update("R1", "2.0", "bbbb")
    robot.release.snapshot_path(None).unlink()
    robot.release.rollback("bad", None)
    assert robot.status()["state"] == "failed"
    assert "unreleased.tar cannot be read" in robot.status()["reason"]


# --- the deadline, and the start of the robot


def test_a_deadline_that_passed_rolls_back(robot, monkeypatch):
    before = robot.tree()
    robot.update("R1", "2.0", "bbbb", deadline=10)
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    monkeypatch.setattr(robot.module, "boot_seconds", lambda: now + 11)
    assert robot.release.expire()
    assert robot.status()["state"] == "rolling_back"
    assert "systemctl start --no-block roverwatch-release-rollback.service" in robot.calls()
    robot.release.finish()
    status = robot.status()
    assert (status["state"], status["reason"]) == ("rolled_back", "not confirmed within 10 s")
    assert robot.tree() == before
    assert "systemctl stop roverwatch-release-deadline-*.timer" in robot.calls()


@pytest.mark.parametrize("jump", [-1e6, 1e6])
def test_the_deadline_is_the_same_when_the_clock_is_set(robot, monkeypatch, jump):
    robot.update("R1", "2.0", "bbbb", deadline=600)
    now, monotonic = time.time() + jump, time.clock_gettime(time.CLOCK_BOOTTIME)
    monkeypatch.setattr(time, "time", lambda: now)
    assert not robot.release.expire()
    assert robot.status()["state"] == "applying"
    monkeypatch.setattr(robot.module, "boot_seconds", lambda: monotonic + 601)
    assert robot.release.expire()


def test_the_deadline_that_is_written_down_is_not_after_the_timers(robot, monkeypatch):
    seen = []
    arm = robot.release.arm
    monkeypatch.setattr(
        robot.release, "arm", lambda seconds: (seen.append(robot.module.boot_seconds()), arm(seconds))[1]
    )
    robot.release.begin("R1", 600, "alice")
    assert robot.release.state().applying.boot_deadline <= seen[0] + 600


def test_a_deadline_of_an_earlier_boot_has_passed(robot):
    robot.update("R1", "2.0", "bbbb")
    robot.write("proc/sys/kernel/random/boot_id", "boot-2\n")
    assert robot.release.expire()


def test_a_deadline_with_nothing_under_way_disarms_itself(robot):
    robot.released("R1", "2.0", "bbbb")
    robot.calls()
    assert not robot.release.expire()
    assert robot.status()["state"] == "confirmed"
    assert robot.calls() == ["systemctl stop roverwatch-release-deadline-*.timer"]


def test_a_rollback_that_was_cut_off_is_finished_at_the_deadline(robot):
    robot.update("R1", "2.0", "bbbb")
    (robot.fake / "lost").touch()
    robot.release.rollback("bad", None)
    robot.calls()
    assert robot.release.expire()
    assert robot.calls() == ["systemctl start --no-block roverwatch-release-rollback.service"]


def test_a_start_in_the_middle_of_an_update_brings_the_files_back_before_the_services(robot):
    before = robot.tree()
    (robot.fake / "table").write_text(NFT_TABLE)
    robot.update("R1", "2.0", "bbbb")
    (robot.fake / "table").unlink()
    robot.cut_power()
    robot.calls()
    assert robot.release.boot()
    assert robot.tree() == before
    assert (robot.fake / "table").read_text() == NFT_TABLE
    calls = robot.calls()
    assert "systemctl daemon-reload" in calls
    assert "systemctl start --no-block roverwatch-release-rollback.service" in calls
    assert not [call for call in calls if "restart" in call]
    assert robot.status()["state"] == "rolling_back"
    robot.systemctl("start", "roverwatch-vmagent", "roverwatch-sensor")
    robot.calls()
    robot.release.finish()
    assert robot.status()["state"] == "rolled_back"
    assert robot.status()["reason"] == "the robot started in the middle of an update"
    assert not [call for call in robot.calls() if "restart" in call]


@pytest.mark.parametrize("state", ["unreleased", "confirmed", "rolled_back"])
def test_a_start_with_nothing_under_way_changes_nothing(robot, state):
    if state != "unreleased":
        robot.update("R1", "2.0", "bbbb")
        robot.release.confirm("R1") if state == "confirmed" else robot.release.rollback("bad", None)
    robot.calls()
    before = robot.tree()
    assert not robot.release.boot()
    assert (robot.tree(), robot.calls()) == (before, [])


# --- power cuts

STEPS = ("fsync", "replace", "unlink", "rmdir", "mkdir", "symlink", "chown", "fchown", "chmod", "fchmod", "open")


def cut_at(robot: Robot, step: int, work: Callable[[], object]) -> bool:
    """Do the work in a process that dies at a step of it, counted from 1; says whether it came that far."""
    child = os.fork()
    if child == 0:
        left = step

        def counted(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal left
                left -= 1
                if not left:
                    os._exit(CUT)
                return function(*args, **kwargs)

            return call

        for name in STEPS:
            setattr(os, name, counted(getattr(os, name)))
        subprocess.run = counted(subprocess.run)  # type: ignore[assignment]
        try:
            work()
        except BaseException:  # noqa: BLE001 - the child must not go on with the tests
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, CUT)
    return code == CUT


def cuts(robot: Robot, every: int) -> Iterator[int]:
    """Steps to cut at, the robot each time as it is now; the caller stops when the work comes to its end."""
    folder = robot.root.parent
    shutil.copytree(folder, folder.with_name("kept"), symlinks=True)
    for step in range(1, 1000, every):
        shutil.rmtree(folder)
        shutil.copytree(folder.with_name("kept"), folder, symlinks=True)
        yield step


@pytest.fixture
def cuttable(tmp_path: Path, module: ModuleType, ready: tuple[str, dict[str, int]]) -> Robot:
    """A robot on R1 whose rollback's unit is run by hand."""
    robot = Robot(tmp_path / "robot", module, ready[0])
    (robot.fake / "lost").touch()
    robot.released("R1", "2.0", "bbbb")
    return robot


def test_power_that_goes_while_an_update_begins_changes_nothing(cuttable):
    robot, before = cuttable, cuttable.tree()
    for step in cuts(robot, 1):
        cut = cut_at(robot, step, lambda: robot.release.begin("R2", 600, "alice"))
        robot.cut_power()
        robot.start_up()
        assert robot.tree() == before, step
        assert robot.status()["release"] == "R1"
        assert robot.status()["state"] in ("confirmed", "rolled_back")
        if not cut:
            assert step > 10
            break


def test_power_that_goes_while_an_update_is_confirmed_leaves_one_or_the_other(cuttable):
    robot, old, ends = cuttable, cuttable.tree(), set()
    robot.update("R2", "3.0", "cccc")
    new = robot.tree()
    for step in cuts(robot, 1):
        cut = cut_at(robot, step, lambda: robot.release.confirm("R2"))
        robot.cut_power()
        robot.start_up()
        status = robot.status()
        ends.add((status["state"], status["release"]))
        assert robot.tree() == (new if status["release"] == "R2" else old), step
        assert not status["modified"]
        if not cut:
            break
    assert ends == {("rolled_back", "R1"), ("confirmed", "R2")}


@pytest.mark.parametrize("during", ["finish", "boot"])
def test_power_that_goes_while_the_robot_goes_back_only_delays_it(cuttable, during):
    """Cut at every third step, and then once more while the robot starts."""
    robot, old = cuttable, cuttable.tree()
    robot.update("R2", "3.0", "cccc")
    robot.unit("roverwatch-new", "ExecStart=/bin/sleep 9\nEnvironment=ROVERWATCH_REVISION=1")
    robot.systemctl("restart", "roverwatch-new")
    if during == "finish":
        robot.release.rollback("bad", None)
    else:
        robot.cut_power()
    for step in cuts(robot, 3):
        cut = cut_at(robot, step, getattr(robot.release, during))
        robot.cut_power()
        if cut:
            cut_at(robot, step // 2 + 1, robot.release.boot)
            robot.cut_power()
        robot.start_up()
        assert robot.tree() == old, step
        assert (robot.status()["state"], robot.status()["release"]) == ("rolled_back", "R1")
        assert "roverwatch-new" not in {unit.name for unit in (robot.fake / "units").iterdir()}
        if not cut:
            assert step > 20
            break


def test_no_file_takes_a_name_before_it_is_on_the_disk(robot, monkeypatch):
    synced: set[int] = set()
    renamed: list[str] = []
    directories: list[str] = []
    fsync, rename = os.fsync, os.replace

    def note(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        directories.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    def check(source: str, target: str) -> None:
        if not Path(source).is_symlink():
            assert Path(source).stat().st_ino in synced, target
        renamed.append(str(Path(target).parent))
        rename(source, target)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(os, "replace", check)
    robot.update("R1", "2.0", "bbbb")
    robot.release.start_rollback(robot.release.state(), "bad")
    robot.release.finish()
    assert len(renamed) > 8
    assert set(renamed) <= set(directories)


# --- a full disk


def test_a_disk_that_is_nearly_full_refuses_before_anything_changes(robot, monkeypatch):
    class Full:
        f_bavail, f_frsize = 100, 4096

    robot.release.directory.mkdir(parents=True)
    monkeypatch.setattr(os, "statvfs", lambda path: Full)
    text = refused(robot, lambda: robot.release.begin("R1", 600, "alice"))
    assert re.search(r"400 KiB are free, an update needs 23\d\d KiB", text)
    assert not [path for path in robot.release.directory.rglob("*") if path.is_file() and path.name != "lock"]


@pytest.mark.parametrize("kib", [64, 2200])
def test_a_disk_that_fills_up_meanwhile_leaves_nothing_behind(robot, monkeypatch, kib):
    folder = robot.release.directory
    folder.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", folder], check=False).returncode:
        pytest.skip("tmpfs cannot be mounted here")
    try:

        class Roomy:
            f_bavail, f_frsize = 1 << 20, 4096

        monkeypatch.setattr(os, "statvfs", lambda path: Roomy)
        robot.write("etc/roverwatch/large", "x" * 200_000)
        assert "is too full" in refused(robot, lambda: robot.release.begin("R1", 600, "alice"))
        assert not [path for path in folder.rglob("*") if path.is_file() and path.name != "lock"]
    finally:
        subprocess.run(["umount", folder], check=True)


def test_an_update_that_fills_the_disk_can_be_taken_back(robot):
    folder = robot.root / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], check=False).returncode:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        # All of the robot's files are on that disk.
        for top in ("etc", "var"):
            (folder / top).mkdir()
        subprocess.run(["cp", "-a", f"{robot.root}/etc/.", f"{folder}/etc"], check=True)
        subprocess.run(["rm", "-r", robot.root / "etc"], check=True)
        for top in ("etc", "var"):
            (robot.root / top).symlink_to(folder / top)
        before = robot.tree()
        robot.update("R1", "2.0", "bbbb")
        with (folder / "log").open("wb", buffering=0) as stream, pytest.raises(OSError, match="No space"):
            while True:
                stream.write(b"x" * 4096)
        robot.release.rollback("full", None)
        assert robot.status()["state"] == "rolled_back"
        assert robot.tree() == before
    finally:
        subprocess.run(["umount", folder], check=True)


# --- pruning


def test_the_last_two_releases_are_kept_and_what_runs(robot):
    robot.write("opt/roverwatch/hey/0.1/hey", "a tool without a service")
    robot.released("R1", "2.0", "bbbb")
    robot.released("R2", "3.0", "cccc")
    names = {path.name for path in (robot.release.directory / "snapshots").iterdir()}
    assert names == {"R1.tar"}
    assert {path.name for path in (robot.root / "opt/roverwatch/vmagent").iterdir()} == {"2.0", "3.0"}
    assert (robot.fake / "tags").read_text().split()[::2] == [f"{IMAGE}:3.0", f"{IMAGE}:2.0"]
    assert (robot.root / "opt/roverwatch/hey/0.1/hey").exists()

    running = robot.root / "proc/77/exe"
    running.parent.mkdir()
    running.symlink_to("/opt/roverwatch/vmagent/2.0/vmagent")
    (robot.fake / "in-use").write_text(f"{IMAGE}:2.0")
    robot.released("R3", "4.0", "dddd")
    assert {path.name for path in (robot.root / "opt/roverwatch/vmagent").iterdir()} == {"2.0", "3.0", "4.0"}
    assert f"{IMAGE}:2.0" in (robot.fake / "tags").read_text()
    assert robot.status()["state"] == "confirmed"


def test_nothing_is_pruned_before_the_update_is_confirmed(robot):
    robot.released("R1", "2.0", "bbbb")
    robot.update("R2", "3.0", "cccc")
    robot.release.rollback("bad", None)
    assert {path.name for path in (robot.root / "opt/roverwatch/vmagent").iterdir()} == {"1.0", "2.0", "3.0"}


def test_an_image_that_is_pruned_is_no_longer_written_down(robot):
    for version in ("1.0", "2.0", "3.0"):
        robot.write(f"opt/roverwatch/sensor/{version}/installed.json", "{}")
    robot.released("R1", "1.0", "aaaa")
    robot.released("R2", "2.0", "bbbb")
    robot.released("R3", "3.0", "cccc")
    assert {path.name for path in (robot.root / "opt/roverwatch/sensor").iterdir()} == {"2.0", "3.0"}


# --- the disk


@pytest.mark.parametrize("ends", ["confirmed", "rolled_back"])
def test_all_is_on_the_disk_before_the_state_says_that_it_is_done(robot, ends):
    robot.released("R1", "2.0", "bbbb")
    robot.update("R2", "3.0", "cccc")
    robot.calls()
    if ends == "confirmed":
        robot.release.confirm("R2")
    else:
        robot.release.rollback("bad", None)
    assert robot.status()["state"] == ends
    [synced] = [call for call in robot.calls() if call.startswith("sync ")]
    assert synced.startswith("sync --file-system ")
    for path in ("/etc", "/opt", "/usr/local", "/var/lib"):
        assert f"{robot.root}{path}" in synced.split()
    at_sync = json.loads((robot.fake / "state-at-sync").read_text())
    assert at_sync["state"] == {"confirmed": "applying", "rolled_back": "rolling_back"}[ends]


# --- metrics


def test_the_hub_hears_what_runs_and_until_when(robot):
    robot.released("R1", "2.0", "bbbb")
    robot.released("R2", "3.0", "cccc")
    file = robot.root / "var/lib/roverwatch/textfile/roverwatch_release.prom"
    assert file.stat().st_mode & 0o777 == 0o644
    since = robot.status()["since"]
    assert file.read_text() == (
        "# HELP roverwatch_release_info The release of this machine, and the one before it.\n"
        "# TYPE roverwatch_release_info gauge\n"
        'roverwatch_release_info{release="R2",previous="R1"} 1\n'
        "# HELP roverwatch_release_state Where the machine is in an update.\n"
        "# TYPE roverwatch_release_state gauge\n"
        'roverwatch_release_state{state="confirmed"} 1\n'
        "# HELP roverwatch_release_state_timestamp_seconds When that began.\n"
        "# TYPE roverwatch_release_state_timestamp_seconds gauge\n"
        f"roverwatch_release_state_timestamp_seconds {since:.3f}\n"
    )
    robot.release.begin("R3", 600, "alice")
    text, deadline = file.read_text(), robot.status()["applying"]["deadline"]
    assert 'roverwatch_release_info{release="R2",previous="R1"} 1\n' in text
    assert 'roverwatch_release_state{state="applying"} 1\n' in text
    assert f"roverwatch_release_deadline_timestamp_seconds {deadline:.3f}\n" in text
    robot.release.rollback("bad", None)
    assert 'roverwatch_release_state{state="rolled_back"} 1\n' in file.read_text()
    assert "deadline" not in file.read_text()


def test_a_robot_without_a_release_has_a_state_and_no_release(robot):
    robot.release.begin("R1", 600, "alice")
    text = (robot.root / "var/lib/roverwatch/textfile/roverwatch_release.prom").read_text()
    assert "roverwatch_release_info" not in text
    assert 'roverwatch_release_state{state="applying"} 1\n' in text


def test_labels_are_escaped(robot):
    state = robot.module.State(release='a"\\\nb')
    assert 'roverwatch_release_info{release="a\\"\\\\\\nb"} 1\n' in robot.module.metrics(state)


# --- the command


def test_the_command_prints_one_document_and_says_how_it_went(robot, ready):
    code, status, _ = command(robot, "status")
    assert (code, status["state"], status["changed"]) == (0, "unreleased", False)
    code, status, _ = command(robot, "begin", "--id", "R1", "--deadline", "600", "--holder", "alice")
    assert (code, status["state"], status["changed"]) == (0, "applying", True)
    code, status, text = command(robot, "confirm", "--id", "R9")
    assert (code, status) == (1, {})
    assert "R9 cannot be confirmed" in text
    code, status, _ = command(robot, "rollback", "--reason", "bad", "--id", "R1")
    assert (code, status["state"], status["changed"]) == (0, "rolled_back", True)
    code, status, _ = command(robot, "rollback", "--reason", "bad", "--id", "R1")
    assert (code, status["changed"]) == (0, False)
    command(robot, "begin", "--id", "R1", "--deadline", "600", "--holder", "alice")
    ready[1]["status"] = 503
    code, status, text = command(robot, "rollback", "--reason", "bad")
    assert (code, status["state"]) == (3, "failed")
    assert "is not ready" in text


def test_a_rollback_that_does_not_end_is_no_success(robot):
    robot.update("R1", "2.0", "bbbb")
    (robot.fake / "lost").touch()
    code, status, text = command(robot, "rollback", "--reason", "bad")
    assert (code, status["state"]) == (1, "rolling_back")
    assert "not back yet" in text


def test_one_command_waits_for_the_other(robot):
    robot.update("R1", "2.0", "bbbb")
    with robot.release.lock():
        waiting = subprocess.Popen(
            [robot.fake / "tool", "confirm", "--id", "R1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(0.7)
        robot.release.start_rollback(robot.release.state(), "bad")
    _, errors = waiting.communicate(timeout=30)
    assert waiting.returncode == 1
    assert b"R1 is being rolled back since" in errors


def test_what_only_units_run_is_not_offered(robot):
    text = subprocess.run([robot.fake / "tool", "--help"], capture_output=True, text=True, check=True).stdout
    assert not re.search(r"expire|boot|finish", text)
