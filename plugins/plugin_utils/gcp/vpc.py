"""What the list of rules is at GCP: VPC firewall rules, and the steps from those that are there to the wanted ones.

For each rule of the list there is one that allows, and for each group one that denies all ports of the group's rules to
everybody else. At GCP the one with the lower number of priority wins; without the second a rule of somebody else's
(`default-allow-internal` of every default network, 65534) would still let its sources in. IPv4 and IPv6 cannot be in
one rule there, so those for IPv6 are rules of their own.

The steps are made for `google.cloud.gcp_compute_firewall`, which does not see all differences: a list counts as equal
if what is wanted is among what is there, and what is missing on either side is not compared. Its own comparison is
asked here. What it would not see, or its PATCH not repair, is replaced: the new rule comes under a free name, then the
old one goes. A rule is ours if its name has our prefix, its description is ours, and it is in our network.
"""

from __future__ import annotations

import ast
import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple

from ansible_collections.google.cloud.plugins.module_utils.gcp_utils import GcpRequest  # type: ignore[import-untyped]
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.firewall.rules import (
    PROTOCOLS,
    RESERVED,
    Network,
    Ports,
    Rule,
    within,
)

Json = Dict[str, Any]

LINK = "https://www.googleapis.com/compute/v1/"
# cloud.google.com/compute/docs/naming-resources: names, and tags.
_NAME = re.compile(r"[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?")
# 63, less what a replacement has at its end: -2.
NAME_LENGTH = 61
# cloud.google.com/firewall/docs/quotas: source ranges of one rule.
SOURCES = 5000
# The default network's own rules: default-allow-internal lets 10.128.0.0/9 reach everything.
OF_THE_DEFAULT_NETWORK = 65534
_ACCOUNT = re.compile(r"[^@\s]+@[^@\s]+\.gserviceaccount\.com")

# What a rule is, as the API names it, in the order in which a diff shows it.
FIELDS = (
    "name",
    "description",
    "network",
    "direction",
    "priority",
    "disabled",
    "allowed",
    "denied",
    "sourceRanges",
    "sourceTags",
    "sourceServiceAccounts",
    "destinationRanges",
    "targetTags",
    "targetServiceAccounts",
    "logConfig",
)
_OPTIONS = {
    "description": "description",
    "direction": "direction",
    "priority": "priority",
    "disabled": "disabled",
    "sourceRanges": "source_ranges",
    "targetTags": "target_tags",
    "targetServiceAccounts": "target_service_accounts",
    "logConfig": "log_config",
}


@dataclass(frozen=True)
class Settings:
    """The role's variables, without gcp_firewall_ in front."""

    project: str
    network: str
    prefix: str
    targets: Mapping[str, str]
    priority: int
    deny_priority: int
    logging: bool
    logging_metadata: str

    @property
    def network_link(self) -> str:
        return "{}projects/{}/global/networks/{}".format(LINK, self.project, self.network)


@dataclass(frozen=True)
class Step:
    """One call of the module."""

    action: str  # create, update or delete
    name: str
    what: str  # for the operator
    rule: Json

    def arguments(self) -> Json:
        """The module's options, without those that say who asks."""
        if self.action == "delete":
            return {"name": self.name, "state": "absent"}
        options: Json = {option: self.rule[field] for field, option in _OPTIONS.items() if field in self.rule}
        for kind in ("allowed", "denied"):
            if kind in self.rule:
                options[kind] = [{"ip_protocol": one["IPProtocol"], "ports": one["ports"]} for one in self.rule[kind]]
        network = {"selfLink": self.rule["network"]}
        return {"name": self.name, "state": "present", "network": network, **options}


@dataclass(frozen=True)
class Change:
    """What becomes of a rule, for the diff: nothing before is a new one, nothing after one that goes."""

    before: Json
    after: Json


@dataclass(frozen=True)
class Plan:
    steps: List[Step]
    changes: List[Change]
    problems: List[str]


# --- what is wanted -------------------------------------------------------------------------------------------


