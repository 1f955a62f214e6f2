"""The rules as a table of nftables: its text, what nft and the kernel make of it, and which packets get through."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.firewall import nftables
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.firewall import rules as firewall
from networks import Space

# --- the text


def rules(*entries: dict[str, Any]) -> list[firewall.Rule]:
    found, problems = firewall.parse([{"groups": ["all"], "sources": [], **entry} for entry in entries])
    assert problems == []
    return found


GATEWAY = {"name": "gateway", "ports": [8427, "9000-9003"], "sources": ["10.0.0.0/8", "2001:db8::/32"]}
CLOSED = {"name": "internal", "ports": [8428]}
SSH = {"name": "ssh", "ports": [22], "sources": ["10.1.0.0/24"]}
ALL_KINDS = rules(
    GATEWAY, CLOSED, SSH,
    {"name": "public", "ports": [443], "sources": ["0.0.0.0/0", "::/0"], "public": True},
    {"name": "mdns", "ports": [5353], "protocol": "udp", "sources": ["10.0.0.0/8", "192.168.0.0/16", "fe80::/10"]},
)  # fmt: skip
INTERFACES = ["podman*", "docker0"]


def test_the_rules_are_read_from_the_text():
    text = nftables.render(rules(GATEWAY, CLOSED))
    lines = [line.strip() for line in text.splitlines()]
    assert "tcp dport { 8427, 9000-9003 } ip saddr { 10.0.0.0/8 } counter name allow-gateway accept" in lines
    assert "tcp dport { 8427, 9000-9003 } ip6 saddr { 2001:db8::/32 } counter name allow-gateway accept" in lines
    assert "tcp dport { 8428 } counter name deny-internal drop" in lines
    assert "internal accept" not in text
    assert "udp" not in text
    assert nftables.render(rules(GATEWAY, CLOSED)) == text


def test_nobody_is_dropped_before_all_that_are_allowed():
    text = nftables.render(rules(GATEWAY, {**SSH, "ports": [8427]}))
    assert text.rindex("counter name allow-") < text.index("counter name deny-")


def test_without_rules_the_text_removes_the_table_and_no_more():
    lines = [line for line in nftables.render([]).splitlines() if not line.startswith("#")]
    assert lines == ["table inet roverwatch {}", "delete table inet roverwatch"]


def problems(*entries: dict[str, Any], drop: bool = True, **options: Any) -> list[str]:
    settings = {"ssh_port": 22, "trusted_interfaces": INTERFACES, "confirm_seconds": 60} | options
    return nftables.problems(rules(*entries), drop, **settings)


@pytest.mark.parametrize("entries", [[], [GATEWAY], [{**SSH, "sources": []}], [{**SSH, "protocol": "udp"}]])
def test_to_close_everything_is_refused_where_no_rule_lets_anybody_use_ssh(entries):
    (problem,) = problems(*entries)
    for word in ("host_firewall_default_drop", "port 22", "Add a rule", "host_firewall_ssh_port"):
        assert word in problem
    assert problems(*entries, drop=False) == []


def test_to_close_everything_is_right_where_a_rule_is_for_the_port_of_ssh():
    assert problems(SSH) == []
    assert problems({**SSH, "ports": ["2000-2300"]}, ssh_port=2222) == []
    assert len(problems(SSH, ssh_port=2222)) == 1


@pytest.mark.parametrize("name", ["*", "", 'lo" accept', "a b", "sixteen-chars-xx", "pod*man"])
def test_a_name_that_is_no_interface_is_refused(name):
    (problem,) = problems(SSH, trusted_interfaces=["docker0", name])
    assert repr(name) in problem
    assert "host_firewall_trusted_interfaces" in problem


def test_a_port_that_is_none_and_a_deadline_that_is_too_short_are_refused():
    assert "host_firewall_ssh_port is 0" in problems(ssh_port=0)[0]
    assert "host_firewall_confirm_seconds is 9" in problems(SSH, confirm_seconds=9)[0]
    assert problems(SSH, confirm_seconds=10) == []


def test_what_will_be_closed_is_what_no_rule_is_about():
    def listener(port: int, protocol: str = "tcp", program: str = "x") -> nftables.Listener:
        return nftables.Listener(port, protocol, program)

    listening = [
        listener(9002), listener(9002, "udp", "dds"), listener(8428), listener(80, program="nginx"),
        listener(80, program="nginx"), listener(68, "udp"), listener(546, "udp"), listener(546),
        listener(81, program=""),
    ]  # fmt: skip
    assert nftables.closed(rules(GATEWAY, CLOSED), listening) == [
        "80/tcp (nginx)", "81/tcp", "546/tcp (x)", "9002/udp (dds)",
    ]  # fmt: skip


def test_what_another_firewall_has_to_let_in_is_what_somebody_may_reach():
    mdns = {"name": "mdns", "ports": [5353], "protocol": "udp", "sources": ["10.0.0.0/8"]}
    assert nftables.opened(rules(GATEWAY, CLOSED, mdns)) == ["5353/udp", "8427/tcp", "9000-9003/tcp"]


@pytest.mark.parametrize(
    ("entries", "drop", "client", "words"),
    [
        ([SSH], False, "192.0.2.7", ["rule ssh lets 10.1.0.0/24", "comes from 192.0.2.7", "Add 192.0.2.7"]),
        ([SSH], False, "::ffff:192.0.2.7", ["Add 192.0.2.7 to the sources of rule ssh"]),
        ([SSH], False, "fe80::1%eth0", ["Add fe80::1 to the sources of rule ssh"]),
        ([{**SSH, "sources": []}], False, "192.0.2.7", ["rule ssh lets nobody reach port 22"]),
        ([SSH], True, "10.1.0.9", ["rule ssh lets 10.1.0.0/24", "not what keeps it out"]),
        ([GATEWAY], False, "10.1.0.9", ["no rule is for port 22", "stays open", "not what keeps it out"]),
        ([SSH], False, "", ["rule ssh lets 10.1.0.0/24", "let the controller reach port 22"]),
    ],
)
def test_whose_fault_it_is_that_the_controller_was_kept_out(entries, drop, client, words):
    said = nftables.blame(rules(*entries), drop, 22, client)
    for word in words:
        assert word in said


# --- what nft and the kernel make of it


@pytest.mark.parametrize("drop", [False, True])
def test_nft_loads_every_kind_of_rule(space, drop):
    space.load(nftables.render(ALL_KINDS, drop, 22, INTERFACES))
    listed = space.listed()
    assert listed.count("counter name") == len([r for r in ALL_KINDS if r.sources]) + 3 + len(ALL_KINDS) + drop


def test_words_of_nft_are_names_like_any_others(space):
    names = ["tcp", "counter", "drop", "a-b", "table", "inet", "x" * 40, "a" + "-" * 38 + "1", "other", "default-drop"]
    space.load(nftables.render(rules(*({**SSH, "name": name} for name in names)), True))
    counters = [line.split()[1] for line in space.listed().splitlines() if line.startswith("\tcounter")]
    assert sorted(counters) == sorted([f"{action}-{name}" for action in ("allow", "deny") for name in names] + ["deny"])


def test_the_table_is_replaced_and_that_of_others_is_not_touched(space):
    space.run("nft", "add table ip theirs; add chain ip theirs keep")
    space.load(nftables.render(ALL_KINDS, True))
    space.load(nftables.render(rules(CLOSED)))
    listed = space.listed()
    assert "deny-internal" in listed
    assert "gateway" not in listed
    assert "chain keep" in listed
    space.load(nftables.render([]))
    assert space.run("nft", "list", "tables") == "table ip theirs\n"


def test_the_kernels_list_is_the_same_each_time_and_after_it_was_loaded_itself(nft):
    seen = set()
    for _ in range(5):
        with contextlib.closing(Space()) as made:
            made.load(nftables.render(ALL_KINDS, True, 22, INTERFACES))
            seen.add(made.listed())
            made.load(f"table inet roverwatch {{}}\ndelete table inet roverwatch\n{made.listed()}")
            seen.add(made.listed())
    assert len(seen) == 1


# --- packets

OPERATOR, STRANGER = "10.1.0.1", "10.2.0.1"
# By IP version: the robot's address, the operator's and the stranger's.
WAYS = {4: ("10.1.0.10", OPERATOR, STRANGER), 6: ("fd01::10", "fd01::1", "fd02::1")}
SOURCES = [OPERATOR, "fd01::1"]
LISTENING = [22, 80, 8427, 8428]

ECHO = """
import socket, socketserver, sys, threading
class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(100):
            self.request.sendall(data)
