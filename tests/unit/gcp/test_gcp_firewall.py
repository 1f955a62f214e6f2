"""What the list of rules is at GCP, and the way there: planned here, done by the module's own code on the fake API."""

from __future__ import annotations

import copy
import ipaddress
import random
import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.google.cloud.plugins.modules import (  # type: ignore[import-untyped]
    gcp_compute_firewall as module,
)
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.firewall import rules as firewall
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.gcp import vpc
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.gcp.vpc import Settings
from compute_api.firewalls import collections
from compute_api.resources import Api, Where

HERE = Where("demo", "global")
NETWORK = "https://www.googleapis.com/compute/v1/projects/demo/global/networks/default"
TARGETS = {"robots": "roverwatch-robot", "hubs": "roverwatch-hub"}
SETTINGS = Settings("demo", "default", "roverwatch", TARGETS, 1000, 65000, False, "EXCLUDE_ALL_METADATA")


def rule(name: str = "gateway", **more: Any) -> dict[str, Any]:
    return {"name": name, "groups": ["hubs"], "ports": [8427], "sources": ["10.20.0.0/16"], **more}


def rendered(*rules: dict[str, Any], settings: Settings = SETTINGS) -> list[dict[str, Any]]:
    parsed, problems = firewall.parse(list(rules))
    wanted, more = vpc.render(parsed, settings)
    assert not problems + more
    return wanted


def problems_of(*rules: dict[str, Any], settings: Settings = SETTINGS) -> list[str]:
    parsed, problems = firewall.parse(list(rules), ["site_a"])
    return problems + vpc.check(settings) + vpc.render(parsed, settings)[1]


class Project:
    """Firewall rules of a project, changed as the module changes them: by its own comparison, and its own requests."""

    def __init__(self) -> None:
        self.api = Api()
        for collection in collections(self.api):
            self.api.register(collection)
        self.api.put("projects/demo/global/networks/default", {})
        self.api.put("projects/demo/global/networks/other", {})
        self.firewalls = self.api.collections["global", "firewalls"]
        self.rules: dict[str, dict[str, Any]] = {}
        self.calls: list[str] = []

    def do(self, step: vpc.Step) -> None:
        options = step.arguments()
        its = SimpleNamespace(params={"project": "demo", "priority": 1000, **options})
        here = self.rules.get(step.name)
        self.calls.append(step.what)
        if step.action == "delete":
            del self.rules[step.name]
        elif step.action == "create":
            assert here is None
            self.add(module.resource_to_request(its))
        else:
            assert here is not None
            assert module.is_different(its, here), f"the module sees nothing to do for: {step.what}"
            self.rules[step.name] = self.firewalls.patch(HERE, here, module.resource_to_request(its))

    def add(self, made: dict[str, Any]) -> dict[str, Any]:
        self.rules[made["name"]] = self.firewalls.insert(HERE, copy.deepcopy(made))
        return self.rules[made["name"]]

    def plan(self, wanted: list[dict[str, Any]], settings: Settings = SETTINGS) -> vpc.Plan:
        return vpc.plan(list(self.rules.values()), wanted, settings)

    def have(self, *rules: dict[str, Any], settings: Settings = SETTINGS) -> list[str]:
        """Do what is planned; a second plan has nothing to do."""
        self.calls = []
        wanted = rendered(*rules, settings=settings)
        made = self.plan(wanted, settings)
        assert not made.problems
        for step in made.steps:
            self.do(step)
        assert not self.plan(wanted, settings).steps
        return self.calls


@pytest.fixture
def project() -> Project:
    return Project()


# --- what is wanted


