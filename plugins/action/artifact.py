"""The controller's half of `artifact`: finds the file in the store and sends it where it is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.store import (
    ARCHITECTURES,
    Entry,
    MissingArtifact,
    Store,
    StoreError,
)


@contextmanager
def _clearly() -> Iterator[None]:
    """The store's errors say all that an operator needs: pass their text on, without a traceback."""
    try:
        yield
    except StoreError as error:
        raise AnsibleActionFail(str(error)) from error


def _by_architecture(store: Store, name: str, version: str) -> dict[str, Entry]:
    """What the store has, for every architecture: which of them the machine is, only the machine knows."""
    entries = {}
    for arch in ARCHITECTURES:
        with _clearly(), suppress(MissingArtifact):
            entries[arch] = store.find(name, version, arch)
    return entries


class ActionModule(ActionBase):
    _requires_connection = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        args = dict(self._task.args)
        asked = {key: args[key] for key in ("name", "engine", "state") if key in args}
        if asked.get("state") == "absent":
            return self._ask(asked, task_vars)

        name, version = args["name"], str(args["version"])
        store = Store(Path(args["store"]))
        entries = _by_architecture(store, name, version)
        asked["candidates"] = {arch: entry.to_dict() for arch, entry in entries.items()}

        result = self._ask(asked, task_vars)
        if result.get("failed"):
            return result
        if not result["known"]:
            with _clearly():
                store.find(name, version, result["arch"])
        if not result["changed"] or self._task.check_mode:
            return result

        entry = entries[result["arch"]]
        with _clearly():
            store.verify(entry)
        # Under the connection's own temporary directory, which Ansible removes with the task.
        folder = self._make_tmp_path()
        try:
            staged = self._connection._shell.join_path(folder, "artifact")
            self._transfer_file(str(store.path(entry)), staged)
            self._fixup_perms2((folder, staged))
            return self._ask({**asked, "staged": staged}, task_vars)
        finally:
            self._remove_tmp_path(folder)

    def _ask(self, args: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        answer: dict[str, Any] = self._execute_module(
            "roverwatch.fleet.artifact", module_args=args, task_vars=task_vars
        )
        return answer
