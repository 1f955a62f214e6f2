"""Has an image in the controller's artifact store, and says on the way which step it is at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.artifact.store import Store, StoreError
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.artifact.base_images import python_base
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.artifact.images import BuildError, Image, ensure
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.artifact.sources import SourceError

display = Display()

ARGUMENTS = {
    "store": {"type": "path", "required": True},
    "name": {"type": "str", "required": True},
    "version": {"type": "str", "required": True},
    "arch": {"type": "str", "choices": ["x86_64", "aarch64"], "required": True},
    "context": {"type": "path", "required": True},
    "extras": {"type": "list", "elements": "str", "default": []},
    "fallback": {
        "type": "dict",
        "options": {
            "suite": {"type": "str", "required": True},
            "packages": {"type": "list", "elements": "str", "required": True},
        },
    },
    "source": {"type": "str", "choices": ["auto", "upstream", "debian"], "default": "auto"},
    "digests": {"type": "dict", "required": True},
    "pip": {"type": "list", "elements": "str", "required": True},
    "pip_lock": {"type": "path", "required": True},
}


class ActionModule(ActionBase):
    _requires_connection = False
    _supports_check_mode = True
    _VALID_ARGS = frozenset(ARGUMENTS)

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        _, args = self.validate_argument_spec(ARGUMENTS)
        fallback = args["fallback"]
        image = Image(
            name=args["name"],
            version=args["version"],
            arch=args["arch"],
            context=Path(args["context"]).absolute(),
            pip=tuple(args["pip"]),
            pip_lock=Path(args["pip_lock"]),
            fallback=python_base(fallback["suite"], fallback["packages"]) if fallback else None,
            source=args["source"],
            digests=args["digests"],
            extras=tuple(args["extras"]),
        )
        try:
            built = ensure(Store(Path(args["store"])), image, _tell, dry_run=self._task.check_mode)
        except (BuildError, SourceError, StoreError) as error:
            raise AnsibleActionFail(str(error)) from error
        return {
            "changed": built.changed,
            "entry": built.entry.to_dict() if built.entry else None,
            "msg": built.message,
            "not_as_pinned": built.not_as_pinned,
            "warnings": [f"{text}. It is built again now" for text in built.damaged],
        }


def _tell(text: str) -> None:
    # Not among the results, which a callback may print as JSON.
    display.display(text, stderr=True)