def test_a_rule_lets_its_sources_in_and_its_ports_are_closed_to_all_others() -> None:
    allow, deny, deny6 = rendered(rule(ports=[8427, "8000-8003"]))
    assert allow == {
        "name": "roverwatch-gateway",
        "description": "Made by Roverwatch of its list firewall_rules (prefix roverwatch, rule gateway). "
        "Changes by hand are undone.",
        "network": NETWORK,
        "direction": "INGRESS",
        "priority": 1000,
        "disabled": False,
        "allowed": [{"IPProtocol": "tcp", "ports": ["8000-8003", "8427"]}],
        "sourceRanges": ["10.20.0.0/16"],
        "targetTags": ["roverwatch-hub"],
        "logConfig": {"enable": False},
    }
    assert (deny["name"], deny["sourceRanges"]) == ("roverwatch-deny-hubs", ["0.0.0.0/0"])
    assert deny["denied"] == allow["allowed"] == deny6["denied"]
    assert (deny["priority"], deny["targetTags"]) == (65000, ["roverwatch-hub"])
    assert (deny6["name"], deny6["sourceRanges"]) == ("roverwatch-deny-hubs-ipv6", ["::/0"])


def test_sources_of_ipv6_are_a_rule_of_their_own() -> None:
    four, six, *_ = rendered(rule(sources=["10.20.0.0/16", "2001:db8::/32"]))
    assert (four["name"], four["sourceRanges"]) == ("roverwatch-gateway", ["10.20.0.0/16"])
    assert (six["name"], six["sourceRanges"]) == ("roverwatch-gateway-ipv6", ["2001:db8::/32"])
    assert rendered(rule(sources=["2001:db8::/32"]))[0]["name"] == "roverwatch-gateway-ipv6"


def test_a_rule_without_sources_only_closes() -> None:
    assert [made["name"] for made in rendered(rule(sources=[]))] == [
        "roverwatch-deny-hubs",
        "roverwatch-deny-hubs-ipv6",
    ]


def test_a_group_is_closed_for_all_ports_of_its_rules() -> None:
    made = {
        one["name"]: one
        for one in rendered(
            rule("a", ports=[8427]),
            rule("b", groups=["all"], ports=[8428, 53]),
            rule("c", groups=["robots", "hubs"], ports=[53], protocol="udp"),
        )
    }
    tcp, udp = made["roverwatch-deny-hubs"]["denied"]
    assert tcp == {"IPProtocol": "tcp", "ports": ["53", "8427-8428"]}
    assert udp == {"IPProtocol": "udp", "ports": ["53"]}
    assert made["roverwatch-deny-robots"]["denied"][0]["ports"] == ["53", "8428"]
    assert (
        made["roverwatch-b"]["targetTags"]
        == made["roverwatch-c"]["targetTags"]
        == ["roverwatch-hub", "roverwatch-robot"]
    )


def test_service_accounts_are_targets_too() -> None:
    account = "hub@demo.iam.gserviceaccount.com"
    made = rendered(rule(), settings=replace(SETTINGS, targets={"hubs": account}))
    assert [one["targetServiceAccounts"] for one in made] == [[account]] * 3
    assert not any("targetTags" in one for one in made)


def test_logging_is_for_all_rules() -> None:
    made = rendered(rule(), settings=replace(SETTINGS, logging=True))
    assert [one["logConfig"] for one in made] == [{"enable": True, "metadata": "EXCLUDE_ALL_METADATA"}] * 3


# --- what is refused


def test_a_group_without_a_target_is_refused_as_its_rule_would_be_for_every_vm() -> None:
    (problem,) = problems_of(rule(groups=["hubs", "site_a"]))
    assert problem.startswith("rule gateway: gcp_firewall_targets has no target for the group site_a")
    (problem,) = problems_of(rule(groups=["all"]), settings=replace(SETTINGS, targets={}))
    assert "rule gateway: gcp_firewall_targets has no target for the group all" in problem


def test_tags_and_service_accounts_are_not_mixed_in_a_rule() -> None:
    mixed = replace(SETTINGS, targets={"robots": "robot", "hubs": "hub@demo.iam.gserviceaccount.com"})
    (problem,) = problems_of(rule(groups=["robots", "hubs"]), settings=mixed)
    assert "rule gateway: its groups hubs, robots have tags and service accounts" in problem
    assert not problems_of(rule("a", groups=["robots"]), rule("b", groups=["hubs"]), settings=mixed)


