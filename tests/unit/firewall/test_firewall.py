"""The list of who may reach which port: what it means, and what is refused, with the rule's name and the remedy."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from ansible_collections.roverwatch.fleet.plugins.filter import firewall as filters
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.firewall import rules as firewall
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.service.role_defaults import DEFAULTS, service_ports
from hypothesis import given
from hypothesis import strategies as st
from test_tree import ROOT

RULE: dict[str, Any] = {"name": "gateway", "groups": ["hubs"], "ports": [8427], "sources": ["10.20.0.0/16"]}
GROUPS = ["robots", "hubs", "hamburg"]


def parsed(*entries: dict[str, Any]) -> list[firewall.Rule]:
    rules, problems = firewall.parse(list(entries), GROUPS)
    assert problems == []
    return rules


def test_a_rule_is_what_it_says():
    (rule,) = parsed(
        {
            "name": "a-9",
            "groups": ["robots", "hamburg"],
            "ports": ["8000-8003", "443", 22],
            "protocol": "udp",
            "sources": ["10.1.0.0/16", "2001:db8::/32", "192.0.2.7", "10.0.0.0/8"],
        }
    )
    assert (rule.name, rule.groups, rule.protocol) == ("a-9", ("robots", "hamburg"), "udp")
    assert list(map(str, rule.ports)) == ["22", "443", "8000-8003"]
    assert rule.sources_of(4) == ["10.0.0.0/8", "192.0.2.7/32"]  # 10.1.0.0/16 is in it
    assert rule.sources_of(6) == ["2001:db8::/32"]
    assert parsed(RULE)[0].protocol == "tcp"


@pytest.mark.parametrize(
    ("different", "words"),
    [
        ({"name": "Gateway"}, ["'Gateway'", "a-z"]),
        ({"name": "a-"}, ["'a-'"]),
        ({"name": "a" * 41}, ["1 to 40"]),
        ({"name": "gate way"}, ["'gate way'"]),
        ({"name": "deny-hubs"}, ["deny-hubs", "choose another"]),
        ({"name": "deny"}, ["choose another"]),
        ({"ports": []}, ["gateway", "ports", "at least one"]),
        ({"ports": 8427}, ["ports", "[8427]"]),
        ({"ports": [0]}, ["gateway", "port 0", "1 to 65535"]),
        ({"ports": [65536]}, ["port 65536"]),
        ({"ports": ["9000-8000"]}, ["'9000-8000'"]),
        ({"ports": ["http"]}, ["'http'"]),
        ({"ports": [True]}, ["True"]),
        ({"ports": [80, "70-90"]}, ["70-90 and 80 overlap"]),
        ({"protocol": "icmp"}, ["gateway", "'icmp'", "tcp, udp"]),
        ({"groups": []}, ["groups", "at least one"]),
        ({"groups": "hubs"}, ["groups", "list"]),
        ({"groups": ["hubz"]}, ["gateway", "hubz", "did you mean hubs?"]),
        ({"sources": None}, ["gateway", "sources", "empty one closes"]),
        ({"sources": "10.0.0.0/8"}, ["sources", "list"]),
        ({"sources": ["10.20.0.1/16"]}, ["gateway", "10.20.0.0/16 is the network", "10.20.0.1 the address"]),
        ({"sources": ["10.20.0.0/33"]}, ["'10.20.0.0/33'", "CIDR"]),
        ({"sources": ["office"]}, ["'office'", "CIDR"]),
        ({"sources": ["0.0.0.0/0"]}, ["gateway", "0.0.0.0/0 is everybody", "public: true"]),
        ({"sources": ["::/0"]}, ["::/0 is everybody"]),
        ({"sources": ["0.0.0.0/1", "128.0.0.0/1"]}, ["0.0.0.0/0 is everybody"]),
        ({"sources": ["0.0.0.0/0"], "public": "yes"}, ["public", "true or false"]),
        ({"port": 1}, ["port is nothing that a rule has", "did you mean ports?"]),
    ],
)
def test_what_is_wrong_with_a_rule_is_said(different, words):
    rules, problems = firewall.parse([{**RULE, **different}], GROUPS)
    assert rules == []
    for word in ("rule ", *words):
        assert any(word in problem for problem in problems), problems


def test_everything_that_is_wrong_is_said_at_once():
    wrong = [{**RULE, "ports": [0], "sources": ["x"]}, {**RULE, "name": "b", "protocol": "x"}, "c"]
    _, problems = firewall.parse(wrong, GROUPS)
    assert len(problems) == 4
    assert [problem.split(":")[0] for problem in problems] == ["rule gateway", "rule gateway", "rule b", "rule 3"]


def test_two_rules_of_one_name_are_refused():
    _, problems = firewall.parse([RULE, {**RULE, "groups": ["robots"]}, {**RULE, "ports": [0]}], GROUPS)
    assert any("rule gateway: 3 rules have this name" in problem for problem in problems)


@pytest.mark.parametrize("wrong", [None, "", {}, "gateway"])
def test_a_list_that_is_none_is_refused(wrong):
    assert firewall.parse(wrong)[1] == [
        "firewall_rules is no list: write each rule as an entry with a name, groups, ports and sources"
    ]


def test_everybody_may_be_let_in_where_it_is_said():
    (rule,) = parsed({**RULE, "sources": ["0.0.0.0/0", "::/0", "10.0.0.0/8"], "public": True})
    assert rule.sources_of(4) == ["0.0.0.0/0"]
    assert rule.sources_of(6) == ["::/0"]


def test_robots_and_hubs_are_groups_even_where_there_are_none():
    assert firewall.parse([RULE, {**RULE, "name": "b", "groups": ["robots", "all"]}], [])[1] == []


def test_a_machine_has_the_rules_of_its_groups():
    rules = parsed(RULE, {**RULE, "name": "b", "groups": ["hamburg"]}, {**RULE, "name": "c", "groups": ["all"]})
    assert [rule.name for rule in firewall.for_host(rules, ["robots", "hamburg"])] == ["b", "c"]
    assert [rule.name for rule in firewall.for_host(rules, ["hubs"])] == ["gateway", "c"]
    assert [rule.name for rule in firewall.for_host(rules, [])] == ["c"]


def test_who_may_reach_a_port_is_the_sum_of_its_rules():
    rules = parsed(
        RULE,
        {**RULE, "name": "b", "ports": ["8400-8430"], "sources": ["10.20.3.0/24", "2001:db8::1"]},
        {**RULE, "name": "c", "protocol": "udp", "sources": ["192.0.2.0/24"]},
    )
    assert firewall.allowed_from(rules, 8427) == ["10.20.0.0/16", "2001:db8::1/128"]
    assert firewall.allowed_from(rules, 8430) == ["10.20.3.0/24", "2001:db8::1/128"]
    assert firewall.allowed_from(rules, 8431) == []
    assert firewall.allowed_from(rules, 8427, "udp") == ["192.0.2.0/24"]


def test_the_filter_lets_nobody_in_by_a_rule_that_is_wrong():
    assert filters.allowed_from([RULE], ["hubs"], "8427") == ["10.20.0.0/16"]
    assert filters.allowed_from([RULE], ["robots"], 8427) == []
    assert filters.allowed_from([{**RULE, "sources": ["10.0.0.0/8", "x"]}], ["hubs"], 8427) == []
    assert filters.allowed_from([RULE], ["hubs"], "eighty") == []


def test_of_a_rule_for_other_services_only_that_is_read():
    """Its sources are most often templates."""

    class OfOthers(dict[str, Any]):
        def get(self, key: str, default: Any = None) -> Any:
            assert key == "ports"
            return super().get(key, default)

    others = OfOthers(RULE, ports=["vmauth", "vmalert"])
    ours = {**RULE, "groups": ["robots"], "ports": ["vmagent"]}
    wrong = [{**RULE, "ports": wrong} for wrong in (None, [], [["vmagent"]], [True])]
    assert filters.allowed_from([others, *wrong, ours, "x"], ["robots"], 8429, "vmagent") == RULE["sources"]
    assert (
        filters.allowed_from([{**ours, "ports": ["node_exporter", 8429]}], ["robots"], 8429, "vmagent")
        == RULE["sources"]
    )


@pytest.mark.parametrize(
    ("allow_from", "address"),
    [([], "127.0.0.1"), (["10.0.0.0/8"], "0.0.0.0"), (["10.0.0.0/8", "2001:db8::/32"], "[::]"), (["::1"], "[::]")],
)
def test_a_service_listens_for_those_whom_a_rule_lets_in(allow_from, address):
    assert firewall.listen_on(allow_from) == address


def listeners(allow_from: list[str], *rules: dict[str, Any]) -> list[str]:
    return firewall.listeners(
        parsed(*rules), {"vmauth_port": 8427, "vmauth_allow_from": allow_from, "x_allow_from": []}
    )


def test_a_service_that_listens_for_those_whom_no_rule_lets_in_is_refused():
    assert listeners(["10.20.3.0/24"], RULE) == []
    assert listeners([], {**RULE, "sources": []}) == []
    (nobody,) = listeners(["10.20.0.0/16"], {**RULE, "sources": []})
    for word in ("rule gateway", "nobody", "8427", "vmauth_allow_from", "operator_networks"):
        assert word in nobody
    (others,) = listeners(["10.20.0.0/16", "10.0.0.0/8", "2001:db8::/32"], RULE)
    assert "is 10.0.0.0/8, 2001:db8::/32" in others
    (no_rule,) = listeners(["10.20.0.0/16"], {**RULE, "ports": [8428]})
    assert "no rule of firewall_rules is for port 8427" in no_rule


def test_without_a_list_each_service_is_told_for_itself():
    assert listeners(["10.20.0.0/16"]) == []
    assert "10.20.0.1/16" in listeners(["10.20.0.1/16"])[0]


networks = st.ip_addresses().flatmap(
    lambda address: st.integers(1, address.max_prefixlen).map(
        lambda length: str(firewall.ipaddress.ip_network((address, length), strict=False))
    )
)


@given(st.lists(networks, max_size=8))
def test_collapsing_lets_in_whom_the_list_names_and_nobody_else(sources):
    (rule,) = parsed({**RULE, "sources": sources, "public": True})
    for source in map(firewall.ipaddress.ip_network, sources):
        assert any(firewall.within(source, one) for one in rule.sources)
    for one, other in zip(rule.sources, rule.sources[1:], strict=False):
        assert not one.overlaps(other) if one.version == other.version else True
    assert sum(one.num_addresses for one in rule.sources) <= sum(
        firewall.ipaddress.ip_network(source).num_addresses for source in sources
    )


def test_a_rule_that_leaves_the_list_does_not_open_a_port_of_ours():
    (rule, closing) = firewall.with_services(parsed(RULE), [9100, 8010])
    assert (rule.name, closing.sources) == ("gateway", ())
    assert list(map(str, closing.ports)) == ["8010", "9100"]
    assert firewall.with_services([], [8010]) == []
    assert firewall.with_services(parsed(RULE), []) == parsed(RULE)


def plays() -> dict[str, list[str]]:
    """The roles of site.yml, by the group that gets them."""
    listed = yaml.safe_load((ROOT / "playbooks/site.yml").read_text())
    return {
        play["hosts"]: [task["ansible.builtin.import_role"]["name"] for task in play["tasks"]]
        for play in listed
        if "tasks" in play
    }


def test_the_services_of_a_group_are_those_that_site_yml_puts_there():
    for group, roles in plays().items():
        assert firewall.SERVICES[group] == tuple(role for role in roles if f"{role}_port" in DEFAULTS[role])


def rules_of(group: str, **variables: object) -> list[firewall.Rule]:
    """The rules of group_vars on a machine of this group that has these variables."""
    templar = Templar(loader=DataLoader(), variables=variables)
    listed = DataLoader().load_from_file(str(ROOT / "group_vars/all/firewall.yml"), trusted_as_template=True)
    services = service_ports(variables, [group], templar.template)
    rules, problems = firewall.parse(templar.template(listed["firewall_rules"]), None, services)
    assert problems == []
    here = firewall.for_host(rules, [group])
    return firewall.with_services(here, [port for those in services.values() for port in those])


def ports_of(group: str, **variables: object) -> set[str]:
    return {str(port) for rule in rules_of(group, **variables)[:-1] for port in rule.ports}


def test_a_rule_follows_the_port_of_its_service():
    moved = {"sensor_service_port": 8010, "node_exporter_port": "9101"}
    moved |= {"victoriametrics_port": 1, "vmagent_port": 2, "vmalert_port": 3, "alertmanager_port": 4, "vmauth_port": 5}
    moved["sensor_service_instances"] = trust_as_template("{{ 3 }}")
    assert ports_of("robots", **moved) == {"1", "2", "8010", "8011", "8012", "9101"}
    assert ports_of("hubs", **moved) == {"1", "3", "4", "5", "9101"}
    closing = rules_of("robots", **moved)[-1]
    assert {str(port) for port in closing.ports} == ports_of("robots", **moved)


def test_a_port_that_no_service_of_the_machine_is_on_is_in_no_rule():
    assert ports_of("robots") == {"8000", "8428", "8429", "9100"}
    assert ports_of("hubs") == {"8427", "8428", "8880", "9093", "9100"}


def test_a_service_stands_for_its_ports_where_it_is():
    both = {**RULE, "groups": ["all"], "ports": ["sensor_service", 22]}
    (rule,), problems = firewall.parse([both], GROUPS, {"sensor_service": [8000, 8001]})
    assert (list(map(str, rule.ports)), problems) == (["22", "8000", "8001"], [])
    assert list(map(str, parsed(both)[0].ports)) == ["22"]
    assert parsed({**both, "ports": ["sensor_service"]}) == [], "of a machine without it there is nothing to say"
    _, (problem,) = firewall.parse([{**RULE, "ports": ["sensor"]}], GROUPS)
    assert "the name of a service (alertmanager, " in problem
    _, (problem,) = firewall.parse([{**RULE, "groups": ["robots"], "ports": ["vmauth"]}], GROUPS)
    assert "no machine in robots runs vmauth" in problem
    assert filters.allowed_from([both], ["robots"], 8010, "sensor_service") == RULE["sources"]
    assert filters.allowed_from([both], ["robots"], 8010, "vmagent") == []


def test_every_port_of_ours_is_in_the_list():
    """What is in no rule is open to whoever may reach the machine."""
    for group, roles in plays().items():
        here = [rule for rule in rules_of(group)[:-1] if rule.protocol == "tcp"]
        for role in roles:
            port = DEFAULTS[role].get(f"{role}_port")
            assert port is None or any(firewall._has(rule, port) for rule in here), f"{role} on {group}"
