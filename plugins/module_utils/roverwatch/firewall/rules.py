"""Who may reach which port: the one list of rules, and what it is for a machine.

A rule lets its sources reach its ports on the machines of its groups. A port that is in any rule of a machine is closed
to everybody else, but the machine itself. A rule without sources therefore closes its ports; a port in no rule is left
as it is.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from dataclasses import dataclass
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple, Union

Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]

PROTOCOLS = ("tcp", "udp")
# What site.yml puts on the machines of a group, by the roles' names; a test compares them. As a port in a rule, such a
# name is where the service listens on that machine.
SERVICES = {
    "robots": ("sensor_service", "node_exporter", "victoriametrics", "vmagent"),
    "hubs": ("node_exporter", "victoriametrics", "alertmanager", "vmalert", "vmauth"),
}
_SERVICES = frozenset(name for names in SERVICES.values() for name in names)
# The name becomes a part of a name at GCP, which has 63 characters (RFC 1035), and of nftables' counters.
_NAME = re.compile(r"[a-z](?:[a-z0-9-]{0,38}[a-z0-9])?")
# What the rules that close a port are called at GCP.
RESERVED = "deny"
_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", re.ASCII)
_KEYS = ("name", "groups", "ports", "protocol", "sources", "public")


@dataclass(frozen=True, order=True)
class Ports:
    """A range of ports, both ends included."""

    first: int
    last: int

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else "{}-{}".format(self.first, self.last)

    def __contains__(self, port: int) -> bool:
        return self.first <= port <= self.last


@dataclass(frozen=True)
class Rule:
    """Sources that may reach ports on the machines of some inventory groups."""

    name: str
    groups: Tuple[str, ...]
    ports: Tuple[Ports, ...]
    protocol: str
    sources: Tuple[Network, ...]

    def sources_of(self, version: int) -> List[str]:
        """The sources of one IP version, 4 or 6, as CIDR."""
        return [str(source) for source in self.sources if source.version == version]


def parse(
    listed: object, groups: Optional[Iterable[str]] = None, services: Optional[Mapping[str, Sequence[int]]] = None
) -> Tuple[List[Rule], List[str]]:
    """The rules that are right, and a line for everything that is wrong, with the rule's name in it.

    `groups` are those of the inventory: a rule for another one would never apply. None leaves that out. `services` are
    the ports of each service; of one that is not among them a rule has none.
    """
    if not isinstance(listed, (list, tuple)):
        return [], ["firewall_rules is no list: write each rule as an entry with a name, groups, ports and sources"]
    known = None if groups is None else {"all", "robots", "hubs", *groups}
    rules: List[Rule] = []
    problems: List[str] = []
    names: Dict[str, int] = {}
    for number, entry in enumerate(listed, 1):
        rule, wrong = _parse_rule(entry, number, known, services or {})
        problems += wrong
        if rule:
            rules.append(rule)
        if isinstance(entry, Mapping) and isinstance(entry.get("name"), str):
            names[entry["name"]] = names.get(entry["name"], 0) + 1
    problems += [
        "rule {}: {} rules have this name: give each its own".format(name, count)
        for name, count in names.items()
        if count > 1
    ]
    return rules, problems


def maybe_for(listed: object, service: str) -> object:
    """The entries of a list that can have to do with a service: those that name it, or a port.

    Each value of the others that is not looked at is a template that Ansible need not compute, for each machine anew.
    """
    if not isinstance(listed, (list, tuple)):
        return listed
    others = _SERVICES - {service}

    def has_only_others(ports: object) -> bool:
        return isinstance(ports, (list, tuple)) and all(isinstance(item, str) and item in others for item in ports)

    return [entry for entry in listed if isinstance(entry, Mapping) and not has_only_others(entry.get("ports"))]


def _parse_rule(
    entry: object, number: int, known: Optional[Iterable[str]], services: Mapping[str, Sequence[int]]
) -> Tuple[Optional[Rule], List[str]]:
    if not isinstance(entry, Mapping):
        return None, ["rule {}: {!r} is no rule: write a name, groups, ports and sources".format(number, entry)]
    name, problems = entry.get("name"), []
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        problems.append(
            "name {!r} is none: use 1 to 40 of a-z, 0-9 and -, a letter first and no - at the end".format(name)
        )
    elif name == RESERVED or name.startswith(RESERVED + "-"):
        problems.append(
            "names that start with {} belong to the rules that close ports: choose another".format(RESERVED)
        )
    for key in sorted(set(map(str, entry)) - set(_KEYS)):
        close = difflib.get_close_matches(key, _KEYS, 1)
        problems.append(
            "{} is nothing that a rule has{}".format(key, ": did you mean {}?".format(*close) if close else "")
        )
    groups = _texts(entry, "groups", problems)
    for group in groups:
        if known is not None and group not in known:
            close = difflib.get_close_matches(group, known, 1)
            problems.append(
                "the inventory has no group {}, so nothing would come of it{}".format(
                    group, ": did you mean {}?".format(*close) if close else ""
                )
            )
    protocol = entry.get("protocol", "tcp")
    if protocol not in PROTOCOLS:
        problems.append("protocol {!r} is none of {}".format(protocol, ", ".join(PROTOCOLS)))
    ports = _ports(entry.get("ports"), services, problems)
    if groups and set(groups) <= set(SERVICES):  # a machine of another group may be in these as well
        elsewhere = sorted(_SERVICES.difference(*(SERVICES[group] for group in groups)))
        problems += [
            "no machine in {} runs {}: name the group that does, or the port".format(" and ".join(groups), service)
            for service in elsewhere
            if isinstance(entry.get("ports"), (list, tuple)) and service in entry["ports"]
        ]
    public = entry.get("public", False)
    if not isinstance(public, bool):
        problems.append("public is {!r}: write true or false".format(public))
    sources = _sources(entry.get("sources"), problems)
    if public is not True:
        problems += _open_to_all(sources)
    if problems:
        return None, ["rule {}: {}".format(name or number, problem) for problem in problems]
    if not ports:
        return None, []  # all of it is for services that are not on this machine
    return Rule(str(name), tuple(groups), tuple(ports), str(protocol), tuple(sources)), []


def _texts(entry: Mapping[str, Any], key: str, problems: List[str]) -> List[str]:
    value = entry.get(key)
    if not isinstance(value, (list, tuple)) or not value or not all(isinstance(item, str) for item in value):
        problems.append("{} is {!r}: name at least one, as a list".format(key, value))
        return []
    return list(value)


def _ports(value: object, services: Mapping[str, Sequence[int]], problems: List[str]) -> List[Ports]:
    if not isinstance(value, (list, tuple)) or not value:
        problems.append("ports is {!r}: name at least one, as a list such as [8427] or ['8000-8003']".format(value))
        return []
    found = []
    for item in value:
        if isinstance(item, str) and item in _SERVICES:
            found += [Ports(port, port) for port in services.get(str(item), ())]
            continue
        match = None if isinstance(item, bool) else _PORTS.fullmatch(str(item))
        first = int(match[1]) if match else 0
        last = int(match[2] or first) if match else 0
        if 1 <= first <= last <= 65535:
            found.append(Ports(first, last))
        else:
            problems.append(
                "port {!r} is out of range: a port is 1 to 65535, a range is written '8000-8003', and the name of a "
                "service ({}) stands for its own".format(item, ", ".join(sorted(_SERVICES)))
            )
    found.sort()
    for one, other in zip(found, found[1:]):
        if other.first <= one.last:
            problems.append("ports {} and {} overlap: name each port once".format(one, other))
    return found


def _sources(value: object, problems: List[str]) -> List[Network]:
    if not isinstance(value, (list, tuple)):
        problems.append("sources is {!r}: write a list of networks; an empty one closes the ports".format(value))
        return []
    found: List[Network] = []
    for item in value:
        try:
            found.append(ipaddress.ip_network(str(item)))
        except ValueError:
            problems.append("source {!r} is no network{}".format(item, _meant(str(item))))
    four = ipaddress.collapse_addresses(source for source in found if source.version == 4)
    six = ipaddress.collapse_addresses(source for source in found if source.version == 6)
    return [*four, *six]


def _meant(text: str) -> str:
    try:
        return ": it has host bits, {} is the network, {} the address".format(
            ipaddress.ip_network(text, strict=False), text.split("/", maxsplit=1)[0]
        )
    except ValueError:
        return ": write CIDR such as 10.20.0.0/16 or 2001:db8::/32, or an address"


def _open_to_all(sources: Sequence[Network]) -> List[str]:
    return [
        "{} is everybody: name who is meant, or mark the rule with public: true".format(source)
        for source in sources
        if source.prefixlen == 0
    ]


def for_host(rules: Iterable[Rule], group_names: Iterable[str]) -> List[Rule]:
    """The rules of a machine that is in these groups."""
    here = {"all", *group_names}
    return [rule for rule in rules if here.intersection(rule.groups)]


def with_services(rules: Sequence[Rule], service_ports: Iterable[int]) -> List[Rule]:
    """A machine's rules, and after them one that closes its services' ports: a rule that leaves the list must not open
    one. A port that no service of ours is on is not ours to close.
    """
    ports = tuple(Ports(port, port) for port in sorted(set(service_ports)))
    return [*rules, Rule(RESERVED + "-services", ("all",), ports, "tcp", ())] if rules and ports else [*rules]


def allowed_from(rules: Iterable[Rule], port: int, protocol: str = "tcp") -> List[str]:
    """Who may reach a port of a machine, as CIDR; `rules` are the machine's. Networks within others are left out."""
    found = [source for rule in rules if rule.protocol == protocol and _has(rule, port) for source in rule.sources]
    return list(map(str, _sources(found, [])))


