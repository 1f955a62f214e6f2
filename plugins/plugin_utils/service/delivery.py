"""Artifacts of the store, for action plugins whose modules put them onto a machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.artifact.store import (
    ARCHITECTURES,
    Entry,
    MissingArtifact,
    Store,
    StoreError,
)

from ..base import same_machine
from ..controller import workplace
from . import role_options

# Of a service, what roles have variables for.
OF_ROLE = (
    "version",
    "memory_max",
    "port",
    "ready_timeout",
    "metrics_keep",
    "sample_limit",
    "series_limit",
    "secrets",
)


def store_of(action: ActionBase, variables: Mapping[str, Any]) -> Store:
    """The store that the task names, or the variable artifacts_dir, or the one of this controller."""
    given = action._task.args.get("store") or action._templar.template(variables.get("artifacts_dir"))
    return Store(Path(given or workplace.on_controller("artifacts")))


def bring_program(action: ActionBase, name: str, variables: dict[str, Any]) -> dict[str, Any]:
    """Put the program that a task needs, in the `version` that it asks for, onto the machine; its `path` there."""
    versions = {name: action._task.args["version"]}
    return bring(action, "roverwatch.fleet.artifact", store_of(action, variables), versions, variables, name=name)


def serve(action: ActionBase, module: str, of_role: Sequence[str], variables: dict[str, Any]) -> dict[str, Any]:
    """Run a module that makes a service run, or takes it off. Its artifact is called like it; `tools` come with it.

    `of_role` are its own options, beside those of every service, that a role may have variables for.
    """
    role_options.complete(action, [*OF_ROLE, *of_role], variables)
    args = {key: value for key, value in action._task.args.items() if key not in ("store", "added")}
    for option, added in action._task.args.get("added", {}).items():
        if isinstance(added, dict):
            args[option] = {**args.get(option, {}), **added}
        else:
            args[option] = [*args.get(option, []), *added]
    if args.get("state") == "absent":
        removed: dict[str, Any] = action._execute_module(module, module_args=args, task_vars=variables)
        return removed
    same_machine.refuse(variables["inventory_hostname"])
    versions = {args["name"]: args["version"], **{tool["name"]: tool["version"] for tool in args.get("tools", [])}}
    return bring(action, module, store_of(action, variables), versions, variables, **args)


def bring(
    action: ActionBase, module: str, store: Store, versions: Mapping[str, Any], variables: dict[str, Any], **args: Any
) -> dict[str, Any]:
    """Run a module that is told what the store has of some artifacts (version by name), with the files that it lacks.

    The module answers `missing`, having changed nothing, and is run again once they are on the machine. Which of the
    architectures the machine has, only the machine knows.
    """
    entries = {name: _by_architecture(store, name, str(version)) for name, version in versions.items()}
    args["candidates"] = {
        name: {arch: entry.to_dict() for arch, entry in known.items()} for name, known in entries.items()
    }
    result: dict[str, Any] = action._execute_module(module, module_args=args, task_vars=variables)
    for name in result.get("unknown", []):
        with _clearly():
            store.find(name, str(versions[name]), result["arch"])
    if not result.get("missing"):
        return result

    needed = [entries[name][result["arch"]] for name in result["missing"]]
    for entry in needed:
        with _clearly():
            store.verify(entry)
    # Under the connection's own temporary directory, which Ansible removes with the task.
    folder = action._make_tmp_path()
    try:
        staged = {entry.name: action._connection._shell.join_path(folder, entry.name) for entry in needed}
        for entry in needed:
            action._transfer_file(str(store.path(entry)), staged[entry.name])
        action._fixup_perms2((folder, *staged.values()))
        done: dict[str, Any] = action._execute_module(
            module, module_args={**args, "staged": staged}, task_vars=variables
        )
        return done
    finally:
        action._remove_tmp_path(folder)


@contextmanager
def _clearly() -> Iterator[None]:
    """The store's errors say all that an operator needs: pass their text on, without a traceback."""
    try:
        yield
    except StoreError as error:
        raise AnsibleActionFail(str(error)) from error


def _by_architecture(store: Store, name: str, version: str) -> dict[str, Entry]:
    entries = {}
    for arch in ARCHITECTURES:
        with _clearly(), suppress(MissingArtifact):
            entries[arch] = store.find(name, version, arch)
    return entries