class Server(socketserver.ThreadingTCPServer):
    address_family, allow_reuse_address, daemon_threads = socket.AF_INET6, True, True
for port in sys.argv[1:]:
    threading.Thread(target=Server(("::", int(port)), Echo).serve_forever).start()
print("ready", flush=True)
"""
# Says whether it is answered; once more for each line that it reads, with the patience in it.
TALK = """
import socket, sys
source, source_port, target, port, patience = sys.argv[1:]
def talk(send):
    try:
        send()
        connection.sendall(b"x")
        return "answered" if connection.recv(1) else "closed"
    except TimeoutError:
        return "silence"
    except ConnectionRefusedError:
        return "refused"
connection = socket.socket(socket.AF_INET6 if ":" in target else socket.AF_INET)
connection.bind((source, int(source_port)))
connection.settimeout(float(patience))
print(talk(lambda: connection.connect((target, int(port)))), flush=True)
for line in sys.stdin:
    connection.settimeout(float(line))
    print(talk(lambda: None), flush=True)
"""
PING = """
import socket, sys
source, target, patience = sys.argv[1:]
six = ":" in target
asks, answers = (b"\\x80\\0\\0\\0\\0\\0\\0\\0", 129) if six else (b"\\x08\\0\\xf7\\xff\\0\\0\\0\\0", 0)
family, protocol = (socket.AF_INET6, socket.IPPROTO_ICMPV6) if six else (socket.AF_INET, socket.IPPROTO_ICMP)
with socket.socket(family, socket.SOCK_RAW, protocol) as raw:
    raw.bind((source, 0))
    raw.settimeout(float(patience))
    raw.sendto(asks, (target, 0))
    while raw.recv(1000)[0 if six else 20] != answers:
        pass
