"""Does the work of `artifact_fetch`, here on the controller: fills the store and says meanwhile how far it is."""

from __future__ import annotations

import itertools
from concurrent import futures
from dataclasses import replace
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.artifact.store import (
    ARCHITECTURES,
    Store,
    StoreError,
)
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.common import background
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.artifact.download import Hosts
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.artifact.sources import (
    CONNECT_TIMEOUT,
    SOURCES,
    Bundle,
    Filled,
    Order,
    SourceError,
    UnreachableSource,
    fill,
)

display = Display()

PROGRESS_SECONDS = 4.0  # between two lines about what goes on
STILL = 5  # times as long between two lines of the same text

FILES = {"type": "dict", "required": True}
TEXT = {"type": "str", "required": True}
ARGUMENTS = {
    "store": {"type": "path", "required": True},
    "architectures": {"type": "list", "elements": "str", "choices": list(ARCHITECTURES), "required": True},
    "source": {"type": "str", "choices": list(SOURCES), "default": "auto"},
    "timeout": {"type": "float", "default": CONNECT_TIMEOUT},
    "bundles": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": {
            "bundle": TEXT,
            "version": TEXT,
            "optional": {"type": "bool", "default": False},
            "source": {"type": "str"},
            "repository": {"type": "str"},
            "upstream": {
                "type": "list",
                "elements": "dict",
                "options": {"url": TEXT, "checksums": TEXT, "files": FILES},
            },
            "debian": {
                "type": "dict",
                "options": {"suite": TEXT, "package": TEXT, "minimum_version": TEXT, "files": FILES},
            },
        },
    },
}


class Job:
    """The filling of one order, beside the others."""

    def __init__(self, order: Order, optional: bool) -> None:
        self.order = replace(order, report=self._report)
        self.optional = optional
        self.doing, self.shown = "looking into the store", ""

    def start(self, store: Store, dry_run: bool) -> None:
        self.filled = background.start(lambda: fill(store, self.order, dry_run))

    def _report(self, doing: str) -> None:
        self.doing = doing

    def result(self) -> dict[str, Any]:
        """What came of it, and `warnings`."""
        try:
            filled: Filled = self.filled.result()
        except (SourceError, StoreError, OSError) as error:
            text = f"{self.order}: {error}"
            if not (self.optional and isinstance(error, UnreachableSource)):
                return {"failed": True, "msg": text}
            text = f"{self.order}: not there, and no service needs it: {error}"
            missing = {
                "entries": [],
                "source_used": "none",
                "not_as_pinned": f"{self.order} (not there, because {error})",
            }
            return {"changed": False, "msg": text, "warnings": [text], **missing}
        return {
            "changed": filled.source_used != "store",
            "msg": filled.message,
            "warnings": [f"{text}. It is fetched again now" for text in filled.damaged],
            "entries": [entry.to_dict() for entry in filled.entries],
            "source_used": filled.source_used,
            "not_as_pinned": filled.not_as_pinned,
        }


class ActionModule(ActionBase):
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        _, given = self.validate_argument_spec(ARGUMENTS)
        hosts = Hosts()
        try:
            jobs = [
                Job(Order(Bundle.from_dict(bundle), arch, given["source"], given["timeout"], hosts), bundle["optional"])
                for bundle in given["bundles"]
                for arch in given["architectures"]
            ]
        except SourceError as error:
            return {"failed": True, "msg": str(error)}
        for job in jobs:
            job.start(Store(Path(given["store"])), self._task.check_mode)
        for turn in itertools.count():
            if not futures.wait([job.filled for job in jobs], PROGRESS_SECONDS).not_done:
                break
            for job in jobs:
                if not job.filled.done() and (job.doing != job.shown or turn % STILL == 0):
                    job.shown = job.doing
                    # Not among the results, which a callback may print as JSON.
                    display.display(f"{job.order}: {job.doing}", stderr=True)
        results = [job.result() for job in jobs]
        warnings = [text for result in results for text in result.pop("warnings", [])]
        failed = [result["msg"] for result in results if result.get("failed")]
        if failed:
            return {"failed": True, "msg": "\n".join(failed), "warnings": warnings}
        return {
            "changed": any(result["changed"] for result in results),
            "msg": "\n".join(result["msg"] for result in results),
            "results": results,
            "warnings": warnings,
        }
