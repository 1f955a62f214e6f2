"""Measures what a robot of the demo costs its link: the kernel's counters of its interface, TLS and all.

`python -m bench.wire` takes half an hour: the robots are deployed with a scrape interval of 15 s, and one of them is
measured with each delay; then it is cut off its hub for some minutes. What a robot cost before its services said which
of their metrics are worth keeping is in bench/results/wire_before.json, measured in the same way.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

from bench.report import RESULTS, ROOT, machine, table, write_document, write_results

INVENTORY = "inventory/lab.docker.yml"
NETWORK = "roverwatch"
ROBOT, HUB = "roverwatch-robot-1", "roverwatch-hub-1"
SCRAPE_INTERVAL = "15s"
# By vmagent_hub_delay, its name and for how long it is measured.
DELAYS = {"30s": ("30 s, the default", 600), "1m": ("1 min", 180), "2m": ("2 min", 240)}
OUTAGE_SECONDS = 120
AGE_EVERY_SECONDS = 10
DAY = 86400


@dataclass(frozen=True)
class Counters:
    """Of a robot at a time, since it started: bytes through its interface, and what vmagent did for the first hub."""

    time: float
    on_the_wire: float
    payload: float
    samples: float
    blocks: float
    queued: float


@dataclass(frozen=True)
class Cost:
    """Of a robot in so many seconds."""

    delay: str
    seconds: float
    on_the_wire: float
    payload: float
    samples: float
    blocks: float
    series: int
    oldest_sample_seconds: float

    @property
    def wire_megabytes_a_day(self) -> float:
        return self.on_the_wire / self.seconds * DAY / 1e6


def run(*command: str) -> str:
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def fetch(container: str, url: str) -> str:
    """What a service of a machine answers."""
    return run(
        *("docker", "exec", container, "python3", "-c"),
        f"import urllib.request as u; print(u.urlopen({url!r}, timeout=30).read().decode())",
    )


def deploy(*extra: str) -> None:
    run("ansible-playbook", "-i", INVENTORY, "playbooks/site.yml", "--limit", "robots", *extra)


def counters() -> Counters:
    # Docker takes the interface away where it cuts a robot off, and gives it another number when it is back.
    files = "/sys/class/net/eth*/statistics/[rt]x_bytes"
    wire = run("docker", "exec", ROBOT, "sh", "-c", f"cat {files} 2>/dev/null || true")
    now, metrics = time.time(), fetch(ROBOT, "http://127.0.0.1:8429/metrics")

    def of(name: str) -> float:
        return sum(
            float(value) for value in re.findall(rf'^{name}{{[^}}]*url="2:[^}}]*}} (\S+)$', metrics, re.MULTILINE)
        )

    return Counters(
        time=now,
        on_the_wire=sum(map(float, wire.split())),
        payload=of("vmagent_remotewrite_bytes_sent_total"),
        samples=of("vmagent_remotewrite_rows_pushed_after_relabel_total"),
        blocks=of("vmagent_remotewrite_blocks_sent_total"),
        queued=of("vmagent_remotewrite_pending_data_bytes"),
    )


def ask(container: str, query: str) -> float:
    answer = fetch(container, f"http://127.0.0.1:8428/api/v1/query?nocache=1&query={query}")
    return float(json.loads(answer)["data"]["result"][0]["value"][1])


def age() -> float:
    """Seconds since the newest sample of the robot that the hub has."""
    return time.time() - ask(HUB, "max(tlast_over_time(up%7Brobot=%22robot-1%22%7D%5B10m%5D))")


def next_block() -> Counters:
    """The counters just after a block was sent: what is measured has whole blocks."""
    first = counters()
    while (now := counters()).blocks == first.blocks:
        time.sleep(1)
    return now


def gather_for(delay: str) -> None:
    """Change the delay alone: the deployment at the end puts the unit right."""
    unit = "/etc/systemd/system/roverwatch-vmagent.service"
    flag = "-remoteWrite.flushInterval="
    run("docker", "exec", ROBOT, "sed", "-i", f"s/{flag}[0-9a-z]*/{flag}{delay}/", unit)
    run("docker", "exec", ROBOT, "systemctl", "daemon-reload")
    run("docker", "exec", ROBOT, "systemctl", "restart", "roverwatch-vmagent")


def measure(delay: str, seconds: float) -> Cost:
    print(f"{seconds:.0f} s with a delay of {delay}", flush=True)
    before, ages = next_block(), []  # the first block has what is left of the start
    while (left := before.time + seconds - 5 - time.time()) > 0:
        time.sleep(min(left, AGE_EVERY_SECONDS))
        ages.append(age())
    after = next_block()
    # Each service says how many of its samples are kept, and the scrape six more about itself.
    series = ask(ROBOT, "sum(scrape_samples_post_metric_relabeling)%2B6*count(up)")
    return Cost(
        delay=delay,
        seconds=round(after.time - before.time, 1),
        on_the_wire=after.on_the_wire - before.on_the_wire,
        payload=after.payload - before.payload,
        samples=after.samples - before.samples,
        blocks=after.blocks - before.blocks,
        series=int(series),
        oldest_sample_seconds=round(max(ages), 1),
    )


def outage() -> dict[str, float]:
    """What waits on the robot's disk for a hub that it cannot reach, by the sample."""
    print(f"{OUTAGE_SECONDS} s without the hub", flush=True)
    run("docker", "network", "disconnect", NETWORK, ROBOT)
    try:
        time.sleep(60)  # what is under way fails and is queued
        before = counters()
        time.sleep(OUTAGE_SECONDS)
        after = counters()
    finally:
        run("docker", "network", "connect", "--alias", "robot-1", NETWORK, ROBOT)
    samples, queued = after.samples - before.samples, after.queued - before.queued
    return {
        "seconds": round(after.time - before.time, 1),
        "samples": samples,
        "bytes": queued,
        "bytes_a_sample": round(queued / samples, 2),
        "bytes_a_second": round(queued / (after.time - before.time), 1),
    }


