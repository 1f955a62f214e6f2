"""docs/requirements.md has every message about a machine, and none that no code says."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PLUGINS = ROOT / "plugins"
# What looks at a machine, by its module. What looks at variables alone is no matter of the machine's.
ABOUT_MACHINES = {
    "plugin_utils/base/requirements": {
        "machine", "reached", "written", "room", "same_machine", "same_disk", "other_machine", "absent_devices",
        "image_policy",
    },
    "plugin_utils/base/ports": {"taken", "_line"},
    "module_utils/roverwatch/base/ownership": {"strangers", "_accounts", "_units"},
    "plugin_utils/base/capacity": {"disk"},
    "plugin_utils/base/names": {"inventory_name"},
}  # fmt: skip
# Shorter texts are parts of a message.
WORDS = 8


def texts(module: str, functions: set[str]) -> Iterator[str]:
    """The longer texts in functions, with `…` for what is filled in."""
    tree = ast.parse((PLUGINS / f"{module}.py").read_text())
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef) and function.name in functions:
            for node in ast.walk(function):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and node is not docstring(function):
                    yield re.sub(r"\{[^{}]*\}", "…", node.value)


def docstring(function: ast.FunctionDef) -> ast.expr | None:
    first = function.body[0]
    return first.value if isinstance(first, ast.Expr) else None


CODE = [text for module, functions in ABOUT_MACHINES.items() for text in texts(module, functions)]
# What keeps a robot from a hub is one line of the page, whatever it is.
PARTS_OF_ANOTHER = set(texts("plugin_utils/base/requirements", {"reached"}))
# How a remedy begins that stands alone.
REMEDIES = ("Add ", "Boot ", "Make ", "- ")


def said() -> list[str]:
    rows = [line for line in (ROOT / "docs/requirements.md").read_text().splitlines() if line.startswith("| ")]
    return [message for row in rows for message in re.findall(r"`([^`]*… ?[^`]*|[^`]{25,})`", row.split("|")[2])]


def matches(message: str, text: str) -> bool:
    parts = [re.escape(part) for part in message.strip("…").split("…")]
    return re.search(".*?".join(parts), text) is not None


def test_the_page_has_no_message_that_nothing_says() -> None:
    assert len(said()) > 20
    assert [message for message in said() if not any(matches(message, text) for text in CODE)] == []


def test_every_message_about_a_machine_is_on_the_page() -> None:
    whole = [text for text in CODE if len(text.split()) >= WORDS and text not in PARTS_OF_ANOTHER]
    missing = [
        text
        for text in whole
        if not text.startswith(REMEDIES) and not any(matches(message, text) for message in said())
    ]
    assert missing == []
