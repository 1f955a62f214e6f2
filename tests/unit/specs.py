"""Variables as a playbook hands them on: with the defaults of their role's spec, and of its types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.roverwatch.fleet.plugins.plugin_utils.service import role_variables
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.service.role_defaults import DEFAULTS


def typed(roles: list[str], given: Mapping[str, Any]) -> dict[str, Any]:
    whole = {name: value for role in roles for name, value in DEFAULTS[role].items()} | dict(given)
    values, problems = role_variables.typed(roles, whole)
    assert not [*problems, *role_variables.unknown(given)]
    return values
