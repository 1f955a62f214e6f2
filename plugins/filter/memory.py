"""What a program is told of its cap, so that its caches do not fill it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.common import sizes

# Of VictoriaMetrics' cap: Go's heap, the index in memory and queries take the rest.
DATABASE_SHARE = 0.45
# Of the cap of vmagent, vmauth or vmalert, which have more heap than caches.
AGENT_SHARE = 1 / 3


def _share(cap: object, share: float) -> int:
    try:
        return int(sizes.to_bytes(cap) * share)
    except ValueError as error:
        raise AnsibleFilterError(str(error)) from error


def database_memory(cap: object) -> int:
    """Bytes for `-memory.allowedBytes` of a VictoriaMetrics with this cap, such as 128M."""
    return _share(cap, DATABASE_SHARE)


def agent_memory(cap: object) -> int:
    """Bytes for `-memory.allowedBytes` of a vmagent, vmauth or vmalert with this cap, such as 48M."""
    return _share(cap, AGENT_SHARE)


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"database_memory": database_memory, "agent_memory": agent_memory}