def test_a_name_has_room_for_that_of_its_replacement() -> None:
    assert problems_of(rule("n" * 40), settings=replace(SETTINGS, prefix="p" * 21))
    long = replace(SETTINGS, prefix="p" * 20)
    assert not problems_of(rule("n" * 40, sources=["10.0.0.0/8"]), settings=long)
    (problem,) = problems_of(rule("n" * 40, sources=["2001:db8::/32"]), settings=long)
    assert f"rule {'n' * 40}: at GCP it would be" in problem
    assert "which has 66 characters" in problem
    assert "gcp_firewall_prefix" in problem


def test_two_rules_that_would_have_one_name_are_refused() -> None:
    (problem,) = problems_of(rule(sources=["2001:db8::/32"]), rule("gateway-ipv6"))
    assert problem.startswith(
        "rule gateway-ipv6: at GCP it would be roverwatch-gateway-ipv6, and so would rule gateway"
    )


def test_groups_with_an_underscore_get_names_that_gcp_takes() -> None:
    targets = {"site_a": "site-a"}
    made = rendered(rule(groups=["site_a"]), settings=replace(SETTINGS, targets=targets))
    assert made[1]["name"] == "roverwatch-deny-site-a"
    both = replace(SETTINGS, targets={"site_a": "a", "site-a": "b"})
    parsed, _ = firewall.parse([rule(groups=["site_a", "site-a"])])
    assert any("and so would" in problem for problem in vpc.render(parsed, both)[1])


def test_more_sources_than_gcp_takes_are_refused() -> None:
    # Every other address, so that they are not joined.
    sources = [f"10.{one >> 7}.{one % 128 * 2}.0/24" for one in range(5001)]
    (problem,) = problems_of(rule(sources=sources))
    assert "rule gateway: it has 5001 sources of IPv4, and GCP takes 5000" in problem
    assert not problems_of(rule(sources=sources[1:]))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"project": ""}, "gcp_firewall_project is empty: set gcp_project"),
        ({"network": "projects/x/global/networks/y"}, "gcp_firewall_network is 'projects/x/global/networks/y'"),
        ({"prefix": "Rover_"}, "gcp_firewall_prefix is 'Rover_'"),
        # The module does not send a 0, and the API would take 1000.
        ({"priority": 0}, "gcp_firewall_priority is 0"),
        ({"priority": 65000}, "less than the second"),
        # default-allow-internal of a default network would win, or tie.
        ({"deny_priority": 65534}, "less than 65534"),
        ({"targets": {"hubs": ""}}, "gcp_firewall_targets.hubs is ''"),
        ({"targets": {"hubs": "someone@example.com"}}, "gcp_firewall_targets.hubs is 'someone@example.com'"),
    ],
)
def test_settings_that_cannot_work_are_refused(changed: dict[str, Any], words: str) -> None:
    assert not vpc.check(SETTINGS)
    (problem,) = vpc.check(replace(SETTINGS, **changed))
    assert words in problem


# --- whose a rule is


def test_only_name_description_and_network_together_make_a_rule_ours(project: Project) -> None:
    project.have(rule())
    allow = project.rules["roverwatch-gateway"]
    assert vpc.ours(allow, SETTINGS) == "gateway"
    for other in (
        {"name": "somebody-gateway"},
        {"description": allow["description"].replace("rule gateway", "rule x") + " "},
        {"description": ""},
        {"network": NETWORK.replace("default", "other")},
        {"network": NETWORK.replace("demo", "other")},
    ):
        assert vpc.ours({**allow, **other}, SETTINGS) is None, other
    assert vpc.ours({**allow, "network": NETWORK.replace("www", "compute")}, SETTINGS) == "gateway"
    without = {key: value for key, value in allow.items() if key != "description"}
    assert vpc.ours(without, SETTINGS) is None
    assert vpc.ours(allow, replace(SETTINGS, prefix="rover")) is None


def test_what_is_not_ours_is_left_alone(project: Project) -> None:
    project.have(rule())
    ours = project.rules["roverwatch-gateway"]
    project.add({**ours, "name": "roverwatch-by-hand", "description": "mine"})
    project.add({**ours, "name": "roverwatch-elsewhere", "network": "global/networks/other"})
    project.add({**ours, "name": "default-allow-internal"})
    before = copy.deepcopy(project.rules)
    made = project.plan([])
    assert {step.name for step in made.steps} == {
        "roverwatch-gateway",
        "roverwatch-deny-hubs",
        "roverwatch-deny-hubs-ipv6",
    }
    assert {step.action for step in made.steps} == {"delete"}
    assert project.rules == before


