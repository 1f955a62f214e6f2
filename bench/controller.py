"""The controller's share of a run that changes nothing, for fleets on paper: their machines answer at once.

Writes bench/results/controller.json and a table of docs/performance.md.
"""

from __future__ import annotations

import collections
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.report import ROOT, machine, table, write_document, write_results

FLEETS = (10, 25, 50, 100)


@dataclass(frozen=True)
class Run:
    """What a run of site.yml took: module calls and the recap's `ok=`, each of the host with the most."""

    robots: int
    cpu_seconds: float
    calls: int
    ok: int
    hosts: int


def inventory(robots: int) -> str:
    hosts = "\n".join(f"    robot-{number}:" for number in range(1, robots + 1))
    return f"robots:\n  hosts:\n{hosts}\nhubs:\n  hosts:\n    hub-1: {{hub_address: hub-1.example.com}}\n"


def site(robots: int, group: str = "robots") -> Run:
    """Run site.yml on the robots of a fleet that has nothing to do, or on its hub."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "inventory.yml").write_text(inventory(robots))
        (place / "group_vars").symlink_to(ROOT / "group_vars")
        calls = place / "calls"
        environment = {
            **os.environ,
            "ANSIBLE_CONNECTION_PLUGINS": str(ROOT / "bench" / "connection"),
            "CANNED_CALLS": str(calls),
            "NO_COLOR": "1",
        }
        settings = {
            "ansible_connection": "canned",
            "ansible_pipelining": True,
            "artifacts_dir": str(ROOT / "artifacts"),
            "fleet_secret": "of a fleet on paper, and nothing else",
            "pki_dir": str(place / "pki"),
            # That of a public authority, which the robots' systems trust.
            "vmagent_hub_ca": "",
        }
        command = ["ansible-playbook", "-i", str(place / "inventory.yml"), "playbooks/site.yml", "--limit", group]
        command += ["-e", json.dumps(settings)]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode != 0:
            sys.exit(done.stdout + done.stderr)
        per_host = collections.Counter(line.split()[0] for line in calls.read_text().splitlines())
    return Run(
        robots=robots,
        cpu_seconds=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        calls=max(per_host.values()),
        ok=max(map(int, re.findall(r": ok=(\d+) ", done.stdout))),
        hosts=len(per_host),
    )


def main() -> None:
    runs = []
    for robots in FLEETS:
        print(f"site.yml for {robots} robots on paper", flush=True)
        runs.append(site(robots))
    first = runs[0]
    rows = []
    for run in runs:
        row = {"robots": run.robots, "calls": run.calls, "ok": run.ok, "cpu_seconds": round(run.cpu_seconds, 2)}
        if run != first:
            further = (run.cpu_seconds - first.cpu_seconds) / (run.robots - first.robots)
            row["cpu_seconds_per_further_robot"] = round(further, 3)
        rows.append(row)
    write_results("controller", {"machine": machine(), "runs": rows})
    header = ["robots", "module calls per robot", "`ok=`", "CPU seconds", f"for each beyond the first {first.robots}"]
    keys = ["robots", "calls", "ok", "cpu_seconds", "cpu_seconds_per_further_robot"]
    write_document("bench/controller.py", table(header, [[str(row.get(key, "")) for key in keys] for row in rows]))


if __name__ == "__main__":
    main()