def check(settings: Settings) -> List[str]:
    """What is wrong with the role's variables, a line each."""
    problems = []
    if not settings.project:
        problems.append("gcp_firewall_project is empty: set gcp_project to the ID of the project whose firewall it is")
    for name, value in (("network", settings.network), ("prefix", settings.prefix)):
        if not _NAME.fullmatch(value):
            problems.append(
                "gcp_firewall_{} is {!r}: use a-z, 0-9 and -, a letter first and no - at the end".format(name, value)
            )
    # The module leaves a 0 out, and the API takes its default instead.
    if not 1 <= settings.priority < settings.deny_priority < OF_THE_DEFAULT_NETWORK:
        problems.append(
            "gcp_firewall_priority is {} and gcp_firewall_deny_priority {}: the lower number wins, so the first must "
            "be 1 or more and less than the second, and the second less than {}, which the rules of a default network "
            "have".format(settings.priority, settings.deny_priority, OF_THE_DEFAULT_NETWORK)
        )
    for group, target in settings.targets.items():
        if not _NAME.fullmatch(target) and not _ACCOUNT.fullmatch(target):
            problems.append(
                "gcp_firewall_targets.{} is {!r}: name a network tag such as roverwatch-robot, or a service account "
                "such as robot@project.iam.gserviceaccount.com".format(group, target)
            )
    return problems


def render(rules: Sequence[Rule], settings: Settings) -> Tuple[List[Json], List[str]]:
    """The rules that shall be at GCP, and a line for everything that cannot be one, with the rule's name in it."""
    wanted: Dict[str, Json] = {}
    origins: Dict[str, str] = {}
    problems: List[str] = []
    closed: Dict[str, List[Rule]] = {}

    def add(origin: str, key: str, made: Json) -> None:
        name = made["name"]
        if not _NAME.fullmatch(name) or len(name) > NAME_LENGTH:
            problems.append(
                "{}: at GCP it would be {}, which has {} characters; {} of a-z, 0-9 and - are the most (a replacement "
                "needs two more): choose a shorter name, or a shorter gcp_firewall_prefix".format(
                    origin, name, len(name), NAME_LENGTH
                )
            )
        elif key in wanted:
            problems.append(
                "{}: at GCP it would be {}, and so would {}: choose another name".format(origin, name, origins[key])
            )
        else:
            wanted[key], origins[key] = made, origin

    for rule in rules:
        origin = "rule {}".format(rule.name)
        groups = sorted({*rule.groups, *settings.targets} - {"all"}) if "all" in rule.groups else sorted(rule.groups)
        missing = [group for group in groups if not settings.targets.get(group)]
        problems += [
            "{}: gcp_firewall_targets has no target for the group {}, and a rule without one would be for every VM of "
            "the network: add it".format(origin, group)
            for group in missing or ([] if groups else ["all"])
        ]
        targets = sorted({settings.targets[group] for group in groups if group not in missing})
        if len({"@" in target for target in targets}) > 1:
            problems.append(
                "{}: its groups {} have tags and service accounts in gcp_firewall_targets, which GCP does not take in "
                "one rule: write a rule for each, or have one kind of target".format(origin, ", ".join(groups))
            )
        for group in groups:
            closed.setdefault(group, []).append(rule)
        for version, suffix in ((4, ""), (6, "-ipv6")):
            sources = rule.sources_of(version)
            if len(sources) > SOURCES:
                problems.append(
                    "{}: it has {} sources of IPv{}, and GCP takes {} in a rule: write two".format(
                        origin, len(sources), version, SOURCES
                    )
                )
            if sources:
                allowed = {"allowed": _entries([rule])}
                add(origin, rule.name + suffix, _made(settings, rule.name + suffix, allowed, sources, targets))
    for group, its in sorted(closed.items()):
        if not settings.targets.get(group):
            continue
        for source, suffix in (("0.0.0.0/0", ""), ("::/0", "-ipv6")):
            # Groups may have _ in their names, GCP's rules may not.
            key = "{}-{}{}".format(RESERVED, group.lower().replace("_", "-"), suffix)
            made = _made(settings, key, {"denied": _entries(its)}, [source], [settings.targets[group]])
            add("group {}, which a rule closes ports of".format(group), key, made)
    return list(wanted.values()), problems