def _has(rule: Rule, port: int) -> bool:
    return any(port in ports for ports in rule.ports)


def listeners(rules: Sequence[Rule], values: Mapping[str, Any]) -> List[str]:
    """Services that listen for networks that no rule lets in: their operator would look for the fault elsewhere.

    `values` are the roles' variables on a machine whose rules these are; `<role>_allow_from` is for whom a service
    listens on `<role>_port`.
    """
    problems = []
    for name in sorted(name for name in values if name.endswith("_allow_from")):
        port = str(values.get(name[: -len("allow_from")] + "port"))
        if not port.isdigit() or not values[name]:
            continue  # that a port is none is said with its role
        wrong: List[str] = []
        wanted = _sources(values[name], wrong)
        problems += ["{}: {}".format(name, problem) for problem in wrong]
        if not rules:
            continue  # an inventory without the list: systemd keeps the others out
        of_port = [rule.name for rule in rules if rule.protocol == "tcp" and _has(rule, int(port))]
        allowed = _sources(allowed_from(rules, int(port)), [])
        missing = [str(one) for one in wanted if not any(within(one, other) for other in allowed)]
        if missing and of_port:
            problems.append(
                "rule {}: it lets {} reach port {}, but {} is {}, so something listens for them in vain: name them in "
                "the rule's sources (operator_networks, robot_networks), and leave {} to follow".format(
                    of_port[0], " and ".join(map(str, allowed)) or "nobody", port, name, ", ".join(missing), name
                )
            )
        elif missing:
            problems.append(
                "{} is {}, and no rule of firewall_rules is for port {}: add one, and leave {} to follow".format(
                    name, ", ".join(missing), port, name
                )
            )
    return problems


def within(network: Network, other: Network) -> bool:
    """Whether all of a network is in another one."""
    return network.version == other.version and network.subnet_of(other)  # type: ignore[arg-type]


def listen_on(allow_from: Sequence[str]) -> str:
    """The address that a service listens on, for a port to follow: its own, IPv4's all, or all of both versions."""
    if not allow_from:
        return "127.0.0.1"
    return "[::]" if any(":" in source for source in allow_from) else "0.0.0.0"  # noqa: S104 (meant)
