"""Ansible's programs as a user runs them, but for their start: a process that has imported them forks for each run.

Most of what a short run computes are imports, and those of the modules that it runs on this machine.
`ansible_server.py` spares both.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# Before any test has changed it.
START = dict(os.environ)
# The modules of ansible.cli.
PROGRAMS = {"ansible": "adhoc", "ansible-inventory": "inventory", "ansible-playbook": "playbook"}


def run(
    program: str, *arguments: str | Path, environment: Mapping[str, str] | None = None, directory: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """Run a program with this repository's settings. The environment is a whole one, by default this process's."""
    environment = {**(os.environ if environment is None else environment), "NO_COLOR": "1"}
    command = [program, *map(str, arguments)]
    # What Ansible reads when it is imported.
    settings = {name for name in {*environment, *START} if name.startswith("ANSIBLE_")}
    assert not {name for name in settings if environment.get(name) != START.get(name)}
    server = _server()
    assert server.stdin and server.stdout
    with tempfile.NamedTemporaryFile("r") as out, tempfile.NamedTemporaryFile("r") as err:
        asked = {
            "program": PROGRAMS[program],
            "arguments": command,
            "environment": environment,
            "directory": str(directory),
            "output": [out.name, err.name],
        }
        server.stdin.write(json.dumps(asked) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        return subprocess.CompletedProcess(command, code, out.read(), err.read())


@functools.cache
def _server() -> subprocess.Popen[str]:
    # Without the tests' directory on its path, where no program has it.
    command = [sys.executable, "-P", str(Path(__file__).with_name("ansible_server.py"))]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    server = subprocess.Popen(command, cwd=ROOT, env=START, **pipes)
    atexit.register(server.communicate)
    return server