print("answered")
"""
# What is answered is answered long before, what is dropped never.
WAITS, GIVES_UP = "20", "0.4"


class Fleet:
    """A robot, a container behind it, and a machine beside it that is an operator and a stranger."""

    def __init__(self) -> None:
        self.robot, self.container, self.other = Space(), Space(), Space()
        self.processes: list[subprocess.Popen[str]] = []
        self.join(self.robot, self.other, "lan")
        self.join(self.robot, self.container, "podman0")
        self.address(self.robot, "lan", "10.1.0.10/8", "fd01::10/16", "fd02::10/16")
        self.address(self.other, "lan", "10.1.0.1/8", "10.2.0.1/8", "fd01::1/16", "fd02::1/16")
        self.address(self.robot, "podman0", "192.168.7.1/24", "fd07::1/64")
        self.address(self.container, "podman0", "192.168.7.2/24", "fd07::2/64")
        for via in ("192.168.7.1", "fd07::1"):
            self.container.run("ip", "route", "add", "default", "via", via)
        for via, network in (("10.1.0.10", "192.168.7.0/24"), ("fd01::10", "fd07::/64")):
            self.other.run("ip", "route", "add", network, "via", via)
        self.robot.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        self.robot.run("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/all/forwarding")
        self.serve(self.robot, *LISTENING)
        self.serve(self.container, 80, 8427)
        self.serve(self.other, 80)

    def join(self, one: Space, other: Space, name: str) -> None:
        one.run("ip", "link", "add", name, "type", "veth", "peer", "name", name, "netns", other.holder.pid)

    def address(self, space: Space, interface: str, *addresses: str) -> None:
        for address in addresses:
            nodad = ["nodad"] if ":" in address else []
            space.run("ip", "addr", "add", address, "dev", interface, *nodad)
        space.run("ip", "link", "set", interface, "up")

    def serve(self, space: Space, *ports: int) -> None:
        assert self.start(space, ECHO, *ports).readline() == "ready\n"

    def start(self, space: Space, program: str, *arguments: object) -> Any:
        command = space.command(sys.executable, "-c", program, *arguments)
        self.processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return self.processes[-1].stdout

    def knock(self, source: str, target: str, port: int, wait: str = WAITS, space: Space | None = None) -> str:
        return (space or self.other).run(sys.executable, "-c", TALK, source, 0, target, port, wait).strip()

    def dropped(self, source: str, target: str, port: int, rule: str, space: Space | None = None) -> bool:
        """Whether nothing comes back, and that is this rule's doing."""
        before = self.packets(f"deny{rule and '-'}{rule}")
        answer = self.knock(source, target, port, GIVES_UP, space)
        return answer == "silence" and self.packets(f"deny{rule and '-'}{rule}") > before

    def packets(self, counter: str) -> int:
        return int(
            self.robot.run("nft", "list", "counter", "inet", "roverwatch", counter).split("packets")[1].split()[0]
        )

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()
        for space in (self.robot, self.container, self.other):
            space.close()


@pytest.fixture
def fleet(nft: Path) -> Iterator[Fleet]:
    with contextlib.closing(Fleet()) as found:
        yield found


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> tuple[str, str, str]:
    return WAYS[request.param]


def test_who_is_named_gets_in_and_nobody_else_but_the_machine_itself(fleet, way):
    robot, operator, stranger = way
    fleet.robot.load(nftables.render(rules({**GATEWAY, "sources": SOURCES}, CLOSED)))
    assert fleet.knock(operator, robot, 8427) == "answered"
    assert fleet.dropped(stranger, robot, 8427, "gateway")
    assert fleet.dropped(operator, robot, 8428, "internal")
    assert fleet.knock(stranger, robot, 80) == "answered", "a port in no rule stays as it was"
    for own in (robot, "::1" if ":" in robot else "127.0.0.1"):
        assert fleet.knock(own, robot, 8428, space=fleet.robot) == "answered"


