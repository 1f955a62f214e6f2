"""Filters for durations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.common import durations


def to_seconds(duration: object) -> int:
    """`1m30s` as 90, rounded down; anything that is no duration is an error that says what is allowed."""
    try:
        return int(durations.to_seconds(duration))
    except ValueError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"to_seconds": to_seconds}
