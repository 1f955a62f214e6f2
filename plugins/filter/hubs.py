"""What a robot's vmagent needs for its hubs, beside what it needs for the robot's own history."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.common import sizes

AUTHORITIES = "/etc/roverwatch/vmagent/hub-ca.pem"
LOGIN_FILE = "/etc/roverwatch/vmagent/secrets/hub_password"


def to_hubs(
    hubs: Sequence[Mapping[str, str]], robot: str, password: str, authorities: str | None, rate_limit: str
) -> dict[str, Any]:
    """Of the module binary_service the `args`, `secrets`, `files` and `record` that are the hubs'.

    The record is what health checks and the backfill read. Without authorities the robot's system knows who signs.
    """
    if not hubs:
        return {"record": {"hubs": []}}
    arguments = [f"-remoteWrite.url={hub['url']}/api/v1/write" for hub in hubs]
    arguments.append("-remoteWrite.rateLimit=0" + f",{sizes.to_bytes(rate_limit)}" * len(hubs))
    ca_file = None if authorities is None else AUTHORITIES
    flags = {"basicAuth.username": robot, "basicAuth.passwordFile": LOGIN_FILE, "tlsCAFile": ca_file}
    # A flag that is given for each URL takes a list, in their order, and an empty item must be quoted: the first URL,
    # the robot's own history, needs none of these. systemd takes the outer quotes off.
    arguments += [
        f"'-remoteWrite.{flag}=" + '""' + f",{value}" * len(hubs) + "'" for flag, value in flags.items() if value
    ]
    login = {"username": robot, "password_file": LOGIN_FILE, "ca_file": ca_file}
    return {
        "args": arguments,
        "secrets": {"hub_password": password},
        "files": [] if authorities is None else [{"path": AUTHORITIES, "content": authorities}],
        "record": {"hubs": [{**hub, **login} for hub in hubs]},
    }


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"to_hubs": to_hubs}
