"""Which service of ours listens where, and what is said of whoever is there already.

A service is a role with `<role>_port`; it listens on it for those in `<role>_allow_from`, on 127.0.0.1 where the role
has no such variable. `<role>_instances` count up from the port. Its unit is called like the role (`unit`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Iterable, List, Mapping, Sequence, Tuple

from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.firewall import rules

# Ports that a service has beside `<role>_port`, on 127.0.0.1 alone, by the variable's name.
MORE = {"vmauth": ("vmauth_internal_port", "vmauth_plain_port")}


@dataclass(frozen=True)
class Place:
    """An address that a unit is to listen on, and the variable that says so."""

    unit: str
    variable: str
    port: int
    address: str

    def __str__(self) -> str:
        return "{} of {}".format(self.port, self.unit)


def unit(role: str) -> str:
    """The first unit of a role: roverwatch-node-exporter of node_exporter, roverwatch-sensor of sensor_service."""
    name = role[: -len("_service")] if role.endswith("_service") else role
    return "roverwatch-" + name.replace("_", "-")


def places(roles: Iterable[str], values: Mapping[str, Any]) -> List[Place]:
    """Where the services of these roles listen, in the order in which they are deployed."""
    found = []
    for role in roles:
        if role + "_port" not in values or role + "_memory_max" not in values:
            continue
        address = rules.listen_on(values.get(role + "_allow_from") or [])
        for number in range(int(values.get(role + "_instances", 1))):
            name = unit(role) if number == 0 else "{}-{}".format(unit(role), number + 1)
            found.append(Place(name, role + "_port", int(values[role + "_port"]) + number, address))
        found += [Place(unit(role), name, int(values[name]), "127.0.0.1") for name in MORE.get(role, ())]
    return found


def by_service(roles: Iterable[str], values: Mapping[str, Any]) -> Dict[str, List[int]]:
    """The ports on which others might reach these services, if nothing closed them. One that is none is left out: it is
    said elsewhere.
    """
    found = {}
    for role in roles:
        first, count = str(values.get(role + "_port", "")), str(values.get(role + "_instances", 1))
        if first.isdigit() and count.isdigit():
            found[role] = [port for port in range(int(first), int(first) + int(count)) if 1 <= port <= 65535]
    return found


def clashes(wanted: Sequence[Place]) -> List[str]:
    """Two services of one machine on one port; and a port that is none."""
    problems = [
        "{} makes {} listen on port {}: a port is 1 to 65535".format(place.variable, place.unit, place.port)
        for place in wanted
        if not 1 <= place.port <= 65535
    ]
    by_port: Dict[int, List[Place]] = {}
    for place in wanted:
        by_port.setdefault(place.port, []).append(place)
    for port, those in by_port.items():
        if len(those) > 1:
            problems.append(
                "port {} is for {}: set {} to others".format(
                    port,
                    " and ".join("{} ({})".format(place.unit, place.variable) for place in those),
                    " or ".join(sorted({place.variable for place in those})),
                )
            )
    return problems


def taken(wanted: Sequence[Place], held: Iterable[Mapping[str, Any]]) -> List[str]:
    """What keeps a service from its port, a line each. `held` is what the machine found (`listening.held`)."""
    problems = []
    by_place: Dict[Tuple[int, str], Place] = {(place.port, place.address): place for place in wanted}
    order = [place.unit for place in wanted]
    for found in held:
        place = by_place[(found["port"], found["address"])]
        if not found["in_use"]:
            problems.append(
                "{} cannot listen on {}:{}: {}. Set {}, or correct who may reach it".format(
                    place.unit, place.address, place.port, found["reason"], place.variable
                )
            )
            continue
        if not found["holders"]:
            problems.append(
                "port {} ({}) is in use by a connection: set {} below the ports of clients "
                "(net.ipv4.ip_local_port_range)".format(place.port, place.unit, place.variable)
            )
        for holder in found["holders"]:
            line = _line(place, holder, order)
            problems += [line] if line and line not in problems else []
    return problems


def _line(place: Place, holder: Mapping[str, Any], order: Sequence[str]) -> str:
    unit_name = holder["unit"][: -len(".service")] if holder["unit"].endswith(".service") else holder["unit"]
    if unit_name == place.unit:
        return ""
    if _service(unit_name) in map(_service, order):
        if _goes_first(unit_name, place.unit, order):
            return ""
        return (
            "port {0} of {1} is held by {2}, whose turn to leave it comes later. Stop it: systemctl stop {2}, then run "
            "this again".format(place.port, place.unit, unit_name)
        )
    return "port {} is held by {}: {}, or set {}".format(
        place.port, _who(holder), _stop(place.port, holder), place.variable
    )


def _service(unit_name: str) -> str:
    """The service that a unit is an instance of."""
    base, _, number = unit_name.rpartition("-")
    return base if number.isdigit() else unit_name


def _goes_first(holder: str, unit_name: str, order: Sequence[str]) -> bool:
    """Whether the run has a unit of ours leave its old port before another one wants it."""
    services = list(dict.fromkeys(map(_service, order)))
    if _service(holder) != _service(unit_name):
        return services.index(_service(holder)) < services.index(_service(unit_name))
    return holder in order and order.index(holder) < order.index(unit_name)


def _who(holder: Mapping[str, Any]) -> str:
    if not holder["pid"]:
        return "something without a process that can be seen here, on {}".format(_socket(holder))
    process = "pid {}".format(holder["pid"])
    container = ", for the container {}".format(holder["container"]) if holder["container"] else ""
    if holder["unit"].endswith(".service"):
        program = "" if holder["program"] in holder["unit"] else holder["program"] + ", "
        return "{} ({}{}, on {}{})".format(holder["unit"], program, process, _socket(holder), container)
    within = ", " + holder["unit"] if holder["unit"] else ""
    return "{} ({}{}, on {}{})".format(holder["program"], process, within, _socket(holder), container)


def _socket(holder: Mapping[str, Any]) -> str:
    address = holder["address"]
    return "all addresses" if address in ("0.0.0.0", "::") else str(address)  # noqa: S104 (compared)


def _stop(port: int, holder: Mapping[str, Any]) -> str:
    """How to find out and end what is there."""
    if holder["pid"] == 1:
        return "stop the socket unit (systemctl list-sockets names it)"
    if holder["program"] == "docker-proxy":
        return "stop the container (docker ps --filter publish={} names it)".format(port)
    if holder["container"] or holder["program"] in ("rootlessport", "slirp4netns", "pasta", "pasta.avx2"):
        return "stop the container (podman ps, as the user of process {})".format(holder["pid"])
    return "stop it" if holder["pid"] else "find it (ss -ltnp; nfsd and rpcbind are such)"
