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

FLEETS = (10, 25, 50)


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


def site(robots: int, group: str = "robots", **environment: str) -> Run:
    """Run site.yml on the robots of a fleet that has nothing to do, or on its hub."""
    return run("playbooks/site.yml", robots, group, **environment)


def empty(tasks: int, robots: int) -> Run:
    """Run tasks that do nothing on the same robots: what Ansible itself takes."""
    play = {"hosts": "robots", "become": True, "gather_facts": False, "tasks": [{"ansible.builtin.ping": {}}] * tasks}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "empty.yml"
        path.write_text(json.dumps([play]))
        return run(str(path), robots, "robots")


def run(playbook: str, robots: int, group: str, **environment: str) -> Run:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "inventory.yml").write_text(inventory(robots))
        (place / "group_vars").symlink_to(ROOT / "group_vars")
        calls = place / "calls"
        environment = {
            **os.environ,
            **environment,
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
        command = ["ansible-playbook", "-i", str(place / "inventory.yml"), playbook, "--limit", group]
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
    print("once more, with plugins loaded and templates compiled for each task anew", flush=True)
    without = [site(robots, ANSIBLE_CALLBACKS_ENABLED="roverwatch.fleet.rollout") for robots in (FLEETS[0], FLEETS[-1])]
    first, last = runs[0], runs[-1]
    print(f"{first.calls} empty tasks on the same robots", flush=True)
    floor = further_robot(*(empty(first.calls, robots) for robots in (FLEETS[0], FLEETS[-1])))
    rows = [
        {"robots": run.robots, "calls": run.calls, "ok": run.ok, "cpu_seconds": round(run.cpu_seconds, 2)}
        for run in runs
    ]
    further = {
        "up to half": further_robot(first, runs[-2]),
        "up to all": further_robot(first, last),
        f"{first.calls} empty tasks": floor,
        "without the callback preload": further_robot(*without),
    }
    write_results("controller", {"machine": machine(), "runs": rows, "cpu_seconds_per_further_robot": further})
    header = ["robots", "module calls per robot", "`ok=`", "CPU seconds"]
    lines = [
        f"Measured on {machine()}.",
        table(header, [[str(value) for value in row.values()] for row in rows]),
        f"Each robot beyond the first {first.robots} takes {further['up to all']} s of CPU, and in the smaller half of"
        f" these fleets {further['up to half']} s. Without the callback `preload`, which loads plugins and compiles"
        f" templates before Ansible forks, it is {further['without the callback preload']} s.",
        f"As many empty tasks (`ping`) as a robot has module calls, in the same run, take {floor} s: the"
        f" ratio is {further['up to all'] / floor:.2f}.",
    ]
    write_document("bench/controller.py", "\n\n".join(lines))


def further_robot(fewer: Run, more: Run) -> float:
    """CPU seconds of each robot that the larger fleet has more."""
    return round((more.cpu_seconds - fewer.cpu_seconds) / (more.robots - fewer.robots), 3)


if __name__ == "__main__":
    main()