def _made(settings: Settings, key: str, ports: Json, sources: Sequence[str], targets: Sequence[str]) -> Json:
    """A rule as the API has it; `ports` is what it allows, or denies."""
    accounts = any("@" in target for target in targets)
    logging: Json = {"enable": settings.logging}
    if settings.logging:
        logging["metadata"] = settings.logging_metadata
    return {
        "name": "{}-{}".format(settings.prefix, key),
        "description": description(settings.prefix, key),
        "network": settings.network_link,
        "direction": "INGRESS",
        "priority": settings.priority if "allowed" in ports else settings.deny_priority,
        "disabled": False,
        **ports,
        "sourceRanges": list(sources),
        "targetServiceAccounts" if accounts else "targetTags": list(targets),
        "logConfig": logging,
    }


def _entries(rules: Sequence[Rule]) -> List[Json]:
    """The ports of all the rules, by protocol."""
    found = {
        name: _joined(port for rule in rules if rule.protocol == name for port in rule.ports) for name in PROTOCOLS
    }
    return [{"IPProtocol": name, "ports": list(map(str, ports))} for name, ports in found.items() if ports]


def _joined(ports: Iterable[Ports]) -> List[Ports]:
    """Each port once, and neighbours in one range."""
    joined: List[Ports] = []
    for one in sorted(ports):
        if joined and one.first <= joined[-1].last + 1:
            joined[-1] = Ports(joined[-1].first, max(joined[-1].last, one.last))
        else:
            joined.append(one)
    return joined


# --- whose a rule is ------------------------------------------------------------------------------------------


def description(prefix: str, key: str) -> str:
    """What marks a rule as ours: nobody writes this by chance."""
    return "Made by Roverwatch of its list firewall_rules (prefix {}, rule {}). Changes by hand are undone.".format(
        prefix, key
    )


def ours(rule: Mapping[str, Any], settings: Settings) -> Optional[str]:
    """Which of our rules it is, without the prefix; None is somebody else's."""
    key = re.search(r", rule ([a-z0-9-]+)\)", rule.get("description", ""))
    right = (
        key
        and rule["name"].startswith(settings.prefix + "-")
        and rule["description"] == description(settings.prefix, key[1])
        and _place(rule["network"]) == _place(settings.network_link)
    )
    return key[1] if key and right else None


def _place(link: str) -> str:
    """A network without the host of its link, which the API writes in more than one way."""
    return "projects/" + link.rpartition("projects/")[2]


# --- the way there --------------------------------------------------------------------------------------------


def plan(existing: Sequence[Json], wanted: Sequence[Json], settings: Settings) -> Plan:
    """The steps, in an order that shuts out nobody who is wanted before it and after it, and what cannot be done."""
    mine: Dict[str, List[Json]] = {}
    for rule in existing:
        key = ours(rule, settings)
        if key:
            mine.setdefault(key, []).append(rule)
    foreign = {rule["name"]: rule for rule in existing if not ours(rule, settings)}
    taken = {rule["name"] for rule in existing} | {rule["name"] for rule in wanted}

    creates: List[Change] = []
    updates: List[Change] = []
    removed: List[Json] = []
    problems: List[str] = []

    def create(want: Json, instead_of: Sequence[Json]) -> None:
        name = want["name"]
        if name in foreign and not instead_of:
            problems.append(_not_ours(foreign[name], settings))
        if any(rule["name"] == name for rule in existing):
            name = next(free for free in _names(name) if free not in taken)
        taken.add(name)
        creates.append(Change(instead_of[0] if instead_of else {}, {**want, "name": name}))

    for want in wanted:
        have = mine.pop(want["name"][len(settings.prefix) + 1 :], [])
        same = [rule for rule in have if normal(rule) == normal(want)]
        near = [rule for rule in have if repaired_in_place(rule, want) and _one_way(rule, want)]
        kept = (same or near)[:1]
        removed += [rule for rule in have if rule not in kept]
        if near and not same:
            updates.append(Change(near[0], {**want, "name": near[0]["name"]}))
        elif not kept:
            create(want, have)
    removed += [rule for left in mine.values() for rule in left]
    replaced = [change.before["name"] for change in creates if change.before]
    changes = creates + updates + [Change(rule, {}) for rule in removed if rule["name"] not in replaced]
    return Plan(list(_ordered(creates, updates, removed)), changes, problems)


