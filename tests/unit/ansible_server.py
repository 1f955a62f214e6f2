"""What `ansible_runs` starts: a process for Ansible's programs and one for modules, which fork for each of them.

Each has imported what a run would import, and read what it would read of plugins, which is most of what a short run
computes. The modules' process has no controller in it, as a Python that is started for a module has none.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile, mkdtemp
from typing import Any

# Imported so that the forks have them, and used by nothing here (F401): what Ansible sends with each module, and what
# those for Google Cloud find on their machine.
import ansible.module_utils._internal._ansiballz._loader  # noqa: F401
import google.auth.compute_engine
import google.auth.transport.requests
import google.oauth2.service_account  # noqa: F401

# What the connection is asked to run for a module: a Python like this one, which reads its program.
MODULE = f"/bin/sh -c '{sys.executable} && sleep 0'"


def become(environment: dict[str, str], directory: str, descriptors: Sequence[int]) -> None:
    """Make of a fork what a process would be that is started with these."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)


def serve_modules(channel: socket.socket) -> None:
    """As long as anybody can ask. A fork returns as well, and ends as any Python does."""
    # Nobody waits for the forks: who has asked sees the socket closed.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        message, descriptors, *_ = socket.recv_fds(channel, 1 << 20, 4)
        if not message:
            return
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            run_module(json.loads(message), *descriptors)
            return
        for descriptor in descriptors:
            os.close(descriptor)


def run_module(asked: dict[str, Any], program: int, out: int, err: int, ended: int) -> None:
    become(asked["environment"], asked["directory"], (program, out, err))
    sys.argv = ["-"]
    code: Any = 1
    try:
        exec(compile(sys.stdin.read(), "<stdin>", "exec"), {"__name__": "__main__"})
        code = 0
    except SystemExit as end:
        code = end.code or 0
    finally:
        os.write(ended, b"%d" % code)


def leave_modules_to(channel: socket.socket) -> None:
    """Have the connection to this machine ask the other process, if it is that Python which a task wants."""
    # Not at the top: the process for modules, which forks before this, must have no controller in it.
    from ansible.plugins.connection.local import Connection  # noqa: PLC0415

    started = Connection.exec_command

    def exec_command(self: Any, cmd: str, in_data: bytes | None = None, sudoable: bool = True) -> Any:
        if cmd != MODULE or in_data is None:
            return started(self, cmd, in_data, sudoable)
        asked = {"environment": dict(os.environ), "directory": os.fsdecode(self.cwd)}
        mine, ended = socket.socketpair()
        with mine, TemporaryFile() as program, TemporaryFile() as out, TemporaryFile() as err:
            program.write(in_data)
            program.seek(0)
            with ended:
                descriptors = [file.fileno() for file in (program, out, err, ended)]
                socket.send_fds(channel, [json.dumps(asked).encode()], descriptors)
            code = b"".join(iter(lambda: mine.recv(64), b""))
            out.seek(0)
            err.seek(0)
            return int(code or 255), out.read(), err.read()

    Connection.exec_command = exec_command


def prepare() -> None:
    """Import the programs and their plugins; what is the same for each run is read once."""
    # Ansible decides at its import whether to colour.
    os.environ["NO_COLOR"] = "1"
    cli: Any = importlib.import_module("ansible.cli")
    for name in ("adhoc", "inventory", "playbook"):
        importlib.import_module(f"ansible.cli.{name}")
    importlib.import_module("ansible.executor.playbook_executor")
    plugins: Any = importlib.import_module("ansible.plugins.loader")
    # A run would warn that this was done.
    cli.init_plugin_loader()
    cli.init_plugin_loader = lambda *_: None
    for loader in (plugins.become_loader, plugins.callback_loader, plugins.connection_loader, plugins.shell_loader):
        list(loader.all(class_only=True))
    for loader in (plugins.filter_loader, plugins.test_loader):
        list(loader.all())
    for name in cli.C.CALLBACKS_ENABLED:
        plugins.callback_loader.get(name, class_only=True)
    for name in cli.C.config.get_config_value("INVENTORY_ENABLED"):
        plugins.inventory_loader.get(name)
    for file in Path("plugins/action").glob("*.py"):
        plugins.action_loader.get(f"roverwatch.fleet.{file.stem}", class_only=True)
    plugins.strategy_loader.get("linear", class_only=True)


def run_program(asked: dict[str, Any]) -> None:
    files = [os.open(path, os.O_WRONLY | os.O_TRUNC) for path in asked["output"]]
    become(asked["environment"], asked["directory"], [os.open(os.devnull, os.O_RDONLY), *files])
    sys.argv = asked["arguments"]
    constants: Any = importlib.import_module("ansible.constants")
    # What is known for a run is known for no other one.
    constants.DEFAULT_LOCAL_TMP = mkdtemp(dir=constants.DEFAULT_LOCAL_TMP)
    importlib.import_module(f"ansible.cli.{asked['program']}").main(sys.argv)


def serve_programs() -> None:
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            code: Any = 255
            try:
                run_program(json.loads(line))
                code = 0
            except SystemExit as end:
                code = end.code or 0
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def main() -> None:
    programs, modules = socket.socketpair(type=socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        programs.close()
        gc.freeze()
        serve_modules(modules)
        return
    modules.close()
    prepare()
    leave_modules_to(programs)
    # A fork copies what the collector touches.
    gc.freeze()
    serve_programs()


if __name__ == "__main__":
    main()
