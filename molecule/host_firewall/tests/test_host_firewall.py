"""Who reaches what, as other machines see it: an operator at hub-1, a stranger at hub-2, over IPv4 and IPv6.

Both robots are tried at the same time. The tests build on each other: each leaves the scenario's rules in force.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import fleet
import pytest
import yaml
from fleet import container, docker, eventually

T = TypeVar("T")

ROBOTS = ("robot-1", "robot-2")
OPERATOR, STRANGER = "hub-1", "hub-2"
RULES: list[dict[str, Any]] = yaml.safe_load((fleet.ROOT / "molecule/host_firewall/vars/rules.yml").read_text())[
    "firewall_rules"
]
# The sensor service in podman, on the machine's network; a binary; the owner's containers in podman and docker.
OPEN = {"sensor": 8000, "node_exporter": 9100, "podman": 8080, "docker": 8081}
PUBLISHED = {"podman": 8080, "docker": 8081}
CLOSED = {"history": 8428, "vmagent": 8429}
# In no rule: as it was, unless the whole machine is closed.
UNLISTED = {"unlisted": 9999}
REACHED, TIMED_OUT = 0, 124
PATIENCE_SECONDS = 2
TABLE = ("inet", "roverwatch")


def each(ask: Callable[[str], T]) -> dict[str, T]:
    """The same of both robots, at the same time."""
    with ThreadPoolExecutor() as pool:
        return dict(zip(ROBOTS, pool.map(ask, ROBOTS), strict=True))


def on(robot: str, *command: str) -> str:
    return docker("exec", container(robot), *command)


def addresses(machine: str) -> dict[str, str]:
    networks = json.loads(docker("inspect", "--format", "{{json .NetworkSettings.Networks}}", container(machine)))
    (own,) = networks.values()
    return {"IPv4": own["IPAddress"], "IPv6": own["GlobalIPv6Address"]}


def knock(source: str, robot: str, ports: dict[str, int]) -> dict[str, int]:
    """What comes of connecting to a robot's ports, by name and IP version: an exit code of `timeout`."""
    doors = {
        f"{name} {version}": f"{address}/{port}"
        for version, address in addresses(robot).items()
        for name, port in ports.items()
    }
    lines = [
        f"(timeout {PATIENCE_SECONDS} bash -c '</dev/tcp/{door}' 2>/dev/null; echo {name} $?) &"
        for name, door in doors.items()
    ]
    out = on(source, "bash", "-c", "\n".join([*lines, "wait"]))
    return {name: int(code) for name, code in (line.rsplit(" ", 1) for line in out.splitlines())}


def reached(ports: dict[str, int]) -> dict[str, dict[str, set[int]]]:
    """What comes of it for the operator and for the stranger; one code where all ports and both versions agree."""
    return each(lambda robot: {who: set(knock(who, robot, ports).values()) for who in (OPERATOR, STRANGER)})


def all_see(operator: int, stranger: int) -> dict[str, dict[str, set[int]]]:
    return {robot: {OPERATOR: {operator}, STRANGER: {stranger}} for robot in ROBOTS}


LET_IN, SHUT_OUT, ANYBODY = all_see(REACHED, TIMED_OUT), all_see(TIMED_OUT, TIMED_OUT), all_see(REACHED, REACHED)
BOTH = dict.fromkeys(ROBOTS, 1)


def firewall(
    *args: str, rules: list[dict[str, Any]] | None = None, limit: str = "robots", **variables: Any
) -> fleet.Run:
    settings = {"firewall_rules": rules or RULES, "operator_networks": list(addresses(OPERATOR).values()), **variables}
    return fleet.playbook("firewall.yml", "--limit", limit, "-e", json.dumps(settings), *args)


def said(run: fleet.Run) -> str:
    """What was printed, without its line breaks, which depend on the width."""
    return " ".join(run.output.split())


def differing(name: str, **different: Any) -> list[dict[str, Any]]:
    """The list with one rule changed."""
    return [{**rule, **different} if rule["name"] == name else rule for rule in RULES]


def table(robot: str) -> str:
    return on(robot, "nft", "--stateless", "list", "table", *TABLE)


def delete_table(robot: str) -> None:
    on(robot, "nft", "delete", "table", *TABLE)


def others(robot: str) -> list[str]:
    """The lines of every table but ours, without their order: an engine that starts puts its own elsewhere."""
    tables = re.split(r"(?m)^(?=table )", on(robot, "nft", "--stateless", "list", "ruleset"))
    foreign = [part for part in tables if not part.startswith(f"table {' '.join(TABLE)} ")]
    return sorted(line for part in foreign for line in part.splitlines() if line)


