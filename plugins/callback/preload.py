"""Loads what tasks need before the first of them is started."""

from __future__ import annotations

DOCUMENTATION = r"""
name: preload
type: aggregate
short_description: Loads the plugins of a play once, and not once for each task and host
description:
  - Ansible forks a process for each task and host, and each loads the plugins that it uses. What the parent has loaded
    is there already. docs/performance.md has what that saves.
  - Changes nothing else; without it a run is only slower.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from ansible.module_utils.common.json import Direction, get_module_decoder, get_module_encoder
from ansible.playbook.block import Block
from ansible.plugins.callback import CallbackBase
from ansible.plugins.loader import (
    action_loader,
    become_loader,
    connection_loader,
    filter_loader,
    lookup_loader,
    shell_loader,
    test_loader,
)
from ansible.template import Templar, trust_as_template

# One of each collection: its other filters come with it.
FILTERS = ("default", "roverwatch.fleet.to_bytes")
LOOKUPS = ("ansible.builtin.file", "ansible.builtin.fileglob", "ansible.builtin.template")


def actions(tasks: Sequence[Any]) -> Iterator[str]:
    """What the tasks of a play call, those of its blocks and of the roles that it imports among them."""
    for task in tasks:
        if isinstance(task, Block):
            yield from actions([*task.block, *task.rescue, *task.always])
        else:
            yield task.action


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "roverwatch.fleet.preload"
    CALLBACK_NEEDS_ENABLED = True

    def v2_playbook_on_start(self, playbook: Any) -> None:  # noqa: ARG002  (Ansible's signature)
        for loader in (filter_loader, test_loader):
            list(loader.all())
        for name in FILTERS:
            filter_loader.get(name)
        for name in LOOKUPS:
            lookup_loader.get(name, class_only=True)
        connection_loader.get("ansible.builtin.ssh", class_only=True)
        become_loader.get("ansible.builtin.sudo", class_only=True)
        shell_loader.get("ansible.builtin.sh", class_only=True)
        get_module_encoder("legacy", Direction.CONTROLLER_TO_MODULE)
        get_module_decoder("legacy", Direction.MODULE_TO_CONTROLLER)
        # The first template makes Jinja's lexer, the expressions of which take longer than a template.
        Templar(loader=None).template(trust_as_template("{{ 1 | default }}"))

    def v2_playbook_on_play_start(self, play: Any) -> None:
        for name in sorted(set(actions([*play.pre_tasks, *play.tasks, *play.post_tasks]))):
            action_loader.get(name, class_only=True)