def _ordered(creates: Sequence[Change], updates: Sequence[Change], removed: Sequence[Json]) -> Iterator[Step]:
    """Whoever is to be let in is, before anything closes; what was closed and is not to be is open, before that too."""
    narrowing = [change for change in updates if not covers(change.after, change.before)]
    for kind in ("allowed", "denied"):
        yield from (_create(change) for change in creates if kind in change.after)
        yield from (_update(change) for change in updates if kind in change.after and change not in narrowing)
    for kind in ("denied", "allowed"):
        yield from (_update(change) for change in narrowing if kind in change.after)
        yield from (_delete(rule) for rule in removed if kind in rule)


def _create(change: Change) -> Step:
    name, before = change.after["name"], change.before.get("name")
    return Step("create", name, "create {}{}".format(name, " instead of " + before if before else ""), change.after)


def _update(change: Change) -> Step:
    name, before, after = change.after["name"], normal(change.before), normal(change.after)
    fields = ", ".join(field for field in FIELDS if before.get(field) != after.get(field))
    return Step("update", name, "update {} ({})".format(name, fields), change.after)


def _delete(rule: Json) -> Step:
    return Step("delete", rule["name"], "delete {}".format(rule["name"]), {})


def _one_way(before: Json, after: Json) -> bool:
    """Whether a rule is for more than before, or for less. What is both has no right place among the other steps."""
    return covers(after, before) or covers(before, after)


def _names(name: str) -> Iterator[str]:
    """A rule's own name, and those that its replacements have."""
    yield name
    for number in range(2, 1000):
        yield "{}-{}".format(name, number)


def _not_ours(rule: Mapping[str, Any], settings: Settings) -> str:
    where = _place(rule["network"])
    why = "is in {}, not in {}".format(where, _place(settings.network_link))
    if where == _place(settings.network_link):
        why = "has the description {!r}, so it is not Roverwatch's".format(rule.get("description", ""))
    return (
        "rule {name}: the project {project} has one of this name, which {why}. It is left as it is; delete it if "
        "nobody needs it (gcloud compute firewall-rules delete {name} --project {project}), or set another "
        "gcp_firewall_prefix".format(name=rule["name"], project=settings.project, why=why)
    )


# --- comparing ------------------------------------------------------------------------------------------------


def normal(rule: Mapping[str, Any]) -> Json:
    """A rule without its name, and without what means nothing: order, ways to write a network or port, empty lists."""
    found: Json = {}
    for field in FIELDS[1:]:
        value = rule.get(field)
        if field in ("allowed", "denied") and value:
            found[field] = {name: list(map(str, its)) for name, its in _ports(rule, field).items()}
        elif field.endswith("Ranges") and value:
            found[field] = [str(network) for network in _networks(value)]
        elif field == "network":
            found[field] = _place(rule["network"])
        elif field == "logConfig":
            found[field] = value if value and value.get("enable") else {"enable": False}
        elif isinstance(value, list) and value:
            found[field] = sorted(value)
        elif value not in (None, [], ""):
            found[field] = value
    return found


def repaired_in_place(before: Json, after: Json) -> bool:
    """Whether the module sees that a rule differs, and what it sends makes the one of the other.

    It sends all that is not empty, and lists are replaced: what shall be empty stays. That is so for EGRESS, too, which
    cannot be changed: such a rule has destinations.
    """
    request = {**after, "name": before["name"]}
    # As the module does, in is_different(): its own comparison, of the keys that it sends.
    seen: bool = GcpRequest(request) != GcpRequest({key: before.get(key) for key in request})
    stays = [field for field in FIELDS if before.get(field) and field not in after]
    return seen and not stays


def covers(one: Json, other: Json) -> bool:
    """Whether a rule lets in (or keeps out) all that another one does."""
    if other.get("disabled") or one.get("disabled"):
        return bool(other.get("disabled"))
    wide, narrow = _ports(one), _ports(other)
    return (
        (not _targets(one) or (bool(_targets(other)) and _targets(other) <= _targets(one)))
        and all(
            any(big.first <= port.first and port.last <= big.last for big in wide.get(name, []))
            for name, ports in narrow.items()
            for port in ports
        )
        and all(
            any(within(source, big) for big in _networks(one["sourceRanges"]))
            for source in _networks(other["sourceRanges"])
        )
    )


