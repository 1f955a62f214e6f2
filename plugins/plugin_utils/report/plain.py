"""What reports have in common: lines and tables of text, problems with their remedies, how figures are written."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.common.problem import Problem
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.common.sizes import from_bytes

UNKNOWN = "-"
# These hold text and stand to the left; figures stand to the right, so that their digits line up.
TEXT_COLUMNS = frozenset(
    {"ROBOT", "SERVICE", "STATE", "SLICE", "HUB", "RELEASE", "SINCE", "PREVIOUS", "AT THE HUB", "NOTE"}
)


@dataclass(frozen=True)
class Line:
    """A line of text; `healthy` is None where it judges nothing."""

    text: str
    healthy: bool | None = None


def problem_lines(problem: Problem, healthy: bool | None = False) -> list[Line]:
    return [
        Line(f"{problem.host}: {problem.service} {problem.what}", healthy=healthy),
        Line(f"    → {problem.remedy}"),
    ]


def table(columns: Sequence[str], rows: Sequence[tuple[Sequence[str], bool]]) -> list[Line]:
    """Rows under their columns, each as wide as its widest cell."""
    everything = [columns, *(cells for cells, _ in rows)]
    widths = [max(len(cells[index]) for cells in everything) for index in range(len(columns))]
    texts = [
        "  ".join(
            cell.ljust(width) if column in TEXT_COLUMNS else cell.rjust(width)
            for column, cell, width in zip(columns, cells, widths, strict=True)
        ).rstrip()
        for cells in everything
    ]
    return [Line(texts[0]), *(Line(texts[index + 1], healthy) for index, (_, healthy) in enumerate(rows))]


def sizes(*numbers: int | None) -> Sequence[str]:
    """Sizes in bytes as people write them."""
    return [UNKNOWN if number is None else from_bytes(number) for number in numbers]


def percent(part: int | None, whole: int | None) -> str:
    """A part as a percentage, without its sign."""
    return UNKNOWN if part is None or not whole else f"{100 * part / whole:.0f}"


def count(number: int, noun: str) -> str:
    """A number with its noun, in the plural if it has to be."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def by_name(name: str) -> list[tuple[int, str]]:
    """The order in which people read names: robot-2 before robot-10."""
    parts = re.findall(r"\d+|\D+", name)
    return [(int(part) if part.isdigit() else -1, part) for part in parts]


# What a module ends with that was not let do anything, and what it needs.
UNSPOKEN = {
    "must have a tty": "sudo wants a terminal (Defaults requiretty): take that out of its sudoers, or set"
    " ansible_pipelining: false for this host",
}


def message(result: Mapping[str, Any]) -> str:
    """Why there are no figures, without what Ansible says of every failure."""
    said = str(result.get("msg", "")).removeprefix("Task failed: ").removeprefix("Module failed: ")
    # There only where the module did not get to say anything.
    spoken = str(result.get("module_stderr") or "").strip().splitlines()
    if not spoken:
        return said
    return next((remedy for words, remedy in UNSPOKEN.items() if words in spoken[-1]), f"{spoken[-1]} ({said})")
