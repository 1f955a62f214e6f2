"""Measures what the table of who may reach what costs on the running demo; writes bench/results/firewall.json and the
tables of docs/performance.md.

hub-1 connects to a port of robot-1 again and again, while the robot has the table of the demo, none, and one of many
rules in turn. Leaves the robot with the demo's own rules.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from typing import Any

from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.firewall import nftables
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.firewall import rules as firewall

from bench.fleet import INVENTORY, robots, run
from bench.report import machine, table, write_document, write_results

ROBOT, CLIENT = "robot-1", "hub-1"
ROUNDS = 5
CONNECTIONS = 3000
PORT = 9999
MANY_RULES = 500
METRICS_RUNS = 50

SERVER = f"""
import socket
server = socket.create_server(("", {PORT}), backlog=1024)
while True:
    server.accept()[0].close()
"""

# Opens connections one after another, and waits until each is closed; seconds of all.
CONNECT = f"""
import socket, time
start = time.monotonic()
for _ in range({CONNECTIONS}):
    with socket.create_connection(("{ROBOT}", {PORT})) as client:
        client.recv(1)
print(time.monotonic() - start)
"""

METRICS = f"""
import json, resource, subprocess
for _ in range({METRICS_RUNS}):
    subprocess.run(["roverwatch-firewall", "metrics"], check=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps({{"cpu_seconds": (used.ru_utime + used.ru_stime) / {METRICS_RUNS}}}))
"""


def on(name: str, *command: str, stdin: str = "") -> str:
    return subprocess.run(
        ["docker", "exec", "--interactive", f"roverwatch-{name}", *command],
        input=stdin, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip


def many_rules() -> str:
    """A table in which the port that is asked for comes last, of everything that the machine has closed."""
    entry: dict[str, Any] = {"groups": ["all"], "sources": ["192.0.2.0/24", "2001:db8::/64"]}
    listed = [{**entry, "name": f"rule-{number}", "ports": [10000 + number]} for number in range(MANY_RULES - 2)]
    listed += [
        {"name": "ssh", "groups": ["all"], "ports": [22], "sources": ["0.0.0.0/0", "::/0"], "public": True},
        {"name": "asked", "groups": ["all"], "ports": [PORT], "sources": ["0.0.0.0/0", "::/0"], "public": True},
    ]
    rules, problems = firewall.parse(listed)
    assert not problems
    return nftables.render(rules, default_drop=True)


def connections() -> dict[str, list[float]]:
    """Connections a second, by table."""
    tables = {
        "none": "table inet roverwatch {}\ndelete table inet roverwatch\n",
        "demo": on(ROBOT, "cat", "/etc/roverwatch/firewall.nft"),
        "many": many_rules(),
    }
    found: dict[str, list[float]] = {name: [] for name in tables}
    on(ROBOT, "systemd-run", "--quiet", "--collect", "--unit=bench-server", "python3", "-c", SERVER)
    try:
        for number in range(ROUNDS):
            print(f"connections to {ROBOT}, {number + 1} of {ROUNDS}", flush=True)
            for name, text in tables.items():
                on(ROBOT, "nft", "-f", "-", stdin=text)
                found[name].append(round(CONNECTIONS / float(on(CLIENT, "python3", "-c", CONNECT)), 1))
    finally:
        on(ROBOT, "systemctl", "stop", "bench-server")
        on(ROBOT, "roverwatch-firewall", "load")
    return found


def play(*args: str) -> float:
    start = time.monotonic()
    run("ansible-playbook", "-i", INVENTORY, *args, "--limit", ROBOT)
    return round(time.monotonic() - start, 1)


def plays() -> dict[str, list[float]]:
    """Seconds of firewall.yml on one robot, beside ten empty tasks."""
    found: dict[str, list[float]] = {"reference": [], "nothing": [], "change": []}
    for number in range(ROUNDS):
        print(f"runs of firewall.yml on {ROBOT}, {number + 1} of {ROUNDS}", flush=True)
        found["reference"].append(play("bench/reference.yml"))
        found["nothing"].append(play("playbooks/firewall.yml"))
        other = json.dumps({"operator_networks": ["192.0.2.0/24"]})
        found["change"].append(play("playbooks/firewall.yml", "--extra-vars", other))
        play("playbooks/firewall.yml")
    return found


def tables(results: dict[str, Any]) -> str:
    """The part of the document that is figures."""
    rates, seconds, metrics = results["connections_per_second"], results["seconds"], results["metrics"]
    none, empty = statistics.median(rates["none"]), statistics.median(seconds["reference"])
    names = {"none": "no table", "demo": "the demo's rules", "many": f"{MANY_RULES} rules, everything else closed"}
    costs = [
        [name, f"{statistics.median(rates[key]):.0f}", f"{statistics.median(rates[key]) / none:.2f}"]
        for key, name in names.items()
    ]
    runs = [
        [name, f"{statistics.median(seconds[key]):.1f}", f"{statistics.median(seconds[key]) / empty:.2f}"]
        for key, name in {"nothing": "changes nothing", "change": "tries other rules and keeps them"}.items()
    ]
    return "\n\n".join(
        [
            f"Measured on {results['machine']}, {ROUNDS} rounds, on one robot of the demo.",
            f"### Connections one after another, {CONNECTIONS} of them, from another machine",
            table(["the robot has", "connections a second (median)", "to no table"], costs),
            "### A run of `firewall.yml` that",
            table(["", "seconds (median)", "to ten empty tasks"], runs),
            f"Writing the metrics, every 15 s, takes {metrics['cpu_seconds'] * 1000:.0f} ms of CPU.",
        ]
    )


def main() -> None:
    if ROBOT not in robots():
        sys.exit("The demo is not running: make demo")
    results = {
        "machine": machine(),
        "connections_per_second": connections(),
        "metrics": json.loads(on(ROBOT, "python3", "-c", METRICS)),
        "seconds": plays(),
    }
    write_results("firewall", results)
    write_document("bench/firewall.py", tables(results))


if __name__ == "__main__":
    main()
