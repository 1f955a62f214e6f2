"""VPC firewall rules, and as much of networks as rules need: refused where the API refuses them.

What is checked is what these say: the API's reference (cloud.google.com/compute/docs/reference/rest/v1/firewalls), and
the page on VPC firewall rules (cloud.google.com/firewall/docs/firewalls). A constant below may name another page.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Any

from compute_api.resources import (
    NAME,
    Api,
    ApiError,
    Collection,
    Json,
    Where,
    invalid,
    link,
    merged,
    not_found,
    path_of,
)

# cloud.google.com/firewall/docs/quotas, limits per rule: source (and destination) IP address ranges.
RANGES = 5000
# cloud.google.com/vpc/docs/quota, limits per firewall rule.
COUNTS = {"sourceTags": 30, "targetTags": 70, "sourceServiceAccounts": 10, "targetServiceAccounts": 10}
# The reference of `priority` and of `description`.
PRIORITY = 65535
DESCRIPTION = 2048

PROTOCOLS = ("tcp", "udp", "icmp", "esp", "ah", "sctp", "ipip", "all")
# "This field is only applicable for the UDP, TCP or SCTP protocol" (reference of allowed[].ports).
WITH_PORTS = ("tcp", "udp", "sctp", "6", "17", "132")
METADATA = ("EXCLUDE_ALL_METADATA", "INCLUDE_ALL_METADATA")
FIELDS = {
    "kind",
    "id",
    "creationTimestamp",
    "selfLink",
    "name",
    "description",
    "network",
    "priority",
    "sourceRanges",
    "destinationRanges",
    "sourceTags",
    "targetTags",
    "sourceServiceAccounts",
    "targetServiceAccounts",
    "allowed",
    "denied",
    "direction",
    "logConfig",
    "disabled",
}


def collections(api: Api) -> list[Collection]:
    return [Firewalls(api), Networks(api)]


class Networks(Collection):
    """Only those that a test puts there: `api.put("projects/demo/global/networks/default", {})` is done already."""

    name = "networks"
    kind = "compute#network"

    def insert(self, where: Where, body: Json) -> Json:
        raise ApiError(400, "The fake makes no networks: use api.put()")


class Firewalls(Collection):
    name = "firewalls"
    kind = "compute#firewall"

    def insert(self, where: Where, body: Json) -> Json:
        return self._checked(where, body)

    def patch(self, where: Where, current: Json, body: Json) -> Json:
        for fixed in ("name", "direction"):
            if fixed in body and body[fixed] != current[fixed]:
                raise invalid(f"resource.{fixed}", body[fixed], f"The {fixed} of a firewall rule cannot be changed.")
        if "network" in body and path_of(body["network"]) != path_of(current["network"]):
            raise invalid("resource.network", body["network"], "The network of a firewall rule cannot be changed.")
        return self._checked(where, merged(current, body))

    def checked_permissions(self, where: Where, action: str, name: str) -> Iterator[tuple[str, str]]:
        yield from super().checked_permissions(where, action, name)
        if action in ("create", "update", "delete"):
            yield "compute.networks.updatePolicy", f"projects/{where.project}/global/networks/default"

    def _checked(self, where: Where, rule: Json) -> Json:
        for unknown in sorted(set(rule) - FIELDS):
            raise ApiError(
                400, f"Invalid JSON payload received. Unknown name \"{unknown}\" at 'resource': Cannot find field."
            )
        rule = {name: value for name, value in rule.items() if value not in (None, [], "")}
        if len(rule.get("description", "")) > DESCRIPTION:
            raise invalid("resource.description", rule["description"], f"Must be at most {DESCRIPTION} characters.")
        rule["network"] = self._network(where, rule.get("network", "global/networks/default"))
        rule.setdefault("direction", "INGRESS")
        if rule["direction"] not in ("INGRESS", "EGRESS"):
            raise invalid("resource.direction", rule["direction"], "Must be INGRESS or EGRESS.")
        rule.setdefault("priority", 1000)
        rule.setdefault("disabled", False)
        number = rule["priority"]
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= PRIORITY:
            raise invalid("resource.priority", number, f"Must be between 0 and {PRIORITY}.")
        rule["logConfig"] = _logging(rule.get("logConfig", {}))
        if ("allowed" in rule) == ("denied" in rule):
            raise ApiError(400, "Exactly one of resource.allowed and resource.denied must be specified.")
        kind = "allowed" if "allowed" in rule else "denied"
        for number, entry in enumerate(rule[kind]):
            _check_ports(f"resource.{kind}[{number}]", entry)
        self._check_ends(rule)
        return rule

    def _network(self, where: Where, given: object) -> str:
        """The network's whole link, from a full or a partial one."""
        match = re.fullmatch(
            rf"(?:(?:https://(?:www|compute)\.googleapis\.com/compute/v1/)?projects/([a-z0-9:.-]+)/)?global/networks/({NAME})",
            str(given),
        )
        if not match:
            raise invalid("resource.network", given, "The URL is malformed.")
        path = f"projects/{match[1] or where.project}/global/networks/{match[2]}"
        if path not in self.api.store:
            raise not_found(path)
        return link(path)

    def _check_ends(self, rule: Json) -> None:
        sources = ("sourceRanges", "sourceTags", "sourceServiceAccounts")
        if rule["direction"] == "INGRESS" and not set(sources) & set(rule):
            rule["sourceRanges"] = ["0.0.0.0/0"]
        if rule["direction"] == "EGRESS":
            for name in sorted(set(sources) & set(rule)):
                raise invalid(f"resource.{name}", rule[name], "Not supported for EGRESS.")
            rule.setdefault("destinationRanges", ["0.0.0.0/0"])
        _check_ranges(rule, "sourceRanges")
        _check_ranges(rule, "destinationRanges")
        tags = {"sourceTags", "targetTags"} & set(rule)
        accounts = {"sourceServiceAccounts", "targetServiceAccounts"} & set(rule)
        if tags and accounts:
            raise ApiError(400, "Firewall rules cannot have both tags and service accounts.")
        for name in tags:
            for number, tag in enumerate(rule[name]):
                if not re.fullmatch(NAME, str(tag)):
                    raise invalid(f"resource.{name}[{number}]", tag, f"Must be a match of regex '{NAME}'")
        for name in accounts:
            for number, account in enumerate(rule[name]):
                if not re.fullmatch(r"[^@\s]+@[^@\s]+\.[a-z]+", str(account)):
                    raise invalid(f"resource.{name}[{number}]", account, "Must be the e-mail of a service account.")
        for name, most in COUNTS.items():
            if len(rule.get(name, [])) > most:
                raise invalid(f"resource.{name}", len(rule[name]), f"The maximum number is {most}.")