def test_somebody_elses_rule_with_our_name_is_an_error(project: Project) -> None:
    project.add({**rendered(rule())[0], "description": "mine"})
    made = project.plan(rendered(rule()))
    (problem,) = made.problems
    assert "rule roverwatch-gateway: the project demo has one of this name" in problem
    assert "has the description 'mine', so it is not Roverwatch's" in problem
    elsewhere = {**project.rules["roverwatch-gateway"], "network": NETWORK.replace("default", "other")}
    (problem,) = vpc.plan([elsewhere], rendered(rule()), SETTINGS).problems
    assert "which is in projects/demo/global/networks/other, not in projects/demo/global/networks/default" in problem


# --- the way there


def test_the_first_run_makes_what_opens_before_what_closes(project: Project) -> None:
    assert project.have(rule("a"), rule("b", ports=[1])) == [
        "create roverwatch-a",
        "create roverwatch-b",
        "create roverwatch-deny-hubs",
        "create roverwatch-deny-hubs-ipv6",
    ]
    assert project.have(rule("a"), rule("b", ports=[1])) == []


def drift(**fields: Any) -> Any:
    return lambda rule: {key: value for key, value in {**rule, **fields}.items() if value is not None}


TWO: dict[str, Any] = {"ports": [8000, 9100], "sources": ["10.1.0.0/16", "10.2.0.0/16"]}


@pytest.mark.parametrize(
    ("change", "done"),
    [
        # The module sees these, and repairs them.
        (drift(allowed=[{"IPProtocol": "tcp", "ports": ["8000"]}]), "update"),
        (drift(sourceRanges=["10.1.0.0/16"]), "update"),
        (drift(sourceRanges=["0.0.0.0/0"]), "update"),
        (drift(priority=2000), "update"),
        (drift(disabled=True), "update"),
        # Unseen by itself, and sent along with what is seen.
        (drift(targetTags=None, priority=2), "update"),
        (drift(logConfig={"enable": True, "metadata": "EXCLUDE_ALL_METADATA"}), "update"),
        # It does not see these.
        (drift(allowed=[{"IPProtocol": "tcp", "ports": ["8000", "9100", "22"]}]), "replace"),
        (drift(allowed=[{"IPProtocol": "tcp", "ports": ["8000", "9100"]}, {"IPProtocol": "icmp"}]), "replace"),
        (drift(allowed=[{"IPProtocol": "tcp"}]), "replace"),
        (drift(sourceRanges=["10.1.0.0/16", "10.2.0.0/16", "192.0.2.0/24"]), "replace"),
        (drift(targetTags=["another", "roverwatch-hub"]), "replace"),
        (drift(targetTags=None), "replace"),
        (drift(sourceTags=["bastion"]), "replace"),
        # It sees these, but what opens one thing and closes another at once comes too early or too late.
        (drift(allowed=[{"IPProtocol": "tcp", "ports": ["8000", "22"]}]), "replace"),
        (drift(sourceRanges=["10.1.0.0/16", "192.0.2.0/24"]), "replace"),
        (drift(targetTags=["another"]), "replace"),
        # It would see these, and its request be refused, or leave what is to go.
        (drift(allowed=None, denied=[{"IPProtocol": "tcp", "ports": ["8000", "9100"]}]), "replace"),
        (drift(priority=2000, sourceTags=["bastion"]), "replace"),
        (drift(direction="EGRESS", sourceRanges=None, destinationRanges=["10.1.0.0/16"]), "replace"),
        (drift(targetTags=None, targetServiceAccounts=["a@demo.iam.gserviceaccount.com"]), "replace"),
    ],
)
def test_every_drift_is_repaired(project: Project, change: Any, done: str) -> None:
    project.have(rule(**TWO))
    right = copy.deepcopy(project.rules["roverwatch-gateway"])
    changed = project.add(change(copy.deepcopy(right)))
    assert vpc.normal(changed) != vpc.normal(right)
    calls = project.have(rule(**TWO))
    if done == "update":
        assert [call.partition(" (")[0] for call in calls] == ["update roverwatch-gateway"]
    else:
        assert calls == ["create roverwatch-gateway-2 instead of roverwatch-gateway", "delete roverwatch-gateway"]
        # And back to its own name the next time.
        project.add({**change(copy.deepcopy(right)), "name": "roverwatch-gateway-2"})
        assert project.have(rule(**TWO)) == [
            "create roverwatch-gateway instead of roverwatch-gateway-2",
            "delete roverwatch-gateway-2",
        ]
    (name,) = (name for name in project.rules if "deny" not in name)
    repaired, wanted = project.rules[name], {**right, "name": name}
    assert {key: repaired.get(key) for key in wanted} == wanted


