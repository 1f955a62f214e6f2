"""Measures an update of one robot of the running demo, and the way back, and writes bench/results/rollout.json and the
tables of docs/performance.md.

Needs tests/ on the path, whose releases it rolls out. Leaves the robot on the release that it had.
"""

from __future__ import annotations

import json
import re
import shutil
import statistics
import subprocess
import sys
import time
from typing import Any

import releases
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.rollout import journal

from bench.fleet import INVENTORY, robots, run
from bench.report import ROOT, machine, table, write_document, write_results

RUNS = 3
ROBOT = "robot-1"
BAKE_SECONDS = 10
GOING_BACK = ("a good release, confirmed", "one that ends at its start", "one that never gets ready")


def roll(name: str, release_args: list[str]) -> list[dict[str, Any]]:
    """The robot's lines in the journal of a rollout to this one robot."""
    folder = ROOT / "rollouts" / name
    shutil.rmtree(folder, ignore_errors=True)
    settings = {
        "rollout_release": name,
        "rollout_bake": f"{BAKE_SECONDS}s",
        "rollout_gates": [],
        "sensor_service_ready_timeout": 10,
    }
    subprocess.run(
        ["ansible-playbook", "-i", INVENTORY, "playbooks/rolling_update.yml", "--limit", ROBOT, *release_args,
         "--extra-vars", json.dumps(settings)],
        cwd=ROOT, check=False, capture_output=True,
    )  # fmt: skip
    lines = [line for line in journal.read(folder / "journal.jsonl") if line.get("robot") == ROBOT]
    shutil.rmtree(folder)
    return lines


def updated(name: str, release_args: list[str]) -> float:
    """Seconds from the begin of an update to its confirmation, without the bake."""
    lines = {line["phase"]: line for line in roll(name, release_args)}
    assert "confirmed" in lines, f"{name} was not confirmed: {lines}"
    return journal.seconds(lines["confirmed"]["time"]) - journal.seconds(lines["begun"]["time"]) - BAKE_SECONDS


def taken_back() -> float:
    """Seconds of the robot's last rollback, until every service was well, as its tool says."""
    log = run("docker", "exec", f"roverwatch-{ROBOT}", "journalctl", "-t", "roverwatch-release", "-o", "cat", "-n", "9")
    found = re.findall(r"rolled back .* in ([\d.]+) s: healthy", log)
    assert found, f"no rollback that ended well: {log}"
    return float(found[-1])


def back() -> float:
    run("docker", "exec", f"roverwatch-{ROBOT}", "roverwatch-release", "rollback", "--reason", "measured")
    return taken_back()


def reference() -> float:
    """Seconds of ten empty tasks on the robot."""
    start = time.monotonic()
    run("ansible-playbook", "-i", INVENTORY, "bench/reference.yml", "--limit", ROBOT)
    return time.monotonic() - start


def measure() -> dict[str, Any]:
    args = releases.prepare()
    pinned = ["--extra-vars", json.dumps({"artifacts_dir": str(releases.STORE)})]
    good = [*args["sensor_good"], *args["vmagent_good"]]
    found: dict[str, Any] = {"nothing": [], "update": [], "reference": [], **{name: [] for name in GOING_BACK}}
    for number in range(RUNS):
        print(f"updates of {ROBOT}, {number + 1} of {RUNS}", flush=True)
        found["reference"].append(reference())
        found["nothing"].append(updated("bench-nothing", pinned))
        found["update"].append(updated("bench-update", good))
        found[GOING_BACK[0]].append(back())
        for name, release in zip(GOING_BACK[1:], ("sensor_crashes", "sensor_never_ready"), strict=True):
            phases = [line["phase"] for line in roll("bench-bad", args[release])]
            assert phases[-1] == "rolled_back", phases
            found[name].append(taken_back())
    return {name: [round(seconds, 1) for seconds in values] for name, values in found.items()}


def tables(results: dict[str, Any]) -> str:
    """The part of the document that is figures."""
    seconds = results["seconds"]
    empty = statistics.median(seconds["reference"])

    def row(name: str, key: str) -> list[str]:
        values = seconds[key]
        return [
            name,
            f"{statistics.median(values):.1f}",
            f"{max(values):.1f}",
            f"{statistics.median(values) / empty:.2f}",
        ]

    header = ["", "seconds (median)", "longest", "to ten empty tasks"]
    return "\n\n".join(
        [
            f"Measured on {results['machine']}, {RUNS} times each, on one robot of the demo.",
            "### An update of a robot, from its begin to its confirmation, without the bake and the hubs' gates",
            table(
                header, [row("that changes nothing", "nothing"), row("of the sensor service and of vmagent", "update")]
            ),
            "### The way back, until every service is well",
            table(header, [row(f"from {name}", name) for name in GOING_BACK]),
        ]
    )


def main() -> None:
    if ROBOT not in robots():
        sys.exit("The demo is not running: make demo")
    results = {"machine": machine(), "seconds": measure()}
    write_results("rollout", results)
    write_document("bench/rollout.py", tables(results))


if __name__ == "__main__":
    main()
