"""What the roles' variables are where nobody has set them: a role that is not in the play has not brought its defaults.

Read when this is imported, which is once for a run: in the process from which Ansible forks one for each machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ansible.parsing.dataloader import DataLoader
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.firewall import rules

from ..base import ports

ROLES = Path(__file__).resolve().parents[3] / "roles"


def _defaults(path: Path) -> dict[str, Any]:
    return DataLoader().load_from_file(str(path), trusted_as_template=True) or {}


def service_ports(
    variables: Mapping[str, Any], groups: Iterable[str], template: Callable[[Any], Any]
) -> dict[str, list[int]]:
    """Where each service of machines in these groups listens, by these variables, whatever roles the play has."""
    values = {}
    for role in sorted({role for group in groups for role in rules.SERVICES.get(group, ())}):
        for name in (f"{role}_port", f"{role}_instances"):
            if name in DEFAULTS[role]:
                values[name] = variables.get(name, DEFAULTS[role][name])
    computed = {name: template(value) if isinstance(value, str) else value for name, value in values.items()}
    return ports.by_service(DEFAULTS, computed)


DEFAULTS = {path.parts[-3]: _defaults(path) for path in sorted(ROLES.glob("*/defaults/main.yml"))}