def test_how_the_api_writes_a_rule_is_no_difference(project: Project) -> None:
    project.have(rule(sources=["2001:db8::/32", "2001:dba::/32"], ports=[1, 2, 9]))
    its = project.rules["roverwatch-gateway-ipv6"]
    its["sourceRanges"] = ["2001:DBA:0::/32", "2001:0db8::/32"]
    its["allowed"] = [{"IPProtocol": "tcp", "ports": ["9"]}, {"IPProtocol": "tcp", "ports": ["1-2"]}]
    its["network"] = its["network"].replace("www", "compute")
    its["logConfig"] = {"enable": False, "metadata": "INCLUDE_ALL_METADATA"}
    its["sourceTags"] = []
    assert project.have(rule(sources=["2001:db8::/32", "2001:dba::/32"], ports=[1, 2, 9])) == []


def test_a_rename_makes_the_new_one_first(project: Project) -> None:
    project.have(rule("old"))
    assert project.have(rule("new")) == ["create roverwatch-new", "delete roverwatch-old"]


def test_what_opens_a_port_comes_before_what_closes_it(project: Project) -> None:
    project.have(rule("a", ports=[8000]))
    assert project.have(rule("a", ports=[8000, 9100]), rule("b", ports=[7])) == [
        "create roverwatch-b",
        "update roverwatch-a (allowed)",
        "update roverwatch-deny-hubs (denied)",
        "update roverwatch-deny-hubs-ipv6 (denied)",
    ]
    # And a port that no rule is for any more is open again before its sources would be shut out.
    calls = project.have(rule("c", groups=["robots"], ports=[1]))
    assert [call for call in calls if call.startswith("delete")] == [
        "delete roverwatch-deny-hubs",
        "delete roverwatch-deny-hubs-ipv6",
        "delete roverwatch-a",
        "delete roverwatch-b",
    ]


def test_a_network_that_moves_to_another_rule_is_let_in_there_first(project: Project) -> None:
    project.have(rule("a", sources=["10.1.0.0/16"]), rule("b", sources=["10.2.0.0/16"]))
    assert project.have(rule("a", sources=["10.1.1.0/24"]), rule("b", sources=["10.1.0.0/16", "10.2.0.0/16"])) == [
        "update roverwatch-b (sourceRanges)",
        "update roverwatch-a (sourceRanges)",
    ]


def test_rules_that_swap_their_ports_are_replaced_not_changed(project: Project) -> None:
    project.have(rule("a", ports=[8000]), rule("b", ports=[9100]))
    calls = project.have(rule("a", ports=[9100]), rule("b", ports=[8000]))
    assert calls == [
        "create roverwatch-a-2 instead of roverwatch-a",
        "create roverwatch-b-2 instead of roverwatch-b",
        "delete roverwatch-a",
        "delete roverwatch-b",
    ]


def test_a_run_that_was_cut_short_is_finished_by_the_next(project: Project) -> None:
    project.have(rule())
    twin = copy.deepcopy(project.rules["roverwatch-gateway"])
    project.add({**twin, "name": "roverwatch-gateway-2", "sourceTags": ["bastion"]})
    project.add({**twin, "sourceTags": ["bastion"]})
    # Neither of the two is right, and both names are taken.
    assert project.have(rule()) == [
        "create roverwatch-gateway-3 instead of roverwatch-gateway",
        "delete roverwatch-gateway",
        "delete roverwatch-gateway-2",
    ]
    project.add({**twin, "sourceTags": ["bastion"]})
    assert project.have(rule()) == ["delete roverwatch-gateway"]
    assert sorted(project.rules)[-1] == "roverwatch-gateway-3"