def row(cost: Cost) -> list[str]:
    return [
        cost.delay,
        str(cost.series),
        f"{cost.samples / cost.seconds:.1f}",
        f"{cost.payload / cost.samples:.1f}",
        f"{cost.payload / cost.seconds * DAY / 1e6:.1f}",
        f"{cost.wire_megabytes_a_day:.1f}",
        f"{cost.oldest_sample_seconds:.0f}" if cost.oldest_sample_seconds else "",
    ]


def verdict(target: str, measured: str, met: bool) -> list[str]:
    return [target, measured, "met" if met else "**missed**"]


def tables(results: dict[str, Any]) -> str:
    before, costs, queue = Cost(**results["before"]), [Cost(**cost) for cost in results["costs"]], results["outage"]
    default, *longer = costs
    old_queue = before.payload / before.seconds
    best = min(longer, key=lambda cost: cost.wire_megabytes_a_day)
    seconds = sorted({round(cost.seconds) for cost in (before, *costs)})
    return "\n\n".join(
        [
            f"Measured on {results['machine']}, a scrape each 15 s, for {' or '.join(map(str, seconds))} s each.",
            table(
                [
                    "samples are gathered for",
                    "series",
                    "samples a second",
                    "bytes a sample",
                    "MB of samples a day",
                    "MB on the wire a day",
                    "the hub's newest sample at most, s old",
                ],
                [row(cost) for cost in (before, *costs)],
            ),
            f"Without the hub for {queue['seconds']:.0f} s the queue took {queue['bytes_a_sample']:.1f} bytes a sample,"
            f" {queue['bytes_a_second']:.0f} a second; before, the robot sent {old_queue:.0f} a second.",
            table(
                ["target", "measured", ""],
                [
                    verdict(
                        "at most 35 MB a day on the wire by default",
                        f"{default.wire_megabytes_a_day:.1f} MB",
                        default.wire_megabytes_a_day <= 35,
                    ),
                    verdict(
                        "at most 15 MB a day with blocks of a minute or two",
                        f"{best.wire_megabytes_a_day:.1f} MB at {best.delay}",
                        best.wire_megabytes_a_day <= 15,
                    ),
                    verdict("at most 500 series", str(default.series), default.series <= 500),
                    verdict(
                        "a newest sample of at most 45 s by default",
                        f"{default.oldest_sample_seconds:.0f} s",
                        default.oldest_sample_seconds <= 45,
                    ),
                    verdict(
                        "the queue takes at most a tenth of what it took",
                        f"{queue['bytes_a_second'] / old_queue:.3f}",
                        queue["bytes_a_second"] <= old_queue / 10,
                    ),
                ],
            ),
        ]
    )


def main() -> None:
    if ROBOT not in run("docker", "ps", "--format", "{{.Names}}").split():
        sys.exit("The demo is not running: make demo")
    deploy("-e", f"vmagent_scrape_interval={SCRAPE_INTERVAL}")
    costs = []
    waits: dict[str, float] = {}
    for delay, (name, seconds) in DELAYS.items():
        gather_for(delay)
        costs.append(measure(name, seconds))
        print(costs[-1], flush=True)
        waits = waits or outage()
    results = {
        "machine": machine(),
        "before": json.loads((RESULTS / "wire_before.json").read_text()),
        "costs": [asdict(cost) for cost in costs],
        "outage": waits,
    }
    write_results("wire", results)
    write_document("bench/wire.py", tables(results))
    deploy()


if __name__ == "__main__":
    main()
