"""Measures the running demo, and writes bench/results/fleet.json and the tables of docs/performance.md.

Each figure is taken beside something from the same run, since machines differ and are noisy.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import time
from typing import Any

from bench.report import ROOT, table, write_document, write_results

INVENTORY = "inventory/lab.docker.yml"
RUNS = 3
# All of the demo, its robots, one of them, its hub.
LIMITS = ("all", "robots", "robot-1", "hubs")
SITE_COLUMNS = ("limit", "machines", "ok", "seconds_median", "reference_seconds_median", "ratio_to_ten_empty_tasks")
BINARIES = ("roverwatch-node-exporter", "roverwatch-victoriametrics", "roverwatch-vmagent")


def run(*command: str) -> str:
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def play(playbook: str, limit: str = "all") -> tuple[float, str]:
    """Seconds and output of an ansible-playbook on the demo."""
    start = time.monotonic()
    output = run("ansible-playbook", "-i", INVENTORY, playbook, "--limit", limit)
    return time.monotonic() - start, output


def robots() -> dict[str, str]:
    """The demo's robots, and the Debian that each runs."""
    names = run(
        "docker", "ps", "--filter", "label=roverwatch.lab=demo", "--format", '{{.Label "roverwatch.host"}}'
    ).split()
    found = {}
    for name in sorted(name for name in names if name.startswith("robot-")):
        release = run("docker", "exec", f"roverwatch-{name}", "cat", "/etc/os-release")
        match = re.search(r'PRETTY_NAME="(.*)"', release)
        assert match
        found[name] = match[1]
    return found


def site() -> list[dict[str, Any]]:
    """Runs of site.yml that change nothing, beside ten tasks that do nothing on the same machines."""
    rows = []
    for limit in LIMITS:
        seconds, references, output = [], [], ""
        for number in range(RUNS):
            print(f"site.yml without changes on {limit}, {number + 1} of {RUNS}", flush=True)
            elapsed, output = play("playbooks/site.yml", limit)
            assert not re.search(r"changed=[1-9]", output), "the demo was not at rest"
            seconds.append(elapsed)
            references.append(play("bench/reference.yml", limit)[0])
        recap = re.findall(r"^[\w-]+ +: ok=(\d+)", output, re.MULTILINE)
        median, reference = statistics.median(seconds), statistics.median(references)
        rows.append(
            {
                "limit": limit,
                "machines": len(recap),
                "ok": max(map(int, recap)),
                "seconds_median": round(median, 1),
                "seconds_all": [round(value, 1) for value in seconds],
                "reference_seconds_median": round(reference, 1),
                "ratio_to_ten_empty_tasks": round(median / reference, 2),
            }
        )
    return rows


def resident(host: str, unit: str) -> int:
    """Bytes of memory that the service's process has resident, its program's own pages included."""
    container = f"roverwatch-{host}"
    if unit == "roverwatch-sensor":
        pid = run("docker", "exec", container, "podman", "inspect", "--format", "{{.State.Pid}}", unit)
    else:
        pid = run("docker", "exec", container, "systemctl", "show", "--property=MainPID", "--value", unit)
    match = re.search(r"VmRSS:\s+(\d+) kB", run("docker", "exec", container, "cat", f"/proc/{pid.strip()}/status"))
    assert match
    return int(match[1]) * 1024


def memory() -> list[dict[str, Any]]:
    """What the kernel reports of each service on each robot, from the health report."""
    print("memory", flush=True)
    play("playbooks/health.yml")
    report = json.loads((ROOT / "reports" / "health.json").read_text())
    rows = []
    for host, machine in report["hosts"].items():
        for service in machine["services"]:
            memory = service["memory"]
            rows.append(
                {
                    "host": host,
                    "unit": service["unit"],
                    "resident_bytes": resident(host, service["unit"]),
                    "working_set_bytes": memory["working_set_bytes"],
                    "peak_bytes": memory["peak_bytes"],
                    "limit_bytes": memory["limit_bytes"],
                }
            )
    return rows


def exposure(names: dict[str, str]) -> list[dict[str, Any]]:
    """systemd's own rating of each unit's sandbox, from 0 (locked in) to 10 (no sandbox)."""
    print("systemd-analyze security", flush=True)
    rows = []
    for debian in sorted(set(names.values())):
        name = next(name for name in names if names[name] == debian)
        for unit in BINARIES:
            said = run("docker", "exec", f"roverwatch-{name}", "systemd-analyze", "security", "--no-pager", unit)
            match = re.search(r"level for .*: ([\d.]+)", said)
            assert match
            rows.append({"system": debian, "unit": unit, "exposure": float(match[1])})
    return rows