def _logging(config: Mapping[str, Any]) -> Json:
    enabled = config.get("enable", False)
    if not enabled:
        return {"enable": False}
    metadata = config.get("metadata", "INCLUDE_ALL_METADATA")
    if metadata not in METADATA:
        raise invalid("resource.logConfig.metadata", metadata, f"Must be one of {', '.join(METADATA)}.")
    return {"enable": True, "metadata": metadata}


def _check_ports(field: str, entry: Mapping[str, Any]) -> None:
    protocol = entry.get("IPProtocol", "")
    if protocol not in PROTOCOLS and not (str(protocol).isdigit() and int(protocol) <= 255):
        raise invalid(f"{field}.IPProtocol", protocol, "Must be a well known protocol or its number.")
    ports = entry.get("ports", [])
    if ports and protocol not in WITH_PORTS:
        raise invalid(f"{field}.ports", ports, f"Ports may not be specified for {protocol}.")
    for number, port in enumerate(ports):
        match = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", port) if isinstance(port, str) else None
        if not match or not int(match[1]) <= int(match[2] or match[1]) <= 65535:
            raise invalid(f"{field}.ports[{number}]", port, "Must be a port or a range of ports, 0 to 65535.")


def _check_ranges(rule: Json, name: str) -> None:
    ranges = rule.get(name, [])
    if len(ranges) > RANGES:
        raise invalid(f"resource.{name}", len(ranges), f"The maximum number of ranges is {RANGES}.")
    versions = set()
    for number, given in enumerate(ranges):
        try:
            versions.add(ipaddress.ip_network(given).version)
        except ValueError:
            raise invalid(
                f"resource.{name}[{number}]", given, "Must be a valid IPV4 or IPV6 CIDR address range."
            ) from None
    if len(versions) > 1:
        raise invalid(f"resource.{name}", ranges, "IPv4 and IPv6 ranges cannot be in one firewall rule.")
