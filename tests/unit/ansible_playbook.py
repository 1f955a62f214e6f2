"""ansible-playbook as a user runs it, but for its start: a process that has imported it forks for each run.

Most of what a short run computes is those imports. The fork then is what a fresh process would be: it takes the
environment, the directory and the arguments of the run, and calls the program's own main function.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

SERVER = """
import json, os, sys

# Ansible decides at its import whether to colour.
os.environ["NO_COLOR"] = "1"
from ansible.cli.playbook import main
from ansible.executor import playbook_executor

def run(arguments, environment, output):
    os.environ.clear()
    os.environ.update(environment)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for descriptor, path in enumerate(output, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_TRUNC), descriptor)
    sys.argv = ["ansible-playbook", *arguments]
    try:
        main(sys.argv)
    except SystemExit as end:
        return end.code or 0

for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        code = 255
        try:
            code = run(**json.loads(line))
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


def run(arguments: Sequence[str | Path], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run it at the top of the tree."""
    differs = {name for name in {*environment, *os.environ} if environment.get(name) != os.environ.get(name)}
    # What it reads when it is imported.
    assert not {name for name in differs if name.startswith("ANSIBLE_") or name == "HOME"}
    server = _server()
    assert server.stdin and server.stdout
    with tempfile.NamedTemporaryFile("r") as out, tempfile.NamedTemporaryFile("r") as err:
        asked = {
            "arguments": [*map(str, arguments)],
            "environment": {**environment, "NO_COLOR": "1"},
            "output": [out.name, err.name],
        }
        server.stdin.write(json.dumps(asked) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        return subprocess.CompletedProcess(["ansible-playbook", *asked["arguments"]], code, out.read(), err.read())


@functools.cache
def _server() -> subprocess.Popen[str]:
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    atexit.register(server.communicate)
    return server
