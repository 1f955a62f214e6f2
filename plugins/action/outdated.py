"""The controller's part of `outdated.yml`: asks about every pin, prints what is newer, writes locks where told to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible import constants as C
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.roverwatch.fleet.plugins.action.health_report import write_atomically
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.artifact.images import BuildError, read_dockerfile
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.controller.terminal import tell
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.outdated import pins
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.outdated.pins import Pin, Report, Row


class ActionModule(ActionBase):
    _requires_connection = False
    _supports_check_mode = True
    _VALID_ARGS = frozenset({"root", "bundles", "contexts", "digests", "digests_file", "locks", "workflows", "write"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        args = self._task.args
        root, digests_file = Path(args["root"]), Path(args["digests_file"])
        tags, bases = _bases([Path(context) / "Dockerfile" for context in args["contexts"]], root)
        digests = {
            image: pins.digest(image, args["digests"].get(image, ""), digests_file, root)
            for image in pins.locked_images(bases, args["digests"])
        }
        locks = {path.with_suffix(".txt"): pins.packages(path, root) for path in map(Path, args["locks"])}
        asked = [*digests.values(), *locks.values()]
        if not args["write"]:
            asked = [*map(pins.bundle, args["bundles"]), *tags, *asked]
            asked += pins.actions([Path(file) for file in args["workflows"]], root)
        rows = dict(zip(asked, pins.ask(asked, lambda who: tell(f"waiting for {who}")), strict=True))
        written: list[Row] = []
        if args["write"] and not self._task.check_mode:
            written += _write_locks({file: rows[pin] for file, pin in locks.items()})
            written += _write_digests(digests_file, {image: rows[pin] for image, pin in digests.items()})
        report = Report(list(rows.values()), written)
        _show(report)
        return {
            "changed": bool(written),
            "failed": bool(report.unasked),
            "msg": report.summary,
        }


def _bases(dockerfiles: Sequence[Path], root: Path) -> tuple[list[Pin], list[str]]:
    """What to ask about the tags of the Dockerfiles' bases, and the bases."""
    try:
        read = {file: read_dockerfile(file) for file in dockerfiles}
    except BuildError as error:
        raise AnsibleActionFail(str(error)) from error
    found = [pins.base(each.base, each.base_argument, file, root) for file, each in read.items()]
    return [pin for pin in found if pin], [each.base for each in read.values()]


def _write_locks(rows: Mapping[Path, Row]) -> list[Row]:
    """Write each lock that was answered for and differs."""
    found = [(file, row) for file, row in rows.items() if row.answer and row.answer.to_do]
    for file, row in found:
        assert row.answer
        write_atomically(file, row.answer.text)
    return [row for _, row in found]


def _write_digests(file: Path, rows: Mapping[str, Row]) -> list[Row]:
    """Write all digests, or none where one is not known."""
    digests = {image: row.answer.text for image, row in rows.items() if row.answer}
    old = file.read_text(encoding="utf-8")
    new = pins.lock_of_images(old, digests)
    if len(digests) < len(rows) or new == old:
        return []
    write_atomically(file, new)
    return [row for row in rows.values() if row.answer and row.answer.to_do]


def _show(report: Report) -> None:
    for text, row in report.table:
        tell(text, color=_colour(row) if row else None)
    for title, texts in report.sections:
        tell(f"\n{title}:")
        for text in texts:
            tell(f"  {text}")
    tell("")
    tell(report.summary, color=C.COLOR_ERROR if report.unasked else C.COLOR_OK)


def _colour(row: Row) -> str | None:
    if not row.answer:
        error: str = C.COLOR_ERROR
        return error
    warning: str = C.COLOR_WARN
    return warning if row.answer.to_do else None