def reboot(robot: str) -> None:
    docker("restart", "--time=10", container(robot))


def all_up() -> bool:
    """Whether all that should be reached is: the services and the containers start at different times."""
    return all(set(knock(OPERATOR, robot, OPEN).values()) == {REACHED} for robot in ROBOTS)


@pytest.fixture
def listener() -> Iterator[None]:
    """Something that listens on a port which no rule names."""
    port = str(UNLISTED["unlisted"])
    serve = ("python3", "-m", "http.server", "--bind", "::", port)
    each(lambda robot: on(robot, "systemd-run", "--quiet", "--collect", "--unit=test-listener", *serve))
    yield
    each(lambda robot: on(robot, "systemctl", "stop", "test-listener"))


def test_who_is_named_gets_in_and_others_do_not():
    assert reached(OPEN) == LET_IN


def test_what_has_no_sources_is_closed_to_all_and_what_is_in_no_rule_to_nobody(listener):
    assert reached(CLOSED) == SHUT_OUT
    assert reached(UNLISTED) == ANYBODY


def test_a_second_run_changes_nothing():
    run = firewall()
    assert (run.rc, run.changed()) == (0, {}), run.output


def test_it_is_the_same_after_docker_was_restarted():
    before, rules = each(others), each(table)
    each(lambda robot: on(robot, "systemctl", "restart", "docker"))
    assert eventually(all_up, 60)
    assert reached(OPEN) == LET_IN
    assert each(table) == rules
    assert each(others) == before


def test_it_is_there_after_everything_was_flushed():
    """What nftables.service does with Debian's configuration; docker and podman lose theirs."""
    rules = each(table)
    for command in ("start", "reload", "restart", "stop"):
        each(lambda robot: on(robot, "systemctl", command, "nftables"))  # noqa: B023 (done before the next)
        assert each(table) == rules, command


def test_it_is_the_same_after_a_reboot():
    rules = each(table)
    each(reboot)
    assert eventually(all_up, 90)
    assert reached(OPEN) == LET_IN
    assert each(table) == rules
    assert firewall().changed() == {}


def test_the_rules_of_others_are_not_touched():
    before = each(others)
    assert all(any("DOCKER" in line for line in lines) for lines in before.values())
    each(delete_table)
    assert reached(PUBLISHED) == ANYBODY, "nothing but our table keeps strangers from containers"
    run = firewall()
    assert run.changed() == BOTH, run.output
    assert reached(PUBLISHED) == LET_IN
    assert each(others) == before


# Asks over one connection, twice a second, and says each time that it was answered.
ASK = """
import http.client, time
client = http.client.HTTPConnection({address!r}, {port}, timeout=3)
for number in range(120):
    client.request("GET", "/healthz")
    client.getresponse().read()
    print(number, flush=True)
    time.sleep(0.5)
"""


def test_a_source_that_leaves_the_list_is_shut_out_and_loses_its_connection():
    ask = ASK.format(address=addresses("robot-1")["IPv4"], port=PUBLISHED["docker"])
    command = ["docker", "exec", container(OPERATOR), "python3", "-c", ask]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as client:
        assert client.stdout
        assert client.stdout.readline() == "0\n"
        run = firewall(rules=differing("published", sources=[]))
        assert (run.rc, run.changed()) == (0, BOTH), run.output
        _, errors = client.communicate(timeout=60)
        assert "timed out" in errors
    assert reached(PUBLISHED) == SHUT_OUT
    assert reached({"sensor": OPEN["sensor"]}) == LET_IN
    assert firewall().changed() == BOTH
    assert reached(OPEN) == LET_IN


def test_a_rule_that_leaves_the_list_closes_a_port_of_ours_and_leaves_one_of_others_as_it_was():
    run = firewall(rules=[rule for rule in RULES if rule["name"] not in ("metrics", "published")])
    assert (run.rc, run.changed()) == (0, BOTH), run.output
    assert reached({"sensor": OPEN["sensor"], "node_exporter": OPEN["node_exporter"]}) == SHUT_OUT
    assert reached(PUBLISHED) == ANYBODY
    assert firewall().changed() == BOTH


def test_check_mode_says_what_would_change_and_changes_nothing():
    before = each(table)
    run = firewall("--check", "--diff", rules=differing("published", ports=[8081]))
    assert run.changed() == BOTH
    assert len(re.findall(r"^-.*8080-8081", run.output, re.MULTILINE)) == 6, run.output
    assert each(table) == before