def test_a_port_of_two_rules_is_open_to_the_sources_of_both(fleet):
    two = ({**GATEWAY, "sources": [OPERATOR]}, {**GATEWAY, "name": "more", "sources": [STRANGER]})
    fleet.robot.load(nftables.render(rules(*two)))
    assert {fleet.knock(source, "10.1.0.10", 8427) for source in (OPERATOR, STRANGER)} == {"answered"}
    assert fleet.packets("allow-more") > 0


def test_a_published_port_of_a_container_is_a_port_of_the_machine(fleet, way):
    robot, operator, stranger = way
    fleet.robot.load(
        "table inet theirs { chain nat { type nat hook prerouting priority dstnat;\n"
        "tcp dport 8427 dnat ip to 192.168.7.2:80\ntcp dport 8427 dnat ip6 to [fd07::2]:80\n}\n}"
    )
    # Neither the port that it has inside nor one that nobody dialled counts.
    inside = {"name": "inside", "ports": [80]}
    fleet.robot.load(nftables.render(rules({**GATEWAY, "sources": SOURCES}, inside)))
    assert fleet.knock(operator, robot, 8427) == "answered"
    assert fleet.dropped(stranger, robot, 8427, "gateway")


def test_what_passes_through_is_not_for_the_machine(fleet, way):
    container = "fd07::2" if ":" in way[0] else "192.168.7.2"
    fleet.robot.load(nftables.render(rules({**GATEWAY, "sources": []}, SSH), default_drop=True))
    assert fleet.knock(way[2], container, 8427) == "answered"


def test_what_the_machine_opens_itself_is_answered_even_from_a_port_of_a_rule(fleet, way):
    robot, operator, _ = way
    fleet.robot.load(nftables.render(rules({"name": "dds", "ports": [7411]})))
    answers = fleet.start(fleet.robot, TALK, robot, 7411, operator, 80, WAITS)
    assert answers.readline() == "answered\n"


@pytest.mark.parametrize("known", [True, False])
def test_a_source_that_is_named_no_more_loses_its_connection_at_once(fleet, way, known):
    robot, operator, _ = way
    if known:
        fleet.robot.load(nftables.render(rules({**GATEWAY, "sources": SOURCES})))
    answers = fleet.start(fleet.other, TALK, operator, 0, robot, 8427, WAITS)
    talk = fleet.processes[-1].stdin
    assert answers.readline() == "answered\n"
    fleet.robot.load(nftables.render(rules({**GATEWAY, "sources": []}, SSH), default_drop=True))
    print(GIVES_UP, file=talk, flush=True)
    assert answers.readline() == "silence\n"
    assert fleet.packets("deny-gateway") > 0


@pytest.mark.parametrize("known", [True, False])
def test_an_ssh_connection_in_use_outlasts_rules_that_let_no_new_one_in(fleet, way, known):
    robot, operator, _ = way
    if known:
        fleet.robot.load(nftables.render(rules(CLOSED)))
    answers = fleet.start(fleet.other, TALK, operator, 0, robot, 22, WAITS)
    talk = fleet.processes[-1].stdin
    assert answers.readline() == "answered\n"
    fleet.robot.load(nftables.render(rules({**SSH, "sources": ["192.0.2.0/24"]})))
    assert fleet.dropped(operator, robot, 22, "ssh")
    print(WAITS, file=talk, flush=True)
    assert answers.readline() == "answered\n"


def test_closed_as_a_whole_a_machine_is_still_on_its_network(fleet, way):
    robot, operator, stranger = way
    fleet.robot.load(nftables.render(rules({**SSH, "sources": SOURCES}), True, 22, INTERFACES))
    for space in (fleet.robot, fleet.other):
        space.run("ip", "neigh", "flush", "dev", "lan")
    assert fleet.knock(operator, robot, 22) == "answered"
    assert fleet.dropped(stranger, robot, 22, "ssh")
    assert fleet.dropped(operator, robot, 80, "")
    fleet.robot.run("ip", "neigh", "flush", "dev", "lan")
    assert fleet.knock(robot, operator, 80, space=fleet.robot) == "answered", "what it opens itself is answered"
    inside, container = ("fd07::1", "fd07::2") if ":" in robot else ("192.168.7.1", "192.168.7.2")
    assert fleet.knock(container, inside, 80, space=fleet.container) == "answered", "a container asks the machine"
    assert fleet.other.run(sys.executable, "-c", PING, stranger, robot, WAITS) == "answered\n"