def test_a_replacement_takes_no_name_that_another_rule_needs(project: Project) -> None:
    project.have(rule())
    project.add({**project.rules["roverwatch-gateway"], "sourceTags": ["bastion"]})
    assert project.have(rule(), rule("gateway-2", ports=[1]))[:2] == [
        "create roverwatch-gateway-3 instead of roverwatch-gateway",
        "create roverwatch-gateway-2",
    ]


@pytest.mark.parametrize(
    ("other", "covered"),
    [
        ({}, True),
        ({"disabled": True, "targetTags": ["else"]}, True),
        ({"targetTags": ["else"]}, False),
        ({"targetTags": ["roverwatch-hub", "else"]}, False),
        # No target is every VM.
        ({"targetTags": []}, False),
        ({"sourceRanges": ["10.20.1.0/24"]}, True),
        ({"sourceRanges": ["10.0.0.0/8"]}, False),
        ({"sourceRanges": ["2001:db8::/32"]}, False),
        ({"allowed": [{"IPProtocol": "tcp", "ports": ["8427"]}]}, True),
        ({"allowed": [{"IPProtocol": "tcp", "ports": ["8429-9000"]}]}, False),
        ({"allowed": [{"IPProtocol": "udp", "ports": ["8427"]}]}, False),
        ({"allowed": [{"IPProtocol": "tcp"}]}, False),
    ],
)
def test_what_a_rule_lets_in_is_compared_with_what_another_does(other: dict[str, Any], covered: bool) -> None:
    one, *_ = rendered(rule(ports=["8427-8430"]))
    assert vpc.covers(one, {**one, **other}) is covered
    assert vpc.covers({**one, "disabled": True}, one) is False
    assert vpc.covers({**one, "targetTags": []}, one) is True


# --- every way from one list to another


PORTS = (8000, 8427, 9100)
SOURCES = ("10.1.0.0/16", "10.1.1.0/24", "10.2.0.0/16", "10.200.0.0/16", "2001:db8::/32")
PACKETS = [
    (tag, port, source)
    for tag in TARGETS.values()
    for port in PORTS
    for source in ("10.1.1.1", "10.1.2.1", "10.2.0.1", "10.200.0.1", "2001:db8::1", "2001:db9::1")
]
INTERNAL = {
    "name": "default-allow-internal",
    "network": NETWORK,
    "priority": 65534,
    "allowed": [{"IPProtocol": "tcp", "ports": ["0-65535"]}],
    "sourceRanges": ["10.128.0.0/9"],
}


def let_in(rules: dict[str, dict[str, Any]], tag: str, port: int, source: str) -> bool:
    """What GCP does with a packet: the lowest number wins, deny wins a tie, and what no rule is for stays outside."""
    found = [
        (rule["priority"], "allowed" in rule)
        for rule in rules.values()
        if rule["direction"] == "INGRESS"
        and not rule["disabled"]
        and tag in rule.get("targetTags", [tag])
        and any(ipaddress.ip_address(source) in ipaddress.ip_network(one) for one in rule.get("sourceRanges", []))
        and any(
            int(one.split("-")[0]) <= port <= int(one.split("-")[-1])
            for entry in rule.get("allowed", rule.get("denied", []))
            for one in entry.get("ports", ["0-65535"])
        )
    ]
    return min(found)[1] if found else False


def some(chance: random.Random, things: Any) -> list[Any]:
    return sorted(chance.sample(list(things), chance.randint(1, len(things))))


def some_rules(chance: random.Random) -> list[dict[str, Any]]:
    return [
        rule(
            name,
            groups=some(chance, TARGETS),
            ports=some(chance, PORTS),
            sources=some(chance, SOURCES) if chance.random() < 0.9 else [],
        )
        for name in some(chance, ["a", "b", "c"])
    ]


