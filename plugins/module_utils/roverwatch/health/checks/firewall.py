"""The table of firewall rules that the machine is to have is in force; it has none where there are no rules."""

from __future__ import annotations

import subprocess

from ...common.problem import Problem
from ..machine import Machine

# The unit loads the table when the machine starts, and who flushes all tables flushes it, too.
UNIT, TABLE = "roverwatch-firewall", "table inet roverwatch"


def check(machine: Machine) -> list[Problem]:
    rules, host = machine.paths.firewall, machine.options.host
    if not rules.exists() or TABLE + " {\n" not in rules.read_text():
        return []
    try:
        listed = subprocess.run(
            ["nft", "list", "tables"], capture_output=True, text=True, check=True
        ).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError) as error:
        listed, why = [], f"nft cannot say what is in force: {getattr(error, 'stderr', None) or error}"
    else:
        why = f"{TABLE} is not in force: who reaches the machine reaches every port that something listens on"
    remedy = f"ansible-playbook playbooks/firewall.yml --limit {host}"
    return [] if TABLE in listed else [Problem(host, UNIT, why.strip(), remedy)]