def restart(name: str) -> float:
    """Seconds from the start of a robot that was killed until each of its services answers."""
    print(f"{name}: killed and started", flush=True)
    container = f"roverwatch-{name}"
    run("docker", "kill", container)
    start = time.monotonic()
    run("docker", "start", container)
    urls = ["8000/readyz", "8428/health", "8429/health", "9100/metrics"]
    probe = f"import urllib.request as u; [u.urlopen('http://127.0.0.1:' + p, timeout=2) for p in {urls}]"
    while subprocess.run(
        ["docker", "exec", container, "python3", "-c", probe], capture_output=True, check=False
    ).returncode:
        assert time.monotonic() - start < 60, f"{name} did not come back"
        time.sleep(0.2)
    return round(time.monotonic() - start, 1)


def artifacts() -> list[dict[str, Any]]:
    manifest = json.loads((ROOT / "artifacts" / "manifest.json").read_text())["artifacts"]
    newest = {(entry["name"], entry["arch"]): entry for entry in manifest}
    return [{key: entry[key] for key in ("name", "version", "arch", "size", "source")} for entry in newest.values()]


def mib(count: float) -> str:
    return f"{count / (1 << 20):.1f}"


def tables(results: dict[str, Any]) -> str:
    """The part of the document that is figures."""
    units = sorted({row["unit"] for row in results["memory"] if row["host"].startswith("robot")})

    def of(unit: str, key: str) -> list[int]:
        return [row[key] for row in results["memory"] if row["unit"] == unit and row["host"].startswith("robot")]

    return "\n\n".join(
        [
            f"Measured on {results['machine']}.",
            "### A run of `site.yml` that changes nothing",
            table(
                ["`--limit`", "machines", "`ok=`", "seconds (median)", "ten empty tasks, same run", "ratio"],
                [[str(row[key]) for key in SITE_COLUMNS] for row in results["site"]],
            ),
            "### Memory on a robot, MiB",
            table(
                ["unit", "resident", "working set", "peak", "cap", "peak of cap"],
                [
                    [
                        f"`{unit}`",
                        mib(max(of(unit, "resident_bytes"))),
                        mib(max(of(unit, "working_set_bytes"))),
                        mib(max(of(unit, "peak_bytes"))),
                        mib(max(of(unit, "limit_bytes"))),
                        f"{100 * max(of(unit, 'peak_bytes')) / max(of(unit, 'limit_bytes')):.0f} %",
                    ]
                    for unit in units
                ],
            ),
            "### `systemd-analyze security`",
            table(
                ["unit", *sorted({row["system"] for row in results["exposure"]})],
                [
                    [
                        f"`{unit}`",
                        *(
                            str(row["exposure"])
                            for row in sorted(results["exposure"], key=lambda row: str(row["system"]))
                            if row["unit"] == unit
                        ),
                    ]
                    for unit in BINARIES
                ],
            ),
            "### A robot that is killed and started again",
            table(
                ["robot", "system", "seconds until every service answers"],
                [[name, row["system"], str(row["seconds"])] for name, row in results["restart"].items()],
            ),
            "### What is sent to a robot or a hub",
            table(
                ["artifact", "version", "architecture", "MiB", "source"],
                [
                    [row["name"], row["version"], row["arch"], mib(row["size"]), row["source"]]
                    for row in results["artifacts"]
                ],
            ),
        ]
    )


def main() -> None:
    names = robots()
    if not names:
        sys.exit("The demo is not running: make demo")
    engine = run(
        "docker",
        "info",
        "--format",
        "{{.NCPU}} cores, {{.KernelVersion}}, cgroup v{{.CgroupVersion}}, Docker {{.ServerVersion}}",
    )
    results = {
        "machine": engine.strip(),
        "memory": memory(),
        "site": site(),
        "exposure": exposure(names),
        "restart": {name: {"system": system, "seconds": restart(name)} for name, system in names.items()},
        "artifacts": artifacts(),
    }
    write_results("fleet", results)
    write_document("bench/fleet.py", tables(results))


if __name__ == "__main__":
    main()