def test_rules_that_lock_the_operator_out_come_back_by_themselves_and_the_play_says_so():
    before = each(table)
    ssh = {"name": "ssh", "groups": ["robots"], "ports": [22], "sources": ["192.0.2.0/24"]}
    began = time.time()
    run = firewall(rules=[*RULES, ssh], host_firewall_confirm_seconds=15)
    print(f"locked out and back in {time.time() - began:.0f} s, with a deadline of 15 s")
    assert run.rc != 0
    for robot in ROBOTS:
        assert f"taken back by {robot} itself after 15 s" in said(run), run.output
    for words in ("Rule ssh lets 192.0.2.0/24 reach port 22", "the controller comes from", "nothing is changed"):
        assert words in said(run), run.output
    assert each(table) == before
    assert firewall().changed() == {}


def test_a_reboot_before_the_rules_are_confirmed_comes_back_with_the_old_ones():
    before = each(table)
    tried = "table inet roverwatch {}\ndelete table inet roverwatch\ntable inet roverwatch {\n}\n"
    each(lambda robot: on(robot, "sh", "-c", f"printf '{tried}' | roverwatch-firewall try 600"))
    assert reached(PUBLISHED) == ANYBODY
    each(reboot)
    assert eventually(all_up, 90)
    assert each(table) == before
    assert reached(OPEN) == LET_IN


def test_a_machine_that_is_closed_as_a_whole_lets_in_ssh_and_what_is_in_a_rule(listener):
    ssh = {"name": "ssh", "groups": ["robots"], "ports": [22], "sources": "{{ lab_networks }}"}
    closed = {"rules": [*RULES, ssh], "host_firewall_default_drop": True}
    try:
        run = firewall(**closed)
        assert run.rc == 0, run.output
        assert "9999/tcp (python3)" in said(run), "what will be closed is named"
        assert reached(UNLISTED) == SHUT_OUT
        assert reached(OPEN) == LET_IN
        assert reached({"ssh": 22}) == ANYBODY
        # Neighbours are asked for anew, and what a robot asks for itself is answered.
        for machine in (OPERATOR, STRANGER, *ROBOTS):
            on(machine, "ip", "neigh", "flush", "dev", "eth0")
        assert reached(OPEN) == LET_IN
        for hub in addresses(OPERATOR).values():
            each(lambda robot: on(robot, "timeout", "5", "bash", "-c", f"</dev/tcp/{hub}/8427"))  # noqa: B023 (as above)
        assert each(lambda robot: fleet.answers(container(robot), *fleet.READY)) == dict.fromkeys(ROBOTS, True)
        assert firewall(**closed).changed() == {}
    finally:
        assert firewall().rc == 0
    assert reached(UNLISTED) == ANYBODY


def test_what_each_rule_lets_in_and_drops_is_counted():
    def packets(robot: str) -> dict[tuple[str, str], float]:
        labels = r'roverwatch_firewall_packets_total\{action="(\w+)",rule="(\w+)"\}'
        found = ((re.fullmatch(labels, series), value) for series, value in fleet.metrics(robot, 9100).items())
        return {(match[2], match[1]): value for match, value in found if match}

    assert reached(OPEN) == LET_IN
    wanted = [(rule, action) for rule in ("metrics", "published") for action in ("accept", "drop")]
    assert eventually(lambda: all(found.get(key) for found in each(packets).values() for key in wanted), 45), each(
        packets
    )


def test_without_the_table_systemd_still_keeps_strangers_from_a_binary():
    each(delete_table)
    try:
        assert reached({"node_exporter": OPEN["node_exporter"]}) == LET_IN
    finally:
        assert firewall().changed() == BOTH


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rules": [*RULES, {**RULES[0], "ports": [80]}]}, ["rule gateway", "2 rules have this name"]),
        ({"rules": differing("metrics", ports=[0, 70000])}, ["rule metrics", "port 70000 is out of range"]),
        ({"rules": differing("metrics", sources=["10.0.0.1/8"])}, ["rule metrics", "'10.0.0.1/8'", "host bits"]),
        ({"rules": differing("metrics", sources=["0.0.0.0/0"])}, ["rule metrics", "0.0.0.0/0 is everybody"]),
        # The list of operators is empty, and a service listens for others.
        (
            {"operator_networks": [], "node_exporter_allow_from": ["10.0.0.0/8"]},
            ["rule metrics", "nobody", "9100", "node_exporter_allow_from", "operator_networks"],
        ),
        # No rule is for SSH.
        ({"host_firewall_default_drop": True}, ["host_firewall_default_drop", "closes port 22", "Add a rule"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_before_anything_is_changed(settings, words):
    before = table("robot-1")
    run = firewall(limit="robot-1", **settings)
    assert run.rc != 0
    for word in (*words, "Nothing was changed on robot-1"):
        assert word in said(run), run.output
    assert run.changed() == {}
    assert table("robot-1") == before
