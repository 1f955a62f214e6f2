"""The variables that a fleet can set, by the roles' meta/argument_specs.yml: which there are, which are right.

What has a role's name in front and is in no spec is most often misspelt, and would otherwise do nothing. The specs are
read when this is imported, which is once for a run: in the process from which Ansible forks one for each machine.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from ansible.plugins.action import ActionBase

from ..base import requirements
from .role_defaults import DEFAULTS, ROLES


def _options(path: Path) -> dict[str, Any]:
    specs = yaml.load(path.read_text(), yaml.CSafeLoader)["argument_specs"]
    options: dict[str, Any] = specs["main"]["options"]
    return options


OPTIONS = {path.parts[-3]: _options(path) for path in sorted(ROLES.glob("*/meta/argument_specs.yml"))}
KNOWN = frozenset(name for options in OPTIONS.values() for name in options)


def unknown(names: Iterable[str], others: Iterable[str] = ()) -> list[str]:
    """What is wrong with the names of a host's variables; `others` are roles of the operator, which have their own."""
    roles = sorted({*OPTIONS, *others}, key=len, reverse=True)  # gcp_hub_zone is gcp_hub's, not gcp's
    owner = re.compile("({})_".format("|".join(map(re.escape, roles))))
    owned = {name: match[1] for name in names if name not in KNOWN and (match := owner.match(name))}
    return [requirements.unknown(role, name, KNOWN) for name, role in sorted(owned.items()) if role in OPTIONS]


def computed(
    roles: Iterable[str], names: Collection[str], compute: Callable[[str], Any]
) -> tuple[dict[str, Any], list[str]]:
    """The roles' variables that a host has, computed, and what is wrong with those that cannot be."""
    values: dict[str, Any] = {}
    problems = []
    for role in roles:
        for name, option in OPTIONS.get(role, {}).items():
            if name in names:
                try:
                    values[name] = compute(name)
                except Exception as error:  # noqa: BLE001  (a template can raise anything)
                    hidden = requirements.secret(option)
                    why = "its error is not shown, as it may hold the value" if hidden else error
                    problems.append(f"{name} cannot be computed: {why}")
    return values, problems


def typed(roles: Iterable[str], values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Those of the computed values that are what their specs ask for, of its types, and what is wrong with others."""
    right: dict[str, Any] = {}
    problems: list[str] = []
    for role in roles:
        options = OPTIONS.get(role, {})  # none of an operator's own
        own = {name: _plain(value) for name, value in values.items() if name in options}
        found, wrong = requirements.variables(role, options, own)
        right |= found
        problems += wrong
    return right, problems


def read(action: ActionBase, roles: Collection[str], variables: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The variables of roles as a task has them, with the roles' defaults, and what is wrong with them."""
    whole = {name: value for role in roles for name, value in DEFAULTS[role].items()} | dict(variables)
    templar: Any = action._templar.copy_with_new_env(available_variables=whole)
    values, problems = computed(roles, whole, lambda name: templar.template(whole[name]))
    right, wrong = typed(roles, values)
    ours = tuple(f"{role}_" for role in roles)
    return right, unknown(name for name in whole if name.startswith(ours)) + problems + wrong


def _plain(value: Any) -> Any:
    """Without Ansible's marks of where each text came from, which take the check's copies ten times as long."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, str) else value
