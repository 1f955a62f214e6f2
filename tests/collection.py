"""The collection as somebody has it who installs it, for tests that run it there."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def install(top: Path) -> Path:
    """Have ansible-galaxy install what `make collection` builds; returns where Ansible finds it."""
    make = ["make", "--old-file=.venv/bin/.locked", "collection", f"DIST={top}"]
    subprocess.run(make, cwd=ROOT, check=True, capture_output=True)
    (built,) = top.glob("roverwatch-fleet-*.tar.gz")
    install = ["ansible-galaxy", "collection", "install", "--offline", str(built), "-p", str(top / "installed")]
    subprocess.run(install, cwd=top, check=True, capture_output=True)
    return top / "installed"


def settings(collections: Path) -> Mapping[str, str]:
    """The environment of an Ansible that knows of that collection, and of nothing in a checkout."""
    empty = collections / "empty.cfg"
    empty.touch()
    return {"ANSIBLE_CONFIG": str(empty), "ANSIBLE_COLLECTIONS_PATH": str(collections)}
