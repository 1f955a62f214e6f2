"""The collection as somebody has it who installs it, for tests that run it there."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def install(top: Path) -> Path:
    """Have ansible-galaxy install what `make collection` builds; returns where Ansible finds it."""
    make = ["make", "--old-file=.venv/bin/.locked", "collection", f"DIST={top}"]
    subprocess.run(make, cwd=ROOT, check=True, capture_output=True)
    (built,) = top.glob("roverwatch-fleet-*.tar.gz")
    installed = top / "installed"
    installed.mkdir()
    install = ["ansible-galaxy", "collection", "install", "--offline", str(built), "-p", str(installed)]
    # With the checkout's configuration, as Molecule has it, the collection would be there already.
    subprocess.run(install, cwd=top, env=os.environ | settings(installed), check=True, capture_output=True)
    return installed


def settings(collections: Path) -> dict[str, str]:
    """The environment of an Ansible that knows of that collection, and of nothing in a checkout."""
    empty = collections / "empty.cfg"
    empty.touch()
    return {"ANSIBLE_CONFIG": str(empty), "ANSIBLE_COLLECTIONS_PATH": str(collections)}
