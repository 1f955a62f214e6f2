"""The rules of a machine as a table of nftables, and what they do to who is there already.

The table is ours alone, and no other one is touched. Its one chain sees a packet after conntrack and before docker and
podman send it elsewhere. So a rule is for the port that the client dialled, whether a service of the machine or a
container answers there.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Iterable, List, Sequence

from . import rules as firewall

TABLE = "table inet roverwatch"
# What counts the packets that default_drop drops. No rule is called so.
DEFAULT = firewall.RESERVED

# Less is not enough for a new connection, which may take ten seconds until it is clear that it fails.
CONFIRM_SECONDS_MIN = 10

# 15 characters are the kernel's limit.
_INTERFACE = re.compile(r"[A-Za-z0-9_.:@-]{1,15}|[A-Za-z0-9_.:@-]{1,14}\*", re.ASCII)
# Whatever the rules say, default_drop lets these in: DHCP.
_ALWAYS_OPEN = {("udp", 68), ("udp", 546)}

_HEAD = """\
# Made by Ansible from firewall_rules, for this machine: what is changed here is lost with the next run.
# Replaces the table in one step, so that no packet finds half of it.
{table} {{}}
delete {table}
"""

_FIRST = """\
		# The machine itself.
		iif lo accept
		# Answers on connections that the machine opened. Not all that is established: a source that no rule lets in
		# any more loses its connections at once.
		ct direction reply accept
		# What passes through is not for this machine.
		fib daddr type unicast accept
		# SSH connections in use outlast any change, also those that conntrack has not seen begin.
		tcp dport {ssh_port} tcp flags & (syn | ack) == ack accept
