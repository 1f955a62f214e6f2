"""Brings a program of the artifact store onto a machine, for an action plugin that runs it there."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase


def bring(action: ActionBase, name: str, variables: dict[str, Any]) -> dict[str, Any]:
    """What the action plugin `artifact` answers. `action` has the store and the version as arguments."""
    task = action._task.copy()
    task.args = {"name": name, **action._task.args}
    artifact = action._shared_loader_obj.action_loader.get(
        "roverwatch.fleet.artifact",
        task=task,
        connection=action._connection,
        play_context=action._play_context,
        loader=action._loader,
        templar=action._templar,
        shared_loader_obj=action._shared_loader_obj,
    )
    answer: dict[str, Any] = artifact.run(task_vars=variables)
    return answer