def _targets(rule: Mapping[str, Any]) -> set[str]:
    """None is every VM of the network."""
    return {*rule.get("targetTags", []), *rule.get("targetServiceAccounts", [])}


def _ports(rule: Mapping[str, Any], field: str = "") -> Dict[str, List[Ports]]:
    """By protocol; an entry without ports is for all of them."""
    found: Dict[str, List[Ports]] = {}
    for entry in rule[field or ("allowed" if "allowed" in rule else "denied")]:
        ports = [Ports(int(one.split("-")[0]), int(one.split("-")[-1])) for one in entry.get("ports", ["0-65535"])]
        found[entry["IPProtocol"]] = _joined(found.get(entry["IPProtocol"], []) + ports)
    return found


def _networks(ranges: Iterable[str]) -> List[Network]:
    """Sorted, and each once."""
    found = {ipaddress.ip_network(one) for one in ranges}
    return sorted(found, key=lambda network: (network.version, int(network.network_address), network.prefixlen))


# --- what went wrong ------------------------------------------------------------------------------------------

# What is worth another try, in what the modules say: too many requests, a fault of the API's or of a proxy's (which
# does not answer JSON), no connection. They look for `message` in an exception that has none: its kind is all they say.
BUSY = (
    r"'code': (?:429|5\d\d)\b|'reason': '(?:userR|r)ateLimitExceeded'|Invalid JSON response"
    r"|'(?!SSLError)\w+' object has no attribute 'message'"
)

# What is found in an error (of the API, `status message`; else what the module says), and what it means.
_MEANINGS = (
    (
        r"^403 (?P<said>Required '(?P<permission>[\w.]+)' permission.*)",
        "{said}. Whoever asks (gcp_firewall_auth_kind is {auth_kind}) lacks {permission} in the project {project}: "
        "give them roles/compute.securityAdmin, with gcloud projects add-iam-policy-binding {project} --role "
        "roles/compute.securityAdmin --member ...",
    ),
    (r"^404 (?P<said>.*/networks/.*)", "{said}. Set gcp_firewall_network to a network of the project {project}"),
    (r"^409 (?P<said>.*)", "{said}. Somebody else made it meanwhile: look at it, then run this again"),
    (r"^(?:429|5\d\d) (?P<said>.*)", "{said}. GCP stayed like this: run it again later, or set gcp_firewall_retries"),
    (r"^[0-9]{3} (?P<said>.*)", "{said}"),
    # The list is not there, which the module takes for an answer.
    (
        r"'NoneType' object has no attribute 'get'",
        "GCP has no project {project}, or not for whoever asks: gcp_firewall_project is the project's ID, not its name",
    ),
    (
        r"'(?P<said>\w+)' object has no attribute 'message'",
        "GCP's API cannot be reached from this machine ({said}): look at the way to https://compute.googleapis.com, "
        "and at HTTPS_PROXY and REQUESTS_CA_BUNDLE if a proxy is between",
    ),
    (
        r"do not contain the necessary fields need to refresh",
        "GCP does not take gcp_firewall_access_token: it has expired (a token lasts an hour), or is none",
    ),
    (
        r"default credentials were not found",
        "nobody is logged in to GCP on this machine: run gcloud auth application-default login, or set "
        "gcp_firewall_auth_kind and what belongs to it",
    ),
)


def explain(said: str, settings: Settings, auth_kind: str) -> str:
    """What a module's error means to an operator, and the remedy."""
    error = _api_error(said)
    text = "{} {}".format(error["code"], error["message"].rstrip(".")) if error else said
    for pattern, meaning in _MEANINGS:
        found = re.search(pattern, text, re.DOTALL)
        if found:
            return meaning.format(project=settings.project, auth_kind=auth_kind, **found.groupdict())
    return text


def _api_error(said: str) -> Json:
    """The error of the API in what a module says, which is Python's way to write it; {} if it says something else."""
    found = re.search(r"GCP returned error: (\{.*\})", said, re.DOTALL)
    try:
        error: Json = ast.literal_eval(found[1])["error"] if found else {}
    except (ValueError, SyntaxError, KeyError, TypeError):
        return {}
    return error
