"""Filters for sizes in memory budgets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.common import sizes


def to_bytes(size: object) -> int:
    """`80M` as 83886080; anything that is no size is an error that says what is allowed."""
    try:
        count: int = sizes.to_bytes(size)
    except ValueError as error:
        raise AnsibleFilterError(str(error)) from error
    return count


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"to_bytes": to_bytes, "from_bytes": sizes.from_bytes}
