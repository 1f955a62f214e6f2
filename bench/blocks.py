"""Measures what makes a block of samples small: vmagents with other flags beside the one of a robot of the demo.

`python -m bench.blocks` takes seven minutes. Each scrapes what the robot's own does, with the same configuration, and
writes to a sink on the robot, so that the robot's link has no part in it.
"""

from __future__ import annotations

import re
import sys
import time
from dataclasses import asdict, dataclass

from bench.report import machine, table, write_document, write_results
from bench.wire import ROBOT, fetch, run

SECONDS = 400
DIRECTORY = "/root/bench-blocks"
SINK_PORT, FIRST_PORT = 17000, 17001
LEVEL = "-remoteWrite.vmProtoCompressLevel"
DELAY = "-remoteWrite.flushInterval"
RELABEL = "-remoteWrite.urlRelabelConfig"

SINK = f"""
import http.server

class Sink(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(204)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *args):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", {SINK_PORT}), Sink).serve_forever()
"""
# The first is what the robot does.
VARIANTS = {
    "as the role has it: 30 s, zstd level 10": [f"{DELAY}=30s", f"{LEVEL}=10"],
    "gathered for 1 s": [f"{DELAY}=1s", f"{LEVEL}=10"],
    "for 15 s": [f"{DELAY}=15s", f"{LEVEL}=10"],
    "for 1 min": [f"{DELAY}=1m", f"{LEVEL}=10"],
    "for 2 min": [f"{DELAY}=2m", f"{LEVEL}=10"],
    "zstd level of vmagent's default": [f"{DELAY}=30s"],
    "zstd level 22": [f"{DELAY}=30s", f"{LEVEL}=22"],
    "six significant digits": [f"{DELAY}=30s", f"{LEVEL}=10", "-remoteWrite.significantFigures=6"],
    "without `fleet` and `site`": [f"{DELAY}=30s", f"{LEVEL}=10", f"{RELABEL}={DIRECTORY}/two.yml"],
    "without `robot` as well": [f"{DELAY}=30s", f"{LEVEL}=10", f"{RELABEL}={DIRECTORY}/three.yml"],
}


@dataclass(frozen=True)
class Measured:
    """All blocks of a vmagent."""

    variant: str
    blocks: float
    bytes_a_sample: float
    cpu_seconds: float


def inside(script: str) -> str:
    return run("docker", "exec", ROBOT, "sh", "-c", script)


def start() -> None:
    labels = {"two": "fleet|site", "three": "fleet|site|robot"}
    files = {"sink.py": SINK} | {f"{n}.yml": f"- {{action: labeldrop, regex: {r}}}\n" for n, r in labels.items()}
    inside(f"mkdir -p {DIRECTORY}")
    for name, text in files.items():
        run("docker", "exec", ROBOT, "python3", "-c", f"open({DIRECTORY + '/' + name!r}, 'w').write({text!r})")
    commands = [f"python3 {DIRECTORY}/sink.py"]
    for number, flags in enumerate(VARIANTS.values()):
        commands.append(
            f"$(ls /opt/roverwatch/vmagent/*/vmagent | tail -n 1) -httpListenAddr=127.0.0.1:{FIRST_PORT + number}"
            " -promscrape.config=/etc/roverwatch/vmagent/scrape.yml -enableMetadata=false -remoteWrite.queues=1"
            " -remoteWrite.relabelConfig=/etc/roverwatch/vmagent/relabel.yml -remoteWrite.forceVMProto=true"
            f" -remoteWrite.url=http://127.0.0.1:{SINK_PORT}/ -remoteWrite.tmpDataPath={DIRECTORY}/{number}"
            f" -memory.allowedBytes=16777216 -loggerLevel=ERROR {' '.join(flags)}"
        )
    inside("".join(f"{command} >/dev/null 2>&1 & echo $! >> {DIRECTORY}/pids\n" for command in commands))


def stop() -> None:
    waits = f"for pid in $(cat {DIRECTORY}/pids); do tail --pid=$pid -f /dev/null; done"
    inside(f"kill $(cat {DIRECTORY}/pids); {waits}; rm -rf {DIRECTORY}")


def measured(number: int, variant: str) -> Measured:
    metrics = fetch(ROBOT, f"http://127.0.0.1:{FIRST_PORT + number}/metrics")

    def of(name: str) -> float:
        found = re.search(rf"^{name} (\S+)$", metrics, re.MULTILINE)
        assert found, name
        return float(found[1])

    size = "vmagent_remotewrite_block_size"
    return Measured(
        variant,
        of(f"{size}_rows_count"),
        round(of(f"{size}_bytes_sum") / of(f"{size}_rows_sum"), 2),
        of("process_cpu_seconds_total"),
    )


def main() -> None:
    if ROBOT not in run("docker", "ps", "--format", "{{.Names}}").split():
        sys.exit("The demo is not running: make demo")
    start()
    try:
        time.sleep(SECONDS)
        found = [measured(number, variant) for number, variant in enumerate(VARIANTS)]
    finally:
        stop()
    interval = re.search(r"scrape_interval: (\S+)", inside("cat /etc/roverwatch/vmagent/scrape.yml"))
    assert interval
    write_results(
        "blocks", {"machine": machine(), "scrape_interval": interval[1], "variants": [asdict(one) for one in found]}
    )
    write_document(
        "bench/blocks.py",
        f"Measured on {machine()}, a scrape each {interval[1]}, for {SECONDS} s.\n\n"
        + table(
            ["blocks", "bytes a sample", "to the first", "CPU seconds of vmagent"],
            [
                [
                    one.variant,
                    f"{one.bytes_a_sample:.1f}",
                    f"{one.bytes_a_sample / found[0].bytes_a_sample:.2f}",
                    f"{one.cpu_seconds:.1f}",
                ]
                for one in found
            ],
        ),
    )


if __name__ == "__main__":
    main()
