"""The pages of a fleet's health and of a rollout: what they say, and what a real browser makes of them."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import browser
import pytest
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.health import service as service_now
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.hub import uplink
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.service import records
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.system import cgroup
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.health import page as health_page
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.health import report
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.report import document
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.rollout import page as rollout_page

MIB = 2**20
ASKED = "2026-11-21T14:44:00+00:00"
EVIL = "\"><img src=x onerror='document.title=1'><script>document.title=2</script>{{ 7*7 }}"
# Of Chromium's settings, what a person's system says about dark pages.
DARK = "--blink-settings=preferredColorScheme=0"


# What is in a page.


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] not in ("style", "script"):
            self.words.append(data)


def read(page: str) -> _Reader:
    reader = _Reader()
    reader.feed(page)
    return reader


def text(page: str) -> str:
    """What one can read, a blank between the elements."""
    return re.sub(r"\s+", " ", " ".join(read(page).words))


def elements(page: str, name: str) -> list[dict[str, str | None]]:
    """Attributes of all elements of a class."""
    return [given for _, given in read(page).tags if name in (given.get("class") or "").split()]


def codes(page: str) -> list[str]:
    return re.findall("<code>([^<]*)</code>", page)


# A fleet, of what the modules themselves make.


def service(
    unit: str = "roverwatch-vmagent",
    used: float = 24,
    peak: float | None = 36.5,
    limit: float | None = 48,
    version: str = "1.150.0",
    **changes: Any,
) -> dict[str, Any]:
    """Sizes in MiB."""
    memory = cgroup.CgroupMemory(
        path=f"/sys/fs/cgroup/roverwatch.slice/{unit}.service",
        version=2,
        usage_bytes=int(used * MIB),
        working_set_bytes=int(used * MIB),
        peak_bytes=None if peak is None else int(peak * MIB),
        limit_bytes=None if limit is None else int(limit * MIB),
        oom_kills=0,
        inode=1,
    )
    installed = records.Installed(unit, "binary", version, int((limit or 48) * MIB), "http://127.0.0.1:8429/health")
    found = service_now.Service(
        installed=installed,
        shown={"LoadState": "loaded", "ActiveState": "active", "SubState": "running", "NRestarts": "0"},
        readiness=service_now.Readiness(True, 2.4, "HTTP 200: OK"),
        uptime_seconds=500.0,
        memory=memory,
        running="/opt/roverwatch/vmagent",
        running_as_recorded=True,
    )
    return found.as_dict() | changes


def hub_of_a_robot(name: str = "hub-1", kind: str = uplink.OK, pending: int | None = 0) -> dict[str, Any]:
    known = uplink.Hub(2, name, f"https://{name}:8427/api/v1/write", "robot", "/password", None)
    queue = None if pending is None else uplink.Queue(pending, 0, 0)
    return uplink.as_dict(known, uplink.Answer(kind, "HTTP 204" if kind == uplink.OK else "connection refused"), queue)


def problem(service: str = "roverwatch-vmagent", what: str = "is wrong", remedy: str = "look") -> dict[str, str]:
    return {"service": service, "what": what, "remedy": remedy}


def result(*services: dict[str, Any], **changes: Any) -> dict[str, Any]:
    slice_memory = {"usage_bytes": 0, "working_set_bytes": 90 * MIB, "peak_bytes": 150 * MIB, "limit_bytes": 300 * MIB}
    return {
        "services": list(services) or [service()],
        "slice": {
            "unit": "roverwatch.slice",
            "memory": slice_memory,
            "caps_total_bytes": 288 * MIB,
            "budget_bytes": 300 * MIB,
        },
        "uptime_seconds": 7200.0,
        "problems": [],
    } | changes


def robot(name: str, found: dict[str, Any] | None = None) -> report.Machine:
    return report.Machine(name, True, found or result(hubs=[hub_of_a_robot()]))


def hub(name: str = "hub-1", **ages: float) -> report.Machine:
    seen = {key.replace("_", "-"): age for key, age in ages.items()}
    answer = {"newest_sample_age_seconds": seen, "targets_up": dict.fromkeys(seen, 4)}
    return report.Machine(name, False, result(service("roverwatch-vmauth", certificate_days_left=397.0), hub=answer))


def silent(name: str, is_robot: bool = True) -> report.Machine:
    return report.Machine(name, is_robot, {"unreachable": True, "msg": "No route to host"})


def found(*machines: report.Machine) -> dict[str, Any]:
    """What is in reports/health.json."""
    data: dict[str, Any] = json.loads(json.dumps(report.build(machines, 60).as_dict(ASKED)))
    return data


def many(number: int) -> dict[str, Any]:
    """A fleet in which robot-7 is silent and robot-9 has a problem."""
    names = [f"robot-{each}" for each in range(1, number + 1)]
    services = [service(f"roverwatch-{each}") for each in ("node-exporter", "sensor", "victoriametrics", "vmagent")]
    machines = {name: robot(name, result(*services, hubs=[hub_of_a_robot()])) for name in names}
    machines["robot-7"] = silent("robot-7")
    machines["robot-9"] = robot("robot-9", result(*services, problems=[problem()], hubs=[hub_of_a_robot()]))
    return found(*machines.values(), hub(**{name.replace("-", "_"): 3.0 for name in names}))


# Health.


def test_a_healthy_fleet_at_a_glance() -> None:
    page = health_page.draw(found(robot("robot-1"), robot("robot-2"), hub(robot_1=3, robot_2=41)))
    shown = text(page)
    assert "<title>Roverwatch: all well</title>" in page
    for words in (
        "All is well 3 of 3 services on 2 robots and 1 hub healthy",
        "21 Nov 2026 14:44:00 UTC",
        "Robots 2 of 2 well",
        "Hubs 1 of 1 well",
        "Services 3 of 3 healthy",
        "Closest to its cap 50 % robot-1 vmagent",
        "Stalest sample 41 s at a hub, of robot-2",
        "Certificates 397 d left, hub-1",
        "hub-1 takes what it sends; nothing waits in the queue",
        "2 robots heard of in the last day, 8 targets of theirs up",
        "24M of 48M , peak 36.5M",
        "caps of 288M in all within a budget of 300M; peak 150M",
    ):
        assert words in shown
    assert "What to do" not in shown


def test_every_problem_is_there_with_its_remedy_before_the_machines() -> None:
    first = [
        problem(what="uses 97 % of its cap", remedy="raise its cap"),
        problem("hub", "cannot be reached", "go there"),
    ]
    data = found(
        robot("robot-1", result(problems=first)), robot("robot-2"), silent("robot-3"), hub(robot_1=3, robot_2=400)
    )
    shown = text(health_page.draw(data))
    assert "5 problems on 3 machines" in shown
    at = shown.index("What to do")
    for each in sorted(data["problems"], key=lambda each: str(each["host"])):
        at = shown.index(f"{each['service']} {each['what']}", at)
        at = shown.index(each["remedy"], at)
    assert at < shown.index("Memory of the slice")


def test_warnings_are_there_and_leave_it_well() -> None:
    alert = {"name": "ClockSkew", "severity": "warning", "robot": "robot-1", "summary": EVIL, "action": "set it"}
    asked = hub(robot_1=3)
    assert asked.result is not None
    asked = report.Machine("hub-1", False, {**asked.result, "alerts": {"firing": [alert]}})
    data = found(robot("robot-1"), asked)
    shown = text(health_page.draw(data))
    assert f"robot-1 alert ClockSkew fires on hub-1: {EVIL} set it" in shown
    assert "All is well" in shown


def test_a_silent_robot_is_shown_as_such_with_its_remedy() -> None:
    page = health_page.draw(found(robot("robot-1"), silent("robot-2"), hub(robot_1=3)))
    assert re.search("robot-2 unreachable - - .*host unreachable: No route to host → check its power", text(page))
    assert codes(page).count("ansible -m ping robot-2") == 2
    assert [given["title"] for given in elements(page, "silent") if "title" in given] == ["robot-2: 2 problems"]
    assert "Stalest sample never robot-2" in text(page)


def test_a_hub_that_is_silent_is_no_robot() -> None:
    page = health_page.draw(found(robot("robot-1"), silent("hub-1", is_robot=False)))
    assert "Robots 1 of 1 well" in text(page)
    assert "Hubs 0 of 1 well" in text(page)


def test_robots_without_a_hub() -> None:
    shown = text(health_page.draw(found(robot("robot-1", result()))))
    assert "Hubs - none was asked" in shown
    assert "Stalest sample" not in shown
    assert "Certificates" not in shown
    assert "Waits for hubs" not in shown


def test_a_fleet_of_silent_machines_is_shown() -> None:
    shown = text(health_page.draw(found(silent("robot-1"), silent("robot-2"))))
    assert "Robots 0 of 2 well" in shown
    assert "Closest to its cap" not in shown


def test_a_service_that_does_not_run_has_no_bar() -> None:
    down = service(
        "roverwatch-sensor", state="failed", sub_state="failed", ready=False, memory=None, uptime_seconds=None
    )
    broken = result(service(), down, problems=[problem("roverwatch-sensor", "is failed/failed")])
    page = health_page.draw(found(robot("robot-1", broken)))
    assert "! sensor 1.150.0 failed/failed - 0 0" in text(page)
    assert [given["aria-label"] for given in elements(page, "bar")] == [
        "Memory of all services of robot-1",
        "Memory of vmagent",
    ]


def test_memory_without_a_limit_or_a_peak_is_shown() -> None:
    page = health_page.draw(found(robot("robot-1", result(service(limit=None), service("roverwatch-b", peak=None)))))
    assert "24M no limit" in text(page)
    assert "24M of 48M 50 %" in text(page)


def test_what_waits_and_hubs_as_the_robot_sees_them() -> None:
    away = hub_of_a_robot("hub-2", "timeout", 12 * MIB) | {"blocks_overflowed": 1}
    page = health_page.draw(found(robot("robot-1", result(hubs=[hub_of_a_robot(pending=None), away]))))
    shown = text(page)
    assert "hub-1 takes what it sends; vmagent does not say what waits" in shown
    assert (
        "hub-2 cannot be reached: connection refused; 12M waits in the queue, 1 block dropped from a full queue"
        in shown
    )
    assert "Waits for hubs 12M most: robot-1 12M" in shown


def test_versions_that_differ_are_named_with_their_machines() -> None:
    old = robot("robot-2", result(service(version="1.149.0")))
    page = health_page.draw(found(robot("robot-1"), old, robot("robot-3")))
    assert "vmagent 1.150.0 · 2 1.149.0 · 1 1.149.0: robot-2" in text(page)


@pytest.mark.parametrize(
    ("used", "level"), [(38.3, "ok"), (38.5, "near"), (45.5, "near"), (45.7, "full"), (50, "full")]
)
def test_a_bar_says_how_near_the_cap_is(used: float, level: str) -> None:
    page = health_page.draw(found(robot("robot-1", result(service(used=used)))))
    bar = elements(page, "bar")[1]
    assert bar["class"] == f"bar {level}"
    assert ("▲" in text(page).split("Service Version")[1].split("roverwatch.slice")[0]) == (level != "ok")


@pytest.mark.parametrize(
    ("remedy", "commands"),
    [
        ("check its power and network, then: ansible -m ping robot-7", ["ansible -m ping robot-7"]),
        ("see the message", []),
        (
            "on robot-1: journalctl -u roverwatch-vmagent -n 50 shows why remote write to hub-1 fails",
            ["journalctl -u roverwatch-vmagent -n 50"],
        ),
        (
            "systemctl revert a and systemctl restart a there, then ansible-playbook playbooks/site.yml --limit atlas",
            ["systemctl revert a", "systemctl restart a", "ansible-playbook playbooks/site.yml --limit atlas"],
        ),
        (
            "the hub: ansible-playbook playbooks/health.yml --limit hub-1. vmagent sends what waits",
            ["ansible-playbook playbooks/health.yml --limit hub-1"],
        ),
        (
            "systemctl status roverwatch-a roverwatch-b; then ansible-playbook playbooks/site.yml --limit r,h",
            ["systemctl status roverwatch-a roverwatch-b", "ansible-playbook playbooks/site.yml --limit r,h"],
        ),
        (
            "ansible-playbook playbooks/site.yml --limit hub-1 renews it; one of your own you bring anew first",
            ["ansible-playbook playbooks/site.yml --limit hub-1"],
        ),
    ],
)
def test_a_remedy_has_its_commands_to_copy(remedy: str, commands: list[str]) -> None:
    parts = health_page.parts_of(remedy)
    assert [part for part, is_command in parts if is_command] == commands
    assert "".join(part for part, _ in parts) == remedy


def test_a_machine_cannot_write_into_the_page() -> None:
    evil = result(
        service(EVIL, version=EVIL, sub_state=EVIL, state=EVIL),
        problems=[problem(EVIL, EVIL, EVIL)],
        hubs=[hub_of_a_robot(EVIL, "timeout") | {"reason": EVIL}],
    )
    page = health_page.draw(found(robot(EVIL, evil), silent("robot-2")))
    assert not injected(page)
    assert text(page).count(EVIL) > 6


def injected(page: str) -> list[str]:
    """What of EVIL has become a part of the page."""
    tags = [
        tag for tag, given in read(page).tags if tag in ("img", "iframe") or any(name[:2] == "on" for name in given)
    ]
    return [*tags, *["49"] * ("{{" not in page), *["script"] * (page.count("<script") != 1)]


@pytest.mark.parametrize("kind", ["health", "rollout"])
def test_a_page_needs_no_network(kind: str) -> None:
    page = health_page.draw(many(20)) if kind == "health" else rollout_page.draw(updated())
    for _, given in read(page).tags:
        assert "src" not in given
        assert (given.get("href") or "#").startswith("#")
    style = page.split("<style>")[1].split("</style>")[0]
    assert not re.search(r"url\(|@import|https?:", style)


def test_four_hundred_robots_are_a_file_of_reasonable_size() -> None:
    page = health_page.draw(many(400))
    assert len(page.encode()) < 2_500_000
    assert {f"machine-{number}" for number in range(1, 402)} <= {given.get("id") for _, given in read(page).tags}
    assert "<details open>" not in page.split('id="hubs-title"')[0]
    assert "only those with problems (2)" in text(page)


def test_few_machines_show_all_of_their_services() -> None:
    page = health_page.draw(many(10))
    assert page.count("<details open>") == 11
    assert "only those with problems" not in page


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (200, "3 min 20 s"),
        (33121, "9 h 12 min"),
        (86400, "1 d"),
        (90000, "1 d 1 h"),
    ],
)
def test_durations_are_for_people(seconds: float, words: str) -> None:
    assert document.duration(seconds) == words


# A rollout.

START = 1_795_270_000.0  # 14:06:40 UTC
STEPS = {"begun": 0, "deployed": 20, "healthy": 30, "confirmed": 60}


def of_robot(
    name: str, start: float = START, state: str = "updated", reason: str = "", **times: float
) -> dict[str, Any]:
    """`times` are the seconds from the start to each phase."""
    given = times or (STEPS if state == "updated" else {})
    phases = [{"phase": phase, "time": start + seconds, "reason": ""} for phase, seconds in given.items()]
    if phases and reason:
        phases[-1]["reason"] = reason
    return {
        "robot": name,
        "wave": None,
        "state": state,
        "from": "11.1",
        "to": "11.2",
        "reason": reason,
        "phases": phases,
    }


def gate(name: str, outcome: str = "pass", detail: str = "0.01, limit 0.05") -> dict[str, str]:
    return {"name": name, "outcome": outcome, "detail": detail}


def wave(
    number: int,
    *robots: str,
    start: float | None = None,
    end: float | None = None,
    outcome: str = "waiting",
    **more: Any,
) -> dict[str, Any]:
    return {
        "number": number, "robots": list(robots), "gates": [],
        "started": start, "ended": end, "outcome": outcome, **more,
    }  # fmt: skip


def summary(waves: list[dict[str, Any]], robots: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    return {
        "release": "11.2",
        "from": ["11.1"],
        "operator": "alice@laptop",
        "started": START,
        "ended": START + 200,
        "outcome": "updated",
        "reason": "",
        "budget": {"allowed": 2, "used": 0},
        "waves": waves,
        "robots": robots,
    } | changes


def updated() -> dict[str, Any]:
    waves = [
        wave(1, "robot-1", start=START, end=START + 65, outcome="passed", gates=[gate("errors"), gate("memory")]),
        wave(2, "robot-2", start=START + 100, end=START + 165, outcome="passed", gates=[gate("errors", detail="0.02")]),
    ]
    return summary(waves, [of_robot("robot-1", START), of_robot("robot-2", START + 100)])


def stopped() -> dict[str, Any]:
    back = {"begun": 0, "deployed": 20, "failed": 40, "rolled_back": 50}
    waves = [
        wave(
            1, "robot-1", "robot-2", "robot-3", start=START, end=START + 90, outcome="failed",
            gates=[gate("errors", "fail", "robot-3 0.4"), gate("samples", "no_data", "no series of robot-2")],
        ),
        wave(2, "robot-4"),
    ]  # fmt: skip
    robots = [
        of_robot("robot-1", START, "rolled_back", "sensor is not ready", **back),
        of_robot("robot-2", START, "unreachable", "No route to host", begun=0, unreachable=15),
        of_robot("robot-3", START, "failed", "cannot go back", begun=0, deployed=9, failed=30),
        of_robot("robot-4", START, "waiting"),
        of_robot("robot-5", START, "pending", "offline at the start", pending=1) | {"from": None},
    ]
    spent = {"allowed": 2, "used": 3}
    return summary(waves, robots, outcome="stopped", reason="3 failed, 2 are allowed", ended=START + 95, budget=spent)


def running() -> dict[str, Any]:
    """The night was between wave 1 and wave 2, which goes on."""
    night = START + 60_000
    waves = [
        wave(1, "robot-1", start=START, end=START + 65, outcome="passed"),
        wave(2, "robot-2", start=night, outcome="running"),
    ]
    robots = [of_robot("robot-1"), of_robot("robot-2", night, "applying", begun=10, deployed=40)]
    return summary(waves, robots, outcome="running", ended=None)


def large(number: int = 400) -> dict[str, Any]:
    robots = [of_robot(f"robot-{each}", START + each) for each in range(1, number + 1)]
    robots[70] = of_robot("robot-71", START + 71, "rolled_back", "too much memory", begun=0, deployed=9, rolled_back=30)
    names = [each["robot"] for each in robots]
    waves = [
        wave(1, names[0], start=START, end=START + 70, outcome="passed"),
        wave(2, *names[1:], start=START + 72, end=START + 470, outcome="passed"),
    ]
    return summary(waves, robots, ended=START + 500)


def test_an_updated_fleet_at_a_glance() -> None:
    page = rollout_page.draw(updated())
    shown = text(page)
    assert "<title>Rollout of 11.2: updated</title>" in page
    for words in (
        "Rollout of 11.2 from 11.1, by alice@laptop",
        "21 Nov 2026 14:06:40 UTC to 14:10:00",
        "2 robots: 2 updated",
        "Updated 2 of 2",
        "Failure budget 0 of 2",
        "Waves 2 of 2 passed",
        "Duration 3 min 20 s",
        "1 ✓ passed 1 1 2 pass 14:06:40 1 min 5 s",
        "robot-2 2 ✓ updated 11.1 11.2 - 14:08:20 60.0 s",
    ):
        assert words in re.sub(" +", " ", shown)
    assert "What to look at" not in shown


def test_every_robot_reason_and_gate_of_a_stopped_rollout_is_there() -> None:
    page = rollout_page.draw(stopped())
    shown = text(page)
    assert "Stopped 3 failed, 2 are allowed." in shown
    assert "5 robots: 1 rolled back, 1 failed, 1 unreachable, 1 pending, 1 not reached" in shown
    table = shown.split("Robot Wave")[0]
    for each in stopped()["robots"]:
        assert each["robot"] in table
        assert each["reason"] in table
    for each in stopped()["waves"][0]["gates"]:
        assert each["detail"] in shown.split("Timeline")[0]
        assert each["detail"] in shown.split("After wave")[1]
    assert "Failure budget 3 of 2 robots used" in shown


@pytest.mark.parametrize("outcome", sorted(rollout_page.OUTCOMES))
def test_every_outcome_has_words_and_a_sign(outcome: str) -> None:
    words, sign, _ = rollout_page.OUTCOMES[outcome]
    assert f"{sign} {words} " in text(rollout_page.draw(updated() | {"outcome": outcome}))


def test_a_rollout_that_goes_on() -> None:
    page = rollout_page.draw(running())
    assert "Running" in text(page)
    assert "so far" in text(page)
    assert "22 Nov 06:46:40" in text(page), "of several days, which it was"
    going_on = rollout_page.Rollout(running()).segments(rollout_page.Robot(running()["robots"][1], 2))
    assert [segment.activity for segment in going_on] == ["deploying"], "nothing is known after the last phase"


def test_a_rollout_that_has_not_begun_has_no_timeline() -> None:
    nothing = summary([wave(1, "robot-1")], [of_robot("robot-1", state="waiting")], started=None, ended=None)
    assert "Timeline" not in text(rollout_page.draw(nothing | {"outcome": "paused"}))
    del nothing["started"], nothing["ended"], nothing["waves"][0]["started"], nothing["waves"][0]["ended"]
    assert "1 not reached" in text(rollout_page.draw(nothing | {"outcome": "paused"}))


def test_a_rollout_without_robots_is_shown() -> None:
    assert "no robots" in text(rollout_page.draw(summary([], [])))


def test_a_wave_that_is_begun_again_has_not_ended() -> None:
    again = summary([wave(1, "robot-1", start=START + 100, end=START + 65, outcome="running")], [of_robot("robot-1")])
    assert rollout_page.Rollout(again).waves[0].seconds is None


def test_a_rollout_cannot_write_into_its_page() -> None:
    evil = stopped() | {"release": EVIL, "operator": EVIL, "reason": EVIL, "from": [EVIL]}
    for each in evil["robots"]:
        each |= {"reason": EVIL, "from": EVIL}
    evil["robots"][0]["robot"] = EVIL
    evil["waves"][0]["robots"] = [EVIL, "robot-2"]
    evil["waves"][0]["gates"] = [gate(EVIL, "fail", EVIL)]
    page = rollout_page.draw(evil)
    assert not injected(page)
    assert text(page).count(EVIL) > 6


def test_segments_are_as_long_as_the_phases() -> None:
    found = rollout_page.Rollout(updated())
    first, second = ([(one.activity, one.left, one.width) for one in found.segments(each)] for each in found.robots)
    assert first == [("deploying", 0, 10), ("baking", 10, 5), ("judging", 15, 15)]
    assert second == [("deploying", 50, 10), ("baking", 60, 5), ("judging", 65, 15)]
    assert [found.mark(each) for each in found.robots] == [
        rollout_page.Mark("✓", "ok", 30, "robot-1: confirmed at 14:07:40"),
        rollout_page.Mark("✓", "ok", 80, "robot-2: confirmed at 14:09:20"),
    ]


def test_a_robot_that_got_lost_is_silent_to_the_end_and_a_failed_one_is_not() -> None:
    found = rollout_page.Rollout(stopped())
    assert [one.activity for one in found.segments(found.robots[0])] == ["deploying", "baking", "returning"]
    lost = found.segments(found.robots[1])
    assert [one.activity for one in lost] == ["deploying", "lost"]
    assert lost[-1].left + lost[-1].width == pytest.approx(100, abs=0.01)
    assert [one.activity for one in found.segments(found.robots[2])] == ["deploying", "baking"]


def test_a_night_in_which_nothing_happened_is_cut_out() -> None:
    axis = rollout_page.Rollout(running()).axis
    (cut,) = axis.cuts
    assert cut.right - cut.left == rollout_page.CUT_PERCENT
    assert (cut.start, cut.end) == (START + 65, START + 60_000)
    # 65 s before the night, 40 s after it.
    assert cut.left / (100 - cut.right) == pytest.approx(65 / 40, rel=0.01)
    assert all(not cut.left + 0.01 < place < cut.right - 0.01 for place, _ in axis.ticks)
    assert "16 h 38 min" in text(rollout_page.draw(running()))


@pytest.mark.parametrize("seconds", [1, 90, 5_000, 100_000, 3_000_000])
def test_ticks_are_few_and_in_order(seconds: float) -> None:
    ticks = rollout_page.Axis([START, START + seconds / 2, START + seconds]).ticks
    places = [place for place, _ in ticks]
    assert 1 <= len(ticks) <= rollout_page.TICKS + 1
    assert all(one < other for one, other in pairwise(places))
    assert all(0 <= place <= 100 for place in places)


def test_long_bakes_are_not_cut_out() -> None:
    assert not rollout_page.Axis([START, START + 20, START + 1820, START + 1840, START + 3640]).cuts


def test_of_four_hundred_robots_those_that_failed_have_a_name_in_the_timeline() -> None:
    page = rollout_page.draw(large())
    assert len(page.encode()) < 1_000_000
    assert len(elements(page, "lane")) == 400
    assert len(elements(page, "thin")) == 399
    lanes = page.split('<section aria-labelledby="timeline">')[1].split("</section>")[0]
    assert re.findall(">(robot-[^<]*)</span>", lanes) == ["robot-71"]
    rows = page.split('id="robots"')[1]
    assert all(f">robot-{number}</th>" in rows for number in range(1, 401))


def test_robots_that_were_not_touched_are_named_up_to_a_number() -> None:
    names = [f"robot-{number}" for number in range(1, 101)]
    waiting = summary([wave(1, *names)], [of_robot(name, state="waiting") for name in names])
    assert f"robot-{rollout_page.NAMED} and {100 - rollout_page.NAMED} more" in text(rollout_page.draw(waiting))
    assert not elements(rollout_page.draw(waiting), "lane")


def test_many_gates_that_passed_are_one_mark() -> None:
    gates = [gate(f"gate {number}") for number in range(6)] + [gate("restarts", "fail", "2, limit 0")]
    one = updated()
    one["waves"][0]["gates"] = gates
    marks = re.findall(r'<ol class="gates".*?</ol>', rollout_page.draw(one), re.DOTALL)
    assert [re.findall(r"</span> (.*?)</li>", mark) for mark in marks] == [["6 gates pass", "restarts"], ["errors"]]


def test_the_table_for_a_terminal() -> None:
    lines = rollout_page.lines(stopped())
    assert [line.text for line in lines] == [
        "WAVE  STATE        ROBOTS  UPDATED  ROLLED BACK  FAILED  UNREACHABLE  PENDING              GATES    DURATION",
        "   1  failed            3        0            1       1            1        0  1 fail, 1 no data  1 min 30 s",
        "   2  not reached       1        0            0       0            0        0                  -           -",
        "   -  -                 1        0            0       0            0        1                  -           -",
        "",
        "wave 1: gate errors: fail: robot-3 0.4",
        "wave 1: gate samples: no data: no series of robot-2",
        "robot-1: rolled back: sensor is not ready",
        "robot-2: unreachable: No route to host",
        "robot-3: failed: cannot go back",
        "robot-5: pending: offline at the start",
    ]
    assert [line.healthy for line in lines] == [None, False, None, None, None, *[False] * 5, None]
    assert [line.healthy for line in rollout_page.lines(updated())] == [None, True, True]


# In a browser.


@pytest.fixture
def chromium() -> None:
    if browser.chromium() is None:
        pytest.skip("chromium is not installed: lab/packages.sh chromium")


def shown(page: str, directory: Path, script: str, *flags: str, fragment: str = "") -> Any:
    """What a script, run in the page, returns. The browser must have nothing to say about the page."""
    path, log = directory / "page.html", directory / "log"
    report_it = f"document.documentElement.dataset.answer = JSON.stringify((() => {{ {script} }})())"
    path.write_text(f"{page}<script>addEventListener('load', () => {{ {report_it} }})</script>")
    dom = browser._run(f"{path.as_uri()}{fragment}", "--dump-dom", "--enable-logging", f"--log-file={log}", *flags)
    assert "CONSOLE" not in log.read_text()
    ((_, given),) = [each for each in read(dom).tags if each[0] == "html"]
    return json.loads(given["data-answer"] or "null")


def test_bars_are_as_long_as_memory_is_used(tmp_path: Path, chromium: None) -> None:
    services = [service("roverwatch-a", 12, 24), service("roverwatch-b", 45.6, 48), service("roverwatch-c", 60, 60)]
    page = health_page.draw(found(robot("robot-1", result(*services)), hub(robot_1=3)))
    script = """
      return [...document.querySelectorAll("#robots .bar")].map((bar) => {
        const whole = bar.getBoundingClientRect(), share = (x) => 100 * (x - whole.left) / whole.width;
        const part = (name) => bar.querySelector(name).getBoundingClientRect();
        return [Number(bar.getAttribute("aria-valuenow")), share(part("i").right), share(part("b").right), whole.width];
      });"""
    measured = shown(page, tmp_path, script)
    assert [row[0] for row in measured] == [30, 25, 95, 125]
    for row, filled, peak in zip(measured, [30, 25, 95, 100], [50, 50, 100, 100], strict=True):
        assert row[1:3] == pytest.approx([filled, peak], abs=1)
        assert row[3] > 60


def test_four_hundred_robots_can_be_sorted_and_searched(tmp_path: Path, chromium: None) -> None:
    script = """
      const names = () => [...document.querySelectorAll("#robots > tbody")]
        .filter((body) => body.getClientRects().length).map((body) => body.rows[0].cells[0].dataset.value);
      const buttons = document.querySelectorAll("#robots > thead button");
      const press = (column) => { buttons[column].click(); return names(); };
      const first = [names().length, press(0)[399], press(0)[0], press(1)[0]];
      const input = document.querySelector("input[type=search]");
      input.value = "robot-39"; input.dispatchEvent(new Event("input"));
      const found = names().length;
      input.value = ""; input.dispatchEvent(new Event("input"));
      document.querySelector(".only").click();
      return [...first, found, names().sort()];"""
    answer = shown(health_page.draw(many(400)), tmp_path, script)
    assert answer == [400, "robot-400", "robot-400", "robot-1", 11, ["robot-7", "robot-9"]]


def test_a_link_to_a_machine_opens_its_services(tmp_path: Path, chromium: None) -> None:
    script = """
      return [...document.querySelectorAll("#robots .detail")]
        .map((row, number) => row.getClientRects().length ? number + 1 : 0).filter(Boolean);"""
    page = health_page.draw(many(30))
    assert shown(page, tmp_path, script) == []
    assert shown(page, tmp_path, script, fragment="#machine-9") == [9]


@pytest.mark.parametrize("kind", ["health", "rollout"])
def test_a_dark_screen_has_a_dark_page(kind: str, tmp_path: Path, chromium: None) -> None:
    health = kind == "health"
    page = health_page.draw(found(robot("robot-1"), silent("robot-2"))) if health else rollout_page.draw(stopped())
    script = "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number);"
    assert min(shown(page, tmp_path, script)) > 220
    assert max(shown(page, tmp_path, script, DARK)) < 40


def test_nothing_that_a_machine_says_runs_in_the_browser(tmp_path: Path, chromium: None) -> None:
    evil = result(service(EVIL, version=EVIL), problems=[problem(EVIL, EVIL, EVIL)])
    page = health_page.draw(found(robot(EVIL, evil)))
    assert shown(page, tmp_path, "return document.title") == "Roverwatch: 1 problem"


def test_the_timeline_is_drawn_to_scale(tmp_path: Path, chromium: None) -> None:
    script = """
      return [...document.querySelectorAll(".lane .plot")].map((plot) => {
        const whole = plot.getBoundingClientRect();
        return [...plot.querySelectorAll("i")].map((part) => {
          const box = part.getBoundingClientRect();
          return [part.className, 100 * (box.left - whole.left) / whole.width, 100 * box.width / whole.width];
        });
      });"""
    drawn = shown(rollout_page.draw(updated()), tmp_path, script)
    wanted = rollout_page.Rollout(updated())
    for lane, each in zip(drawn, wanted.robots, strict=True):
        for (name, left, width), segment in zip(lane, wanted.segments(each), strict=True):
            assert name == segment.activity
            assert [left, width] == pytest.approx([segment.left, segment.width], abs=0.3)


def test_four_hundred_robots_of_a_rollout_fit_into_the_window(tmp_path: Path, chromium: None) -> None:
    script = """
      const box = (element) => element.getBoundingClientRect();
      const lanes = [...document.querySelectorAll(".lane")].map((lane) => box(lane).height);
      const wide = document.documentElement.scrollWidth <= innerWidth;
      return [box(document.querySelector(".timeline")).height, Math.min(...lanes), Math.max(...lanes), wide];"""
    height, thin, named, fits = shown(rollout_page.draw(large()), tmp_path, script)
    assert (thin, named) == (5, 22)
    assert height < 2500
    assert fits
