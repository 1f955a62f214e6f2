"""Networks of their own for tests, with the programs of this machine."""

from __future__ import annotations

import os
import subprocess
import time

PATIENCE_SECONDS = 30


class Space:
    """A network of its own, with the programs of this machine; gone with the process that holds it."""

    def __init__(self) -> None:
        self.holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        self.path = f"/proc/{self.holder.pid}/ns/net"
        deadline = time.monotonic() + PATIENCE_SECONDS
        while os.stat(self.path).st_ino == os.stat("/proc/self/ns/net").st_ino:  # noqa: PTH116 (no file system path)
            assert time.monotonic() < deadline, "unshare has not made a network"
            time.sleep(0.01)
        self.run("ip", "link", "set", "lo", "up")

    def command(self, *command: object) -> list[str]:
        return ["nsenter", f"--net={self.path}", *map(str, command)]

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
