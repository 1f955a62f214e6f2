"""Limits against labels that explode, with the programs that have them."""

from __future__ import annotations

import http.server
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import binaries
import pytest
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.health import limits
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.query import promql
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.system import units

LIMIT = 400


class Exploding(http.server.BaseHTTPRequestHandler):
    """Metrics of which each scrape finds other ones, so many."""

    many, scrapes = 3, 0

    def do_GET(self) -> None:
        cls = type(self)
        cls.scrapes += 1
        lines = [f'some_metric{{id="{cls.scrapes}-{number}"}} 1\n' for number in range(cls.many)]
        self.send_response(200)
        self.end_headers()
        self.wfile.write("".join(lines).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def exploding() -> Iterator[tuple[type[Exploding], str]]:
    class Fresh(Exploding):
        pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Fresh)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Fresh, f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()


def scraped(tmp_path: Path, job: str, target: str, *limits_: int, label: str) -> list[str]:
    """The flags of a scraper whose unit's file is as units.layout writes it."""
    scrape = {"target": target, "job": job, "keep": "(some|vm_daily|vmagent_daily)_.+", "sample_limit": limits_[0]}
    (tmp_path / "scrape.d").mkdir(exist_ok=True)
    (tmp_path / "scrape.d" / f"{job}.yml").write_text(
        units.as_json(units.scrape_configs(f"roverwatch-{job}", scrape | {"series_limit": limits_[1]}))
    )
    config = tmp_path / "scrape.yml"
    config.write_text(
        f"global: {{scrape_interval: 1s, external_labels: {{{label}}}}}\n"
        f"scrape_config_files: [{tmp_path}/scrape.d/*.yml]\n"
    )
    return [f"-promscrape.config={config}"]


def found(url: str, hub: bool) -> list[limits.Finding]:
    """What is found at last: an increase takes two samples, and a value is shown some seconds late."""
    return binaries.eventually(lambda: limits.look(hub, url, 5), "no limit was reached")


@pytest.mark.parametrize(
    ("many", "limits_", "words"),
    [(9, (5, 1000), "has scrapes of 9 samples"), (5, (9, 12), "more series than its series_limit")],
    ids=["samples", "series"],
)
def test_a_service_over_its_limit(
    tmp_path: Path, exploding: tuple[type[Exploding], str], many: int, limits_: tuple[int, int], words: str
) -> None:
    service, target = exploding
    service.many = many
    address = f"127.0.0.1:{binaries.free_port()}"
    flags = [f"-httpListenAddr={address}", f"-storageDataPath={tmp_path / 'data'}", "-search.latencyOffset=0s"]
    flags += scraped(tmp_path, "sensor", target, *limits_, label="robot: robot-1")
    with binaries.running("victoriametrics", flags, f"http://{address}/health"):
        findings = found(f"http://{address}", hub=False)
        up = promql.query(f"http://{address}", 'up{job="sensor"}', 5)
    assert [(finding.unit, words in finding.what) for finding in findings] == [("roverwatch-sensor", True)]
    assert [sample.value for sample in up] == [0 if many > limits_[0] else 1]


def test_too_many_series_at_a_hub_and_whose_they_are(tmp_path: Path) -> None:
    address = f"127.0.0.1:{binaries.free_port()}"
    url = f"http://{address}"
    flags = [f"-httpListenAddr={address}", f"-storageDataPath={tmp_path / 'data'}", "-search.latencyOffset=0s"]
    flags += [f"-storage.maxDailySeries={LIMIT}"]
    flags += scraped(tmp_path, "victoriametrics", address, 5000, 5000, label="hub: hub-1")

    def dropped() -> float:
        found = promql.query(url, "vm_daily_series_limit_rows_dropped_total", 5)
        return found[0].value if found else -1

    with binaries.running("victoriametrics", flags, f"{url}/health"):
        binaries.eventually(lambda: dropped() >= 0, "no scrape")
        known = promql.query(url, "vm_daily_series_limit_current_series", 5)[0].value
        assert limits.look(True, url, 5) == []
        flood = "".join(f'flood{{robot="robot-7",id="{number}"}} 1\n' for number in range(2 * LIMIT))
        urllib.request.urlopen(f"{url}/api/v1/import/prometheus", flood.encode(), timeout=10).read()
        (finding,) = found(url, hub=True)
        taken = promql.query(url, "count(flood)", 5)[0].value
    assert known < LIMIT and taken < LIMIT
    assert finding.unit == "roverwatch-victoriametrics"
    assert f"; robot-7 has the most, {taken:.0f}" in finding.what
    assert finding.variable == "victoriametrics_daily_series_max"


def test_too_many_series_of_a_robot(tmp_path: Path, exploding: tuple[type[Exploding], str]) -> None:
    service, target = exploding
    service.many = 50
    database, agent = (f"127.0.0.1:{binaries.free_port()}" for _ in range(2))
    own = [f"-httpListenAddr={database}", f"-storageDataPath={tmp_path / 'data'}", "-search.latencyOffset=0s"]
    scraped(tmp_path, "vmagent", agent, 5000, 5000, label="robot: robot-1")
    push = [f"-remoteWrite.url=http://{database}/api/v1/write", f"-remoteWrite.tmpDataPath={tmp_path / 'queue'}"]
    push += ["-remoteWrite.maxDailySeries=300", f"-httpListenAddr={agent}"]
    push += scraped(tmp_path, "sensor", target, 5000, 50000, label="robot: robot-1")
    with (
        binaries.running("victoriametrics", own, f"http://{database}/health"),
        binaries.running("vmagent", push, f"http://{agent}/health"),
    ):
        (finding,) = found(f"http://{database}", hub=False)
    assert finding.unit == "roverwatch-vmagent"
    assert finding.variable == "vmagent_daily_series_max"


def test_a_history_that_does_not_answer_is_another_problem() -> None:
    assert limits.look(False, f"http://127.0.0.1:{binaries.free_port()}", 1) == []
