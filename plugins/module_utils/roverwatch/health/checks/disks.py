"""What the services write finds room."""

from __future__ import annotations

from ...common.problem import Problem
from ...system import filesystems
from ..machine import Machine


def check(machine: Machine) -> list[Problem]:
    paths, host = machine.paths, machine.options.host
    return [
        Problem(
            host,
            "disk",
            f"{disk.mount} {disk.what}",
            f"on {host}: df -h {disk.mount}; du -xh -d2 {disk.mount} | sort -h. History: lower "
            "victoriametrics_retention. Queues: vmagent_queue_max. Old versions: /opt/roverwatch/<name>/",
        )
        for disk in filesystems.full(paths.data, paths.also_written, paths.proc / "self" / "mountinfo")
    ]
