"""Measures the sensor service: ``python -m bench.sensor [--minutes 30] [throughput] [start] [hang] [memory]``.

Writes bench/results/sensor.json, docs/img/sensor-*.svg and the tables of docs/performance.md. A part that is not
measured keeps the figures of its last run. Nothing else should be busy on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bench.images import FLAVOURS, build
from bench.report import RESULTS, machine, write_document, write_results
from bench.sensor import hey, pages, plots, soak, speed
from bench.sensor.services import CLIENT_CORE


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.sensor", description="Measure the sensor service.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"all of {', '.join(pages.PARTS)} if none is named")
    parser.add_argument("--minutes", type=float, default=2, help="of load for the memory (default: %(default)s)")
    arguments = parser.parse_args()
    parts = arguments.parts or list(pages.PARTS)
    if unknown := set(parts) - set(pages.PARTS):
        parser.error(f"no such part: {', '.join(unknown)}; there are {', '.join(pages.PARTS)}")

    if set(parts) != {"start"}:
        hey.program()
    images = {flavour: build(flavour) for flavour in FLAVOURS} if {"start", "memory"} & set(parts) else {}
    os.sched_setaffinity(0, {CLIENT_CORE})  # hey inherits it
    path = RESULTS / "sensor.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)  # for the container's user
        measure: dict[str, Callable[[], Any]] = {
            "throughput": partial(speed.throughput, directory),
            "start": partial(speed.start, directory, images),
            "hang": partial(speed.hang, directory),
            "memory": partial(soak.soak, directory, images, arguments.minutes),
        }
        for part in parts:
            results[part] = {"machine": machine(), "figures": measure[part]()}
            write_results("sensor", results)
            for target, measured, met in pages.targets(part, results[part]["figures"]):
                print(f"{'met   ' if met else 'MISSED'} {target}: {measured}", flush=True)
    for part, plot in (("throughput", plots.throughput), ("memory", plots.memory)):
        if part in results:
            plot(results[part]["figures"])
    write_document("bench/sensor", pages.page(results))


if __name__ == "__main__":
    main()
