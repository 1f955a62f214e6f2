"""Filters for lists that a template would otherwise have to build piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


def to_dicts(rows: Iterable[Sequence[Any]], *keys: str) -> list[dict[str, Any]]:
    """`[[1, 2], [3, 4]] | to_dicts('a', 'b')` as `[{a: 1, b: 2}, {a: 3, b: 4}]`. Each row has a value for each key."""
    return [dict(zip(keys, row, strict=True)) for row in rows]


def to_files(
    files: Iterable[tuple[str, str]], directory: str, more: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """The `files` of a service in a directory of the machine, from paths and contents of the controller.

    Of several with one name the last one counts. `more` is what else is said of each, such as `validate`.
    """
    found = {}
    for path, content in files:
        name = Path(path).name
        found[name] = {"path": f"{directory}/{name}", "content": content, **(more or {})}
    return list(found.values())


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"to_dicts": to_dicts, "to_files": to_files}
