"""Filters for who may reach a service: the one list of rules says it, and each service listens for those alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.firewall import rules as firewall


def allowed_from(listed: object, group_names: Sequence[str], port: int | str, service: str = "") -> list[str]:
    """The networks that firewall_rules lets reach a TCP port of a machine in these groups; `service` is whose it is.

    Rules that are wrong let nobody in, and nobody gets to a port that is none; the preflight says what is wrong.
    """
    if not str(port).isdigit():
        return []
    rules, _ = firewall.parse(firewall.maybe_for(listed, service), None, {service: [int(port)]})
    found: list[str] = firewall.allowed_from(firewall.for_host(rules, group_names), int(port))
    return found


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"allowed_from": allowed_from, "listen_on": firewall.listen_on}
