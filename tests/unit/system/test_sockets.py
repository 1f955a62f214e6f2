"""Who answers on a port, as the kernel of this machine has it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.system import sockets

LISTEN = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
listener = socket.socket(family)
if family == socket.AF_INET6:
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
listener.bind((sys.argv[1], int(sys.argv[2])))
listener.listen()
print(listener.getsockname()[1], flush=True)
sys.stdin.read()
"""


class Listener:
    """A process that listens, and the cgroup that it would be in."""

    def __init__(self, root: Path, address: str, port: int = 0) -> None:
        command = [sys.executable, "-I", "-S", "-c", LISTEN, address, str(port)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline())
        self.cgroup = root / str(self.process.pid)
        (self.cgroup / "container").mkdir(parents=True)
        (self.cgroup / "cgroup.procs").write_text("")
        # crun keeps a container's processes in a group below the scope.
        (self.cgroup / "container" / "cgroup.procs").write_text(f"{self.process.pid}\n")

    def end(self) -> None:
        self.process.communicate(timeout=30)

    @property
    def name(self) -> str:
        return f"{Path(f'/proc/{self.process.pid}/comm').read_text().strip()} (pid {self.process.pid}"


@pytest.fixture
def listen(tmp_path: Path) -> Iterator[object]:
    started = []

    def start(address: str, port: int = 0) -> Listener:
        started.append(Listener(tmp_path, address, port))
        return started[-1]

    yield start
    for listener in started:
        listener.end()


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::", "::ffff:127.0.0.1"])
def test_a_socket_is_its_own_processes_and_a_stranger_to_all_others(listen, tmp_path, address) -> None:
    ours = listen(address)
    assert sockets.stranger(ours.port, ours.cgroup) == ""
    (tmp_path / "another").mkdir()
    assert sockets.stranger(ours.port, tmp_path / "another").startswith(ours.name)


def test_the_one_that_is_bound_most_closely_answers(listen) -> None:
    near = listen("127.0.0.1")
    far = listen("0.0.0.0", near.port)
    assert sockets.stranger(near.port, near.cgroup) == ""
    assert sockets.stranger(near.port, far.cgroup).startswith(near.name)


def test_a_port_that_is_shared_with_a_stranger_is_not_its_own(listen) -> None:
    first = listen("127.0.0.1")
    second = listen("127.0.0.1", first.port)
    assert sockets.stranger(first.port, first.cgroup).startswith(second.name)


def test_a_port_that_nobody_listens_on(tmp_path: Path) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        assert sockets.stranger(bound.getsockname()[1], tmp_path) == sockets.NOBODY


def test_the_stranger_is_named_with_its_unit(tmp_path: Path) -> None:
    folder = tmp_path / "4711"
    (folder / "fd").mkdir(parents=True)
    (folder / "fd" / "3").symlink_to("socket:[99]")
    (folder / "comm").write_text("prometheus-node\n")
    (folder / "cgroup").write_text(
        "1:name=systemd:/docker/1/system.slice/prometheus-node-exporter.service\n0::/docker/1\n"
    )
    assert sockets.holder({99}, tmp_path) == "prometheus-node (pid 4711, prometheus-node-exporter.service)"
    assert sockets.held([os.getpid(), 4711], tmp_path) == {99}


def test_a_container_with_a_network_of_its_own_has_what_it_listens_on_there(tmp_path: Path) -> None:
    proc, cgroup = tmp_path / "proc", tmp_path / "cgroup"
    for name, network in (("self", "net:[1]"), ("100", "net:[2]"), ("4711", "net:[1]")):
        for folder in ("ns", "fd", "net"):
            (proc / name / folder).mkdir(parents=True)
        (proc / name / "ns" / "net").symlink_to(network)
    cgroup.mkdir()
    (cgroup / "cgroup.procs").write_text("100\n")
    # The engine's proxy has the port outside.
    (proc / "net").mkdir()
    (proc / "net" / "tcp").write_text("head\n 0: 00000000:1F40 0:0 0A 0 0 0 0 0 8\n")
    (proc / "4711" / "fd" / "3").symlink_to("socket:[8]")
    assert sockets.stranger(8000, cgroup, proc) == sockets.NOBODY
    (proc / "100" / "net" / "tcp").write_text("head\n 0: 00000000:0050 0:0 0A 0 0 0 0 0 9\n")
    (proc / "100" / "fd" / "4").symlink_to("socket:[9]")
    assert sockets.stranger(8000, cgroup, proc) == ""
