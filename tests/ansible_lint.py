"""ansible-lint, which asks Ansible once whether the syntax of everything is right, instead of once for each.

It starts an `ansible-playbook --syntax-check` for each playbook and each role, which is half of what it computes. One
for all of them comes to the same verdict; where that is bad, each has its own, which says where.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

from ansiblelint.__main__ import _run_cli_entrypoint
from ansiblelint.runner import Runner

EACH_ALONE = "_map_syntax_check_workers"
Check = Callable[[Any], list[Any]]
each_alone = getattr(Runner, EACH_ALONE)


def all_at_once(runner: Any, check: Check, files: Sequence[Any]) -> list[list[Any]]:
    """In the place of the runner's own method: what is wrong with each of these playbooks and roles."""
    plays = [
        {"hosts": "localhost", "tasks": [{"ansible.builtin.import_role": {"name": str(file.path.absolute())}}]}
        for file in files
        if file.kind == "role"
    ]
    playbooks = [str(file.path) for file in files if file.kind == "playbook"]
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as roles:
        json.dump(plays, roles)
        roles.flush()
        done = subprocess.run(
            ["ansible-playbook", "--syntax-check", *playbooks, roles.name],
            env=runner.app.runtime.environ | {"ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "False"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
    found: list[list[Any]] = [] if done.returncode == 0 else each_alone(runner, check, files)
    return found


if __name__ == "__main__":
    with mock.patch.object(Runner, EACH_ALONE, all_at_once):
        _run_cli_entrypoint()
