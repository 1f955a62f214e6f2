"""What a task leaves to its role: each option that it does not give is the role's variable of that name.

In a template of its own for each option Ansible would compile `{{ vmagent_port }}` for each machine in turn; a variable
that is a plain value needs no template at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ansible.plugins.action import ActionBase


def complete(action: ActionBase, options: Iterable[str], variables: Mapping[str, Any]) -> dict[str, Any]:
    """Give the task those of these options that are the variables `<role>_<option>` of the `role` that it names.

    Returned are these variables with their values.
    """
    given = action._task.args
    role = given.pop("role", None)
    named = {f"{role}_{option}": option for option in options if role and option not in given}
    values = {name: action._templar.template(variables[name]) for name in named if name in variables}
    given |= {named[name]: value for name, value in values.items()}
    return values