def some_drift(chance: random.Random, rules: dict[str, dict[str, Any]]) -> None:
    its = rules[chance.choice(sorted(rules))]
    change = chance.choice(["disabled", "priority", "ports", "sources", "tags", "none"])
    kind = "allowed" if "allowed" in its else "denied"
    changes: dict[str, dict[str, Any]] = {
        "disabled": {"disabled": True},
        "priority": {"priority": chance.randint(1, 64999)},
        "ports": {kind: [{"IPProtocol": "tcp", "ports": list(map(str, some(chance, PORTS)))}]},
        "sources": {"sourceRanges": [its["sourceRanges"][0]]},
        "tags": {"targetTags": some(chance, TARGETS.values())},
        "none": {},
    }
    its |= changes[change]


@pytest.mark.parametrize("seed", range(150))
def test_no_step_shuts_out_or_lets_in_what_both_lists_agree_on(seed: int) -> None:
    chance = random.Random(seed)
    project = Project()
    project.add(INTERNAL)
    project.have(*some_rules(chance))
    if chance.random() < 0.3:
        some_drift(chance, {name: its for name, its in project.rules.items() if name != INTERNAL["name"]})
    listed = some_rules(chance)
    states = [copy.deepcopy(project.rules)]
    made = project.plan(rendered(*listed))
    for step in made.steps:
        project.do(step)
        states.append(copy.deepcopy(project.rules))
    assert not project.plan(rendered(*listed)).steps
    for packet in PACKETS:
        seen = [let_in(state, *packet) for state in states]
        if seen[0] == seen[-1]:
            assert set(seen) == {seen[0]}, (packet, [step.what for step in made.steps])
    # What the list says is what a packet meets.
    for tag, port, source in PACKETS:
        group = next(group for group, its in TARGETS.items() if its == tag)
        of_port = [one for one in listed if group in one["groups"] and port in one["ports"]]
        wanted = any(
            ipaddress.ip_address(source) in ipaddress.ip_network(network)
            for one in of_port
            for network in one["sources"]
        )
        internal = not of_port and source == "10.200.0.1"
        assert let_in(project.rules, tag, port, source) is (wanted or internal), (tag, port, source)


# --- what went wrong


def error(code: int, message: str, reason: str = "forbidden") -> str:
    body = {"error": {"code": code, "message": message, "errors": [{"reason": reason, "message": message}]}}
    return f"GCP returned error: {body}"


@pytest.mark.parametrize(
    ("said", "busy", "words"),
    [
        (
            error(403, "Required 'compute.firewalls.create' permission for 'projects/demo/global/firewalls/x'"),
            False,
            "lacks compute.firewalls.create in the project demo: give them roles/compute.securityAdmin",
        ),
        (error(403, "Compute Engine API has not been used", "accessNotConfigured"), False, "has not been used"),
        (error(403, "Rate Limit Exceeded", "rateLimitExceeded"), True, "Rate Limit Exceeded"),
        (error(429, "Quota exceeded", "rateLimitExceeded"), True, "Quota exceeded. GCP stayed like this"),
        (error(503, "Unavailable", "backendError"), True, "Unavailable. GCP stayed like this"),
        (error(400, "Invalid value for field 'resource.name': '503'", "invalid"), False, "resource.name"),
        (error(404, "The resource 'projects/demo/global/networks/x' was not found"), False, "gcp_firewall_network"),
        (error(409, "The resource 'x' already exists"), False, "Somebody else made it meanwhile"),
        ("Invalid JSON response with error: <html>bad gateway</html>", True, "bad gateway"),
        ("'NoneType' object has no attribute 'get'", False, "GCP has no project demo"),
        ("'ConnectionError' object has no attribute 'message'", True, "cannot be reached from this machine (Connect"),
        ("'SSLError' object has no attribute 'message'", False, "REQUESTS_CA_BUNDLE"),
        ("GCP returned error: {it is cut off", False, "it is cut off"),
    ],
)
def test_an_error_says_what_to_do_and_whether_to_wait(said: str, busy: bool, words: str) -> None:
    assert bool(re.search(vpc.BUSY, said)) is busy
    assert words in vpc.explain(said, SETTINGS, "application")