"""

# Multicast and broadcast are not in it: robots that find each other by mDNS or DDS have a rule for that.
_DEFAULT_DROP = """
		# Every other port is closed. What a machine needs to be on a network is not: errors, neighbours, routers,
		# groups, ping and its address.
		ct state established,related accept
		icmp type {{ destination-unreachable, time-exceeded, parameter-problem, echo-request }} accept
		icmpv6 type {{ destination-unreachable, packet-too-big, time-exceeded, parameter-problem, echo-request }} accept
		icmpv6 type {{ nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert, nd-redirect }} accept
		icmpv6 type {{ mld-listener-query, mld-listener-report, mld-listener-done, mld2-listener-report }} accept
		ip protocol igmp accept
		udp sport 67 udp dport 68 accept
		ip6 saddr fe80::/10 udp dport 546 accept
{trusted}		counter name {counter} drop
"""


@dataclass(frozen=True, order=True)
class Listener:
    """A port that something on the machine listens on for others."""

    port: int
    protocol: str
    program: str

    def __str__(self) -> str:
        return "{}/{}{}".format(self.port, self.protocol, " ({})".format(self.program) if self.program else "")


def problems(
    rules: Sequence[firewall.Rule],
    default_drop: bool,
    ssh_port: int,
    trusted_interfaces: Iterable[str],
    confirm_seconds: int,
) -> List[str]:
    """A line for everything that would be wrong with the table of a machine whose rules these are."""
    found = []
    if not 1 <= ssh_port <= 65535:
        found.append("host_firewall_ssh_port is {}: a port is 1 to 65535".format(ssh_port))
    elif default_drop and not firewall.allowed_from(rules, ssh_port):
        found.append(
            "host_firewall_default_drop closes port {0}, and no rule lets anybody reach it: nobody could use SSH any "
            "more. Add a rule for port {0} whose sources are the operators' networks and the controller's, or set "
            "host_firewall_ssh_port if SSH listens elsewhere".format(ssh_port)
        )
    found += [
        "host_firewall_trusted_interfaces: {!r} is no interface: write a name such as docker0, or how names begin, "
        "such as podman*".format(name)
        for name in trusted_interfaces
        if not _INTERFACE.fullmatch(name)
    ]
    if confirm_seconds < CONFIRM_SECONDS_MIN:
        found.append(
            "host_firewall_confirm_seconds is {}: the controller needs {} or more to try a new connection".format(
                confirm_seconds, CONFIRM_SECONDS_MIN
            )
        )
    return found


def render(
    rules: Sequence[firewall.Rule],
    default_drop: bool = False,
    ssh_port: int = 22,
    trusted_interfaces: Iterable[str] = (),
) -> str:
    """What `nft -f` loads on a machine whose rules these are. Without any it removes the table, and no more."""
    head = _HEAD.format(table=TABLE)
    if not rules and not default_drop:
        return head
    counters = ["{}-{}".format(action, rule.name) for rule in rules for action in ("allow", "deny")]
    lines = [TABLE + " {"]
    lines += ["\tcounter {} {{}}".format(counter) for counter in [*counters, *([DEFAULT] if default_drop else [])]]
    lines += ["", "\tchain prerouting {", "\t\ttype filter hook prerouting priority mangle; policy accept;", ""]
    text = "\n".join([head, *lines, _FIRST.format(ssh_port=ssh_port)])
    # All that is allowed comes first: two rules may be for the same port.
    text += "".join("\n" + _allow(rule) for rule in rules if rule.sources)
    text += "\n\t\t# Nobody else.\n" + "".join(_deny(rule) for rule in rules) if rules else ""
    if default_drop:
        trusted = "".join('\t\tiifname "{}" accept\n'.format(name) for name in trusted_interfaces)
        text += _DEFAULT_DROP.format(trusted=trusted, counter=DEFAULT)
    return text + "\t}\n}\n"


def _ports(rule: firewall.Rule) -> str:
    return "{} dport {{ {} }}".format(rule.protocol, ", ".join(map(str, rule.ports)))


def _allow(rule: firewall.Rule) -> str:
    text = "\t\t# {}\n".format(rule.name)
    for version, family in ((4, "ip"), (6, "ip6")):
        sources = rule.sources_of(version)
        if sources:
            text += "\t\t{} {} saddr {{ {} }} counter name allow-{} accept\n".format(
                _ports(rule), family, ", ".join(sources), rule.name
            )
    return text


def _deny(rule: firewall.Rule) -> str:
    return "\t\t{} counter name deny-{} drop\n".format(_ports(rule), rule.name)


def closed(rules: Sequence[firewall.Rule], listening: Iterable[Listener]) -> List[str]:
    """What others reach now, and with default_drop no more, because no rule is about it."""
    return [
        str(listener)
        for listener in sorted(set(listening))
        if (listener.protocol, listener.port) not in _ALWAYS_OPEN
        and not any(
            listener.protocol == rule.protocol and any(listener.port in ports for ports in rule.ports) for rule in rules
        )
    ]


def opened(rules: Sequence[firewall.Rule]) -> List[str]:
    """The ports that somebody may reach, as another firewall has to let them in."""
    found = {(ports, rule.protocol) for rule in rules if rule.sources for ports in rule.ports}
    return ["{}/{}".format(ports, protocol) for ports, protocol in sorted(found)]


def blame(rules: Sequence[firewall.Rule], default_drop: bool, ssh_port: int, client: str) -> str:
    """Which rules decide about a new SSH connection, and the remedy. `client` is whom the machine sees, "" unknown."""
    deciding = [rule for rule in rules if rule.protocol == "tcp" and any(ssh_port in ports for ports in rule.ports)]
    networks = [source for rule in deciding for source in rule.sources]
    said = [
        "rule {} lets {} reach port {}".format(rule.name, " and ".join(map(str, rule.sources)) or "nobody", ssh_port)
        for rule in deciding
    ] or [
        "no rule is for port {}, {}".format(
            ssh_port, "which host_firewall_default_drop closes" if default_drop else "which therefore stays open"
        )
    ]
    if not client:
        return "{}. Have the rules let the controller reach port {}".format("; ".join(said), ssh_port)
    said.append("the controller comes from {}".format(client))
    address = ipaddress.ip_address(client.split("%", maxsplit=1)[0])
    # An IPv4 client of a socket for both versions.
    address = getattr(address, "ipv4_mapped", None) or address
    if deciding and not any(address in network for network in networks):
        remedy = "Add {} to the sources of rule {}".format(address, deciding[0].name)
    else:
        remedy = (
            "That is not what keeps it out: look for another firewall, or a host_firewall_ssh_port that is not SSH's"
        )
    return "{}. {}".format("; ".join(said), remedy)
