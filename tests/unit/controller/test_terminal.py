"""What is printed beside Ansible's stdout callback, and where: a callback for programs has stdout for itself."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = (
    "from ansible_collections.roverwatch.fleet.plugins.plugin_utils.controller.terminal import tell; "
    "tell('9 of 9 healthy')"
)


@pytest.mark.parametrize(
    ("callback", "told"),
    [("default", ("9 of 9 healthy\n", "")), ("ansible.posix.json", ("", "9 of 9 healthy\n"))],
)
def test_stdout_is_left_to_a_callback_for_programs(callback, told):
    environment = os.environ | {"ANSIBLE_STDOUT_CALLBACK": callback, "PYTHONPATH": str(ROOT / "collections")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == told


def prints(path: Path) -> Iterator[str]:
    """Where a file prints something, as it stands there."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in ("print", "display"):
            yield ast.unparse(node)


def test_nothing_of_ours_prints_otherwise():
    paths = [
        path for folder in ("action", "callback", "plugin_utils") for path in (ROOT / "plugins" / folder).rglob("*.py")
    ]
    for path in paths:
        for call in prints(path):
            assert path.stem == "terminal" or "stderr=True" in call, f"{path.name}: {call}"
