"""Loads and compiles what tasks need before the first of them is started."""

from __future__ import annotations

DOCUMENTATION = r"""
name: preload
type: aggregate
short_description: Loads the plugins of a play and compiles its templates once, and not once for each task and host
description:
  - Ansible forks a process for each task and host, and each loads the plugins and compiles the templates that it uses.
    What the parent has loaded and compiled is there already. docs/performance.md has what that saves.
  - Changes nothing else; without it a run is only slower.
"""

from ansible_collections.roverwatch.fleet.plugins.plugin_utils.controller import ansible_core

ansible_core.refuse_older()

import functools
import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import CodeType
from typing import Any

from ansible._internal._templating._engine import TemplateEngine, TemplateOptions
from ansible._internal._templating._jinja_bits import AnsibleEnvironment, _TemplateCompileContext
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


def tasks(of: Iterable[Any]) -> Iterator[Any]:
    """The tasks of a play, those of its blocks and of the roles that it imports among them."""
    for task in of:
        if isinstance(task, Block):
            yield from tasks([*task.block, *task.rescue, *task.always])
        else:
            yield task


def compile_once() -> None:
    """Have Jinja compile each text once. It keeps what its loaders read, and Ansible gives it texts.

    The code depends on the environment, which is the same for all texts but those with delimiters of their own
    (an overlay), and on whether backslashes are escaped.
    """
    compiled: dict[tuple[str, bool], CodeType] = {}
    compile_anew = AnsibleEnvironment.compile

    def once(self: AnsibleEnvironment, source: Any, *args: Any, **kwargs: Any) -> Any:
        context = _TemplateCompileContext.current(optional=True)
        if not isinstance(source, str) or context is None or self.overlayed or args or kwargs:
            return compile_anew(self, source, *args, **kwargs)
        key = (str(source), context.escape_backslashes)
        if key not in compiled:
            compiled[key] = compile_anew(self, source)
        return compiled[key]

    AnsibleEnvironment.compile = once


def templates(value: Any) -> Iterator[str]:
    """Those in a variable or in a task's arguments."""
    if isinstance(value, str):
        if "{{" in value or "{%" in value:
            yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from templates(each)
    elif isinstance(value, Sequence):
        for each in value:
            yield from templates(each)


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "roverwatch.fleet.preload"
    CALLBACK_NEEDS_ENABLED = True

    def v2_playbook_on_start(self, playbook: Any) -> None:  # noqa: ARG002  (Ansible's signature)
        compile_once()
        # A template finds its filters by this, and Ansible reads the folder of a collection's for each.
        filter_loader.get_with_context = functools.cache(filter_loader.get_with_context)
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
        called = list(tasks([*play.pre_tasks, *play.tasks, *play.post_tasks]))
        for name in sorted({task.action for task in called}):
            action_loader.get(name, class_only=True)
        manager = play.get_variable_manager()
        # One of those that have the same groups' variables; of other plays' hosts, too, for `hostvars`.
        hosts = {tuple(host.get_groups()): host for host in manager._inventory.get_hosts(ignore_limits=True)}
        variables = [manager.get_vars(play=play, host=host, include_hostvars=False) for host in hosts.values()]
        engine = TemplateEngine()
        for template in set(templates([*variables, *(task.args for task in called)])):
            engine._compile_template(template, TemplateOptions.DEFAULT)
        # A worker that collects garbage would look at all of this, and with that copy each page of it for itself.
        gc.freeze()
