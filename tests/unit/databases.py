"""A real VictoriaMetrics with the history of a robot or of a fleet."""

from __future__ import annotations

import json
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import binaries
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.backfill import remote_write, sample_counts
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.backfill.sample_counts import Counts

NOW = int(time.time()) // 60 * 60
START, END = NOW - 4 * 3600, NOW - 1800
Labels = Mapping[str, str]
Sample = tuple[int, float]


class Database:
    """A VictoriaMetrics as a robot or a hub has it."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def post(self, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None, **query: object) -> bytes:
        url = f"{self.url}{path}?{urllib.parse.urlencode(query, doseq=True)}"
        with urllib.request.urlopen(urllib.request.Request(url, body, dict(headers or {})), timeout=60) as response:
            answer: bytes = response.read()
        return answer

    def add(self, labels: Labels, samples: Sequence[Sample]) -> None:
        line = {"metric": labels, "values": [v for _, v in samples], "timestamps": [t for t, _ in samples]}
        text = json.dumps(line).replace("-Infinity", '"-Infinity"').replace(" Infinity", ' "Infinity"')
        self.post("/api/v1/import", text.replace("[Infinity", '["Infinity"').encode())
        self.post("/internal/force_flush")

    def add_stale(self, labels: Labels, timestamp: int) -> None:
        self.post("/api/v1/write", remote_write.stale_markers([(labels, [timestamp])]), remote_write.HEADERS)
        self.post("/internal/force_flush")

    def everything(self, robot: str = "robot-1") -> dict[str, list[tuple[int, object]]]:
        """Every sample of a robot; None is a marker of staleness."""
        self.post("/internal/force_flush")
        answer = self.post("/api/v1/export", **{"match[]": sample_counts.selector(robot)})
        series: dict[str, list[tuple[int, object]]] = {}
        for line in map(json.loads, answer.splitlines()):
            key = json.dumps(line["metric"], sort_keys=True)
            series.setdefault(key, []).extend(zip(line["timestamps"], line["values"], strict=True))
        return series

    def forget(self) -> None:
        self.post("/api/v1/admin/tsdb/delete_series", **{"match[]": '{robot!=""}'})

    def count(self, robot: str = "robot-1", start: int = START, end: int = END, window: int = 60) -> Counts:
        return sample_counts.count(self.url, robot, start, end, window)


@contextmanager
def database(folder: Path) -> Iterator[Database]:
    port = binaries.free_port()
    flags = ["-retentionPeriod=1y", "-dedup.minScrapeInterval=1ms", "-search.latencyOffset=5s", "-loggerLevel=WARN"]
    arguments = [f"-httpListenAddr=127.0.0.1:{port}", f"-storageDataPath={folder}/data", *flags]
    with binaries.running("victoriametrics", arguments, f"http://127.0.0.1:{port}/health"):
        yield Database(port)
