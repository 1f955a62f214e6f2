"""Networks of their own for tests, with the programs of this machine."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator

PATIENCE_SECONDS = 30

# In front of a command that wants to be root of its networks: nothing where we are.
AS_ROOT: list[str] = []


class NoNetworks(Exception):
    """This user cannot make networks here; the text says why."""


@contextlib.contextmanager
def root() -> Iterator[None]:
    """Networks can be made: by root, else in a user namespace, in which this user is root; one for all, so that they
    can be joined."""
    if os.geteuid() == 0:
        yield
        return
    own = ("unshare", "--user", "--map-root-user")
    tried = subprocess.run(
        [*own, "--net", "ip", "link", "set", "lo", "up"], capture_output=True, text=True, check=False
    )
    if tried.returncode != 0:
        raise NoNetworks(f"only root can make networks, and this user has no namespaces: {tried.stderr.strip()}")
    with subprocess.Popen([*own, "sleep", "infinity"]) as holder:
        try:
            path = f"/proc/{holder.pid}/ns/user"
            _wait_for_another(path, "/proc/self/ns/user")
            AS_ROOT[:] = ["nsenter", f"--user={path}", "--preserve-credentials"]
            yield
        finally:
            AS_ROOT.clear()
            holder.kill()


def _wait_for_another(path: str, ours: str) -> None:
    """Wait until a process has left our namespace."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while os.stat(path).st_ino == os.stat(ours).st_ino:  # noqa: PTH116 (no file system path)
        assert time.monotonic() < deadline, f"unshare has not made {path}"
        time.sleep(0.01)


class Space:
    """A network of its own, with the programs of this machine; gone with the process that holds it."""

    def __init__(self) -> None:
        self.holder = subprocess.Popen([*AS_ROOT, "unshare", "--net", "sleep", "infinity"])
        self.path = f"/proc/{self.holder.pid}/ns/net"
        _wait_for_another(self.path, "/proc/self/ns/net")
        self.run("ip", "link", "set", "lo", "up")

    def command(self, *command: object) -> list[str]:
        return [*(AS_ROOT or ["nsenter"]), f"--net={self.path}", *map(str, command)]

    def run(self, *command: object, stdin: str = "") -> str:
        done = subprocess.run(self.command(*command), input=stdin, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def load(self, table: str) -> None:
        self.run("nft", "-f", "-", stdin=table)

    def listed(self) -> str:
        return self.run("nft", "-s", "list", "ruleset")

    def close(self) -> None:
        self.holder.kill()
        self.holder.wait()
