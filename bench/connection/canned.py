"""A connection to machines that exist on paper: each module call is answered as a machine with nothing to do would.

What is left of a run is the controller's share. Each call is a line (host, module) in the file that CANNED_CALLS names.
"""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

from ansible.plugins.connection import ConnectionBase

DOCUMENTATION = """
name: canned
short_description: answers module calls itself
description: Machines on paper, for bench/controller.py.
"""

# How a module's payload calls itself.
MODULE = re.compile(rb"^ansible_module='([\w.]+)',$", re.MULTILINE)
GIB = 1 << 30


NOTHING: dict[str, Any] = {"directories": [], "files": {}, "reload": [], "enabled": []}


def answer(module: str, address: str) -> dict[str, Any]:
    """The result of a module on a machine with nothing to do."""
    name = module.rpartition(".")[2]
    if name == "base":
        return {"changed": False, **base(address)}
    return {"changed": False, **{"machine_files": files, "host_firewall": firewall}.get(name, dict)()}


def base(address: str) -> dict[str, Any]:
    machine = {
        "user": "root",
        "architecture": "x86_64",
        "init": "systemd",
        "model": "",
        "cgroup_version": 2,
        "disk_free": 1000 * GIB,
        "data_free": 1000 * GIB,
        "data_used": 0,
        "data_beside_artifacts": True,
        "time": time.time(),
        "engines": ["podman"],
    }
    return {
        "machine": machine,
        "hubs": {"https://hub-1.example.com:8427": None},
        "user": True,
        "differences": NOTHING,
        "identity": {"system": address, "machine_id": address},
        "deployed_as": "",
        "held": [],
        "strangers": [],
        "places": {},
        "artifacts": [],
        "missing_devices": [],
        "image_policy": "",
    }


def files() -> dict[str, Any]:
    return {"differences": NOTHING}


def firewall() -> dict[str, Any]:
    return {"trying": False, "client": "", "listening": [], "other_firewalls": []}


class Connection(ConnectionBase):
    transport = "canned"
    has_pipelining = True

    def _connect(self) -> Connection:
        return self

    def exec_command(self, cmd: str, in_data: bytes | None = None, sudoable: bool = True) -> tuple[int, bytes, bytes]:
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        found = MODULE.search(in_data or b"")
        if not found:
            return 0, b"", b""
        module = found[1].decode()
        with Path(os.environ["CANNED_CALLS"]).open("a") as calls:
            calls.write(f"{self._play_context.remote_addr} {module}\n")
        return 0, json.dumps(answer(module, self._play_context.remote_addr)).encode(), b""

    def put_file(self, in_path: str, out_path: str) -> None:
        raise NotImplementedError("a machine on paper lacks nothing")

    def fetch_file(self, in_path: str, out_path: str) -> None:
        raise NotImplementedError("a machine on paper has nothing")

    def close(self) -> None:
        pass
