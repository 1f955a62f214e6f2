"""The subjects of docs/architecture.md are those of the code, and each imports what its row names."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COLLECTION = ("ansible_collections", "roverwatch", "fleet")
MACHINES = ROOT / "plugins/module_utils/roverwatch"
CONTROLLERS = ROOT / "plugins/plugin_utils"
# The release tool is one file for itself.
WITHOUT_PACKAGE = {"release"}


def rows() -> dict[str, set[str]]:
    """What each subject may import, by the table."""
    section = (ROOT / "docs/architecture.md").read_text().partition("## Subjects")[2].partition("\n## ")[0]
    cells = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| `")]
    return {re.findall(r"`(\w+)`", first)[0]: set(re.findall(r"`(\w+)`", last)) for first, *_, last in cells}


def packages() -> dict[str, list[Path]]:
    """The files of each subject."""
    found: dict[str, list[Path]] = {}
    for root in (MACHINES, CONTROLLERS):
        for path in root.rglob("*.py"):
            if path.parent != root:
                found.setdefault(path.relative_to(root).parts[0], []).append(path)
    return found


def imports(path: Path) -> Iterator[tuple[str, ...]]:
    """The modules that a file imports, by their whole names."""
    package = (*COLLECTION, *path.relative_to(ROOT).parent.parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            for alias in node.names:
                yield (*above, *(node.module.split(".") if node.module else ()), alias.name)


def subject_of(name: tuple[str, ...]) -> str | None:
    """The subject of a module of ours."""
    for root in (MACHINES, CONTROLLERS):
        start = (*COLLECTION, *root.relative_to(ROOT).parts)
        if name[: len(start)] == start:
            return name[len(start)]
    return None


def test_every_subject_has_a_row_and_every_row_has_code() -> None:
    assert set(rows()) == {*packages(), *WITHOUT_PACKAGE}


@pytest.mark.parametrize("subject", packages())
def test_a_subject_imports_those_of_its_row_and_no_others(subject: str) -> None:
    used = {other for path in packages()[subject] for name in imports(path) if (other := subject_of(name))}
    assert used - {subject} == rows()[subject]


def test_no_subject_imports_itself_by_way_of_another() -> None:
    left = rows()
    while left:
        free = {subject for subject, used in left.items() if not used & set(left)}
        assert free, f"these import each other: {sorted(left)}"
        left = {subject: used for subject, used in left.items() if subject not in free}


def test_what_runs_on_a_machine_needs_python_and_what_ansible_sends_with_a_module() -> None:
    sent = {(*COLLECTION, *MACHINES.relative_to(ROOT).parts), ("ansible", "module_utils")}
    for path in MACHINES.rglob("*.py"):
        for name in imports(path):
            beside = path.name == "outcome.py" and name == ("disk",)  # the copy that runs on its own
            is_sent = any(name[: len(start)] == start for start in sent)
            assert is_sent or name[0] in sys.stdlib_module_names or beside, f"{path}: {name}"


def test_the_tests_of_a_subject_are_called_like_it() -> None:
    folders = {path.parent.name for path in (ROOT / "tests/unit").glob("*/test_*.py")}
    assert folders == set(rows())
